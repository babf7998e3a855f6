#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

#include "native/linear_head.hpp"

/// @file
/// The backward pass of linear_logps by blocks of the vocabulary, for both drivers.

namespace selm::ops {

/// Gradients of the logits of a block of the vocabulary for all rows: those of the first rows as
/// the forward pass kept them, the others computed anew.
class BlockGradients {
 public:
  virtual ~BlockGradients() = default;

  /// (rows, 1), in the accumulation type: what the gradients are to be multiplied by. It multiplies
  /// hidden states and results instead.
  const at::Tensor& factors() const { return factors_; }

  /// (rows, width), with contiguous rows.
  at::Tensor operator()(std::int64_t first, std::int64_t width) const {
    const at::Tensor stored = kept_.narrow(1, first, width);
    if (computed() == 0) {
      return stored;
    }
    const at::Tensor all = gradients_.narrow(1, 0, width);
    all.narrow(0, 0, begin()).copy_(stored);
    compute(first, all.narrow(0, begin(), computed()));
    return all;
  }

 protected:
  /// `kept`: (first rows, vocab). Blocks are at most `width` wide.
  BlockGradients(const at::Tensor& kept, const at::Tensor& factors, std::int64_t width)
      : kept_(kept), factors_(factors) {
    if (computed() > 0) {
      gradients_ = at::empty({factors.size(0), width}, kept.options());
    }
  }

  /// First row that is computed, and how many are.
  std::int64_t begin() const { return kept_.size(0); }
  std::int64_t computed() const { return factors_.size(0) - begin(); }

  /// Gradients of the computed rows for the block that begins at vocabulary entry `first`.
  virtual void compute(std::int64_t first, const at::Tensor& out) const = 0;

 private:
  at::Tensor kept_;
  at::Tensor factors_;
  at::Tensor gradients_;
};

/// Multiplies the gradients of each block. `products` adds to the gradient of the hidden states and
/// writes its part of the others; `scaled_hidden` is what it takes for hidden states times factors.
template <typename Products, typename Hidden>
void backward_by_blocks(std::int64_t vocab, std::int64_t width, const Products& products,
                        const BlockGradients& gradients, const Hidden& scaled_hidden,
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
