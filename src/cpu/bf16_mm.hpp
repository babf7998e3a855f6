#pragma once

#include <ATen/core/Tensor.h>

/// @file
/// Products of bfloat16 matrices on the CPU with a float32 result, as at::mm with an output type
/// gives them on CUDA, or with a result that is rounded once.

namespace selm::cpu {

/// Whether this machine multiplies bfloat16 matrices in hardware, and torch's oneDNN may be used.
bool has_bf16_mm();

/// c = a b, or c += a b: (m, n) float32 from (m, k) and (k, n) bfloat16, summed in float32. c may
/// also be bfloat16, rounded once, if nothing is added to it. Rows of `a` and `c` are contiguous;
/// `b` has contiguous rows or contiguous columns. An element's bits depend on its row and column
/// alone, not on the other rows or the number of threads. Only where `has_bf16_mm()`.
void bf16_mm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, bool accumulate);

}  // namespace selm::cpu
