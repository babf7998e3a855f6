#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/frexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "native/linear_head.hpp"
#include "rows.hpp"

/// @file
/// The linear head on CUDA and in float64: logits, and products of their gradients with head and
/// hidden states, accumulated in the accumulation type.

namespace selm::ops {

/// Numbers in a half-precision type, as values / scale. float16 ends at 65504 and keeps few
/// digits below 6e-5, none below 6e-8, while an upstream gradient may have any size and is often
/// tiny: the mean over a batch, times beta. A power of two adds no rounding of its own.
struct Narrowed {
  at::Tensor values;
  at::Tensor scale;  ///< undefined for bfloat16, which has the range of float32

  /// `bound` broadcasts against `wide`, and nothing in `wide` is larger than it.
  static Narrowed make(const at::Tensor& wide, at::ScalarType type, const at::Tensor& bound) {
    if (type != at::kHalf) {
      return {wide.to(type), {}};
    }
    const at::Tensor scale = scale_to_half_range(bound);
    at::Tensor values = at::empty(wide.sizes(), wide.options().dtype(type));
    at::mul_out(values, wide, scale);  // one pass, without a scaled copy in float32
    return {values, scale};
  }

  /// What a product of `values` is without their scale, in place.
  at::Tensor unscaled(const at::Tensor& product) const {
    return scale.defined() ? product.div_(scale) : product;
  }

  /// The power of two that brings `bound` into [2^14, 2^15), just below the largest float16.
  static at::Tensor scale_to_half_range(const at::Tensor& bound) {
    const at::Tensor positive = bound.clamp_min(0x1p-100);  // its inverse is finite
    const at::Tensor mantissa = std::get<0>(at::frexp(positive));
    return (mantissa * 0x1p15).div_(positive);
  }
};

/// Products with vocabulary entries [first, first + width) of the head.
class Head {
 public:
  explicit Head(const ScoredRows& rows)
      : weight_(rows.weight),
        wide_(accumulation_type(rows.weight)),
        slope_(rows.transform[1] / rows.transform[0]) {
    if (rows.bias) {
      bias_ = *rows.bias;
    }
  }

  /// Of operands, and of gradients of logits.
  at::ScalarType type() const { return weight_.scalar_type(); }

  /// The power of two that gradients of logits are multiplied by before they are narrowed: no
  /// d logp / d logits is larger than the slope of the transform.
  double gradient_scale() const {
    int exponent = 0;
    std::frexp(slope_, &exponent);
    constexpr int largest_exponent = 126;  // of float, as its inverse
    return type() == at::kHalf ? std::ldexp(1.0, std::min(15 - exponent, largest_exponent)) : 1.0;
  }

  /// `wide` as an operand.
  Narrowed narrowed(const at::Tensor& wide) const {
    return Narrowed::make(wide, type(), type() == at::kHalf ? wide.abs().amax() : at::Tensor());
  }

  /// hidden W^T + bias into `out`, (rows, width), accumulated and stored in the accumulation type.
  void logits(const at::Tensor& hidden, std::int64_t first, at::Tensor& out) const {
    const at::Tensor weight = block(first, out.size(1)).t();
    if (is_wide()) {
      at::mm_out(out, hidden, weight);
    } else {
      at::mm_out(out, hidden, weight, wide_);
    }
    if (bias_.defined()) {
      out.add_(bias_.narrow(0, first, out.size(1)).to(wide_));
    }
  }

  /// sum += gradients W, (rows, hidden) in the accumulation type.
  void add_hidden_grad(const at::Tensor& gradients, std::int64_t first, at::Tensor& sum) const {
    const at::Tensor weight = block(first, gradients.size(1));
    if (is_wide()) {
      sum.addmm_(gradients, weight);
    } else {
      at::addmm_out(sum, sum, gradients, weight, wide_);
    }
  }

  /// gradients^T hidden into the block's rows of `out`, (vocab, n): summed over all rows in the
  /// accumulation type and rounded once.
  void weight_grad(const at::Tensor& gradients, const Narrowed& hidden, std::int64_t first,
                   const at::Tensor& out) const {
    at::Tensor part = out.narrow(0, first, gradients.size(1));
    if (is_wide()) {
      at::mm_out(part, gradients.t(), hidden.values);
    } else {
      part.copy_(hidden.unscaled(at::mm(gradients.t(), hidden.values, wide_)));
    }
  }

  /// gradients^T factors into the block's part of `out`, (vocab,).
  void bias_grad(const at::Tensor& gradients, const at::Tensor& factors, std::int64_t first,
                 const at::Tensor& out) const {
    weight_grad(gradients, narrowed(factors), first, out.unsqueeze(1));
  }

 private:
  bool is_wide() const { return type() == wide_; }
  at::Tensor block(std::int64_t first, std::int64_t width) const {
    return weight_.narrow(0, first, width);
  }

  at::Tensor weight_;
  at::Tensor bias_;
  at::ScalarType wide_;
  double slope_;
};

}  // namespace selm::ops
