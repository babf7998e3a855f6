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
/// The linear head as linear_logps needs it: a tile of logits, and products of a tile's gradients
/// with head and hidden states, accumulated in the accumulation type whatever the operands' type.

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
    if (weight_.is_cuda()) {
      const Narrowed narrowed = Narrowed::make(d_logits, weight_.scalar_type(), bound);
      return narrowed.unscaled(at::mm(narrowed.values, weight_, type_));
    }
    at::Tensor sum = at::zeros({d_logits.size(0), weight_.size(1)}, d_logits.options());
    for_each_block([&](std::int64_t first, std::int64_t count) {
      sum.addmm_(d_logits.narrow(1, first, count), weight_.narrow(0, first, count).to(type_));
    });
    return sum;
  }

  /// sum += d_logits^T rows, (vocab, hidden) in the accumulation type. Rows are added, so that they
  /// have one scale.
  void add_d_weight(const at::Tensor& d_logits, const at::Tensor& bound, const at::Tensor& rows,
                    at::Tensor& sum) const {
    if (!is_wide() && weight_.is_cuda()) {
      const at::Tensor largest = bound.defined() ? bound.max() : bound;
      const Narrowed narrowed = Narrowed::make(d_logits, rows.scalar_type(), largest);
      sum.add_(narrowed.unscaled(at::mm(narrowed.values.t(), rows, type_)));
    } else {
      sum.addmm_(d_logits.t(), rows.to(type_));
    }
  }

 private:
  /// Vocabulary rows of the weight that are widened to float32 at once, where products of
  /// half-precision matrices cannot give float32 (on the CPU).
  static constexpr std::int64_t widened_rows = 4096;

  std::int64_t vocab() const { return weight_.size(0); }

  bool is_wide() const { return weight_.scalar_type() == type_; }

  template <typename Visit>
  void for_each_block(Visit visit) const {
    for (std::int64_t first = 0; first < vocab(); first += widened_rows) {
      visit(first, std::min(widened_rows, vocab() - first));
    }
  }

  at::Tensor product(const at::Tensor& rows) const {
    if (is_wide()) {
      return at::mm(rows, weight_.t());
    }
    if (weight_.is_cuda()) {
      return at::mm(rows, weight_.t(), type_);
    }
    const at::Tensor wide_rows = rows.to(type_);
    at::Tensor tile = at::empty({rows.size(0), vocab()}, wide_rows.options());
    for_each_block([&](std::int64_t first, std::int64_t count) {
      at::Tensor block = tile.narrow(1, first, count);
      at::mm_out(block, wide_rows, weight_.narrow(0, first, count).to(type_).t());
    });
    return tile;
  }

  at::Tensor weight_;
  std::optional<at::Tensor> bias_;
  at::ScalarType type_;
};

}  // namespace selm::ops
