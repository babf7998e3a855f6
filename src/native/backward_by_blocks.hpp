#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

#include "native/linear_head.hpp"

namespace selm::ops {

/// The backward pass of linear_logps by blocks of the vocabulary, at most `width` wide.
///
/// `gradients(first, width)` are those of a block's logits for all rows, (rows, width), up to
/// `gradients.factors()`, (rows, 1): one number per row multiplies hidden states and results
/// instead. `products` adds to the gradient of the hidden states and writes its part of the others;
/// `scaled_hidden` is what it takes for hidden states times factors.
template <typename Products, typename Gradients, typename Hidden>
void backward_by_blocks(std::int64_t vocab, std::int64_t width, const Products& products,
                        const Gradients& gradients, const Hidden& scaled_hidden,
                        HeadGradients& out) {
  for (std::int64_t first = 0; first < vocab; first += width) {
    const at::Tensor block = gradients(first, std::min(width, vocab - first));
    if (out.hidden.defined()) {
      products.add_hidden_grad(block, first, out.hidden);
    }
    if (out.weight.defined()) {
      products.weight_grad(block, scaled_hidden, first, out.weight);
    }
    if (out.bias.defined()) {
      products.bias_grad(block, gradients.factors(), first, out.bias);
    }
  }
  if (out.hidden.defined()) {
    out.hidden.mul_(gradients.factors());
  }
}

}  // namespace selm::ops
