#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "native/linear_head.hpp"

namespace selm::ops {

/// The backward pass of linear_logps by blocks of the vocabulary.
///
/// `gradients(first)` are those of the logits of a block that begins at `first`, for all rows,
/// (rows, width). `products` writes its part of the gradients, or adds to that of the hidden
/// states, which come last.
template <typename Products, typename Gradients>
void backward_by_blocks(std::int64_t vocab, Products& products, Gradients& gradients,
                        HeadGradients& out) {
  for (std::int64_t first = 0; first < vocab;) {
    const at::Tensor block = gradients(first);
    if (out.weight.defined()) {
      products.weight_grad(block, first, out.weight);
    }
    if (out.bias.defined()) {
      products.bias_grad(block, first, out.bias);
    }
    if (out.needs_hidden) {
      products.hidden_grad(block, first, out.hidden);
    }
    first += block.size(1);
  }
}

}  // namespace selm::ops
