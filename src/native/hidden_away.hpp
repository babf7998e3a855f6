#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

namespace selm::ops {

/// Gradients of the first rows' logits behind a tensor of one byte: how many there are depends on
/// the labels, and what autograd saves must have a size that does not (torch.compile asks for it).
struct HiddenAway {
  static at::Tensor make(std::int64_t count, std::int64_t vocab, const at::TensorOptions& options) {
    const auto bytes = static_cast<std::int64_t>(options.dtype().itemsize());
    return at::empty({std::max<std::int64_t>(count * vocab * bytes, 1)}, options.dtype(at::kByte))
        .narrow(0, 0, 1);
  }

  /// (count, vocab). Without rows where the byte came back alone, because the tensor was copied.
  static at::Tensor find(const at::Tensor& byte, std::int64_t count, std::int64_t vocab,
                         const at::TensorOptions& options) {
    const auto bytes = static_cast<std::size_t>(count * vocab) * options.dtype().itemsize();
    const bool present = byte.storage().nbytes() >= bytes;
    return at::empty({0}, options)
        .set_(byte.storage(), 0, {present ? count : 0, vocab}, {vocab, 1});
  }
};

}  // namespace selm::ops
