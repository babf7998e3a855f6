#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/frexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "rows.hpp"

/// @file
/// The linear head for tiles of rows: their logits, and products of their gradients with head and
/// hidden states, accumulated in the accumulation type. Half precision is CUDA's alone.

namespace selm::ops {

/// Gradients in a half-precision type, as values / scale. float16 ends at 65504 and keeps few
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

class Head {
 public:
  Head(const at::Tensor& weight, const std::optional<at::Tensor>& bias)
      : weight_(weight), type_(accumulation_type(weight)) {
    if (bias) {
      bias_ = bias->to(type_);
    }
  }

  /// Whether products of gradients read their `bound`.
  bool scales_gradients() const { return weight_.is_cuda() && weight_.scalar_type() == at::kHalf; }

  /// rows W^T + bias, (rows, vocab), accumulated and stored in the accumulation type.
  at::Tensor logits(const at::Tensor& rows) const {
    at::Tensor tile = product(rows);
    if (bias_) {
      tile.add_(*bias_);
    }
    return tile;
  }

  /// d_logits W, (rows, hidden). Nothing in a row of d_logits is larger than its `bound`, (rows,
  /// 1).
  at::Tensor d_hidden(const at::Tensor& d_logits, const at::Tensor& bound) const {
    if (is_wide()) {
      return at::mm(d_logits, weight_);
    }
    const Narrowed narrowed = Narrowed::make(d_logits, weight_.scalar_type(), bound);
    return narrowed.unscaled(at::mm(narrowed.values, weight_, type_));
  }

  /// sum += d_logits^T rows, (vocab, hidden) in the accumulation type. Rows are added, so that they
  /// have one scale.
  void add_d_weight(const at::Tensor& d_logits, const at::Tensor& bound, const at::Tensor& rows,
                    at::Tensor& sum) const {
    if (is_wide()) {
      sum.addmm_(d_logits.t(), rows);
      return;
    }
    const at::Tensor largest = bound.defined() ? bound.max() : bound;
    const Narrowed narrowed = Narrowed::make(d_logits, rows.scalar_type(), largest);
    sum.add_(narrowed.unscaled(at::mm(narrowed.values.t(), rows, type_)));
  }

 private:
  bool is_wide() const { return weight_.scalar_type() == type_; }

  at::Tensor product(const at::Tensor& rows) const {
    return is_wide() ? at::mm(rows, weight_.t()) : at::mm(rows, weight_.t(), type_);
  }

  at::Tensor weight_;
  std::optional<at::Tensor> bias_;
  at::ScalarType type_;
};

}  // namespace selm::ops
