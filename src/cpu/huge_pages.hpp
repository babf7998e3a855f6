#pragma once

#include <ATen/core/Tensor.h>

namespace selm::cpu {

/// Asks for large memory pages under a new tensor, where the system gives them on request (Linux).
/// Touching memory for the first time costs a tenth with them, and a gradient of a head has tens of
/// thousands of small ones. Nothing happens for small tensors and those of other devices.
void prefer_huge_pages(const at::Tensor& tensor);

}  // namespace selm::cpu
