#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <cstdint>

#include "cpu/bf16_mm.hpp"
#include "native/linear_head.hpp"
#include "rows.hpp"

namespace selm::ops {

/// Matrix products with vocabulary entries [first, first + width) of the head on the CPU. Operands
/// are bfloat16 where this machine multiplies it, else float32; sums are float32.
class GroupProducts {
 public:
  explicit GroupProducts(const ScoredRows& rows)
      : rows_(rows.count()),
        weight_(rows.weight.stride(0) == 1 ? rows.weight : with_contiguous_rows(rows.weight)),
        narrow_(weight_.scalar_type() == at::kBFloat16 && cpu::has_bf16_mm()),
        hidden_(rows.hidden.to(type())) {
    if (rows.bias) {
      bias_ = *rows.bias;
    }
  }

  at::ScalarType type() const { return narrow_ ? at::kBFloat16 : at::kFloat; }
  std::int64_t type_bytes() const { return static_cast<std::int64_t>(c10::elementSize(type())); }

  /// Whether a group of the head and its gradient exist a second time, in the operands' type.
  bool copies_head() const { return weight_.scalar_type() != type(); }

  /// For each entry of a group, where there are such copies.
  std::int64_t copied_bytes() const {
    return copies_head() ? 2 * weight_.size(1) * type_bytes() : 0;
  }

  std::int64_t head_bytes_of_token() const {
    return weight_.size(1) * static_cast<std::int64_t>(weight_.itemsize());
  }

  /// Logits into (rows, width).
  void logits(std::int64_t first, at::Tensor& out) const {
    const at::Tensor weight = group(first, out.size(1));
    if (narrow_) {
      cpu::bf16_mm(hidden_, weight.t(), out, false);
    } else {
      at::mm_out(out, hidden_, weight.t());
    }
    if (bias_.defined()) {
      out.add_(bias_.narrow(0, first, out.size(1)).to(at::kFloat));
    }
  }

  /// When they have been used for the last time.
  void release_hidden() { hidden_.reset(); }

  /// For a sum of gradients of hidden states, (rows, hidden) in float32, in the layout in which
  /// torch's product is fast.
  at::Tensor empty_sum() const {
    const std::int64_t width = weight_.size(1);
    return exchanges() ? at::empty({width, rows_}, sum_options()).t()
                       : at::empty({rows_, width}, sum_options());
  }

  /// sum += gradients W; what is there is overwritten by the first group.
  void add_hidden_grad(const at::Tensor& gradients, std::int64_t first, at::Tensor& sum) const {
    const at::Tensor weight = group(first, gradients.size(1));
    if (narrow_) {
      cpu::bf16_mm(gradients, weight, sum, first > 0);
    } else if (first > 0) {
      sum.addmm_(gradients, weight);
    } else {
      at::mm_out(sum, gradients, weight);
    }
  }

  /// The same into a tensor that is allocated with the first group. Where that is the only one,
  /// hidden states are released first, which have been used, and the result is contiguous and has
  /// the operands' type.
  void hidden_grad(const at::Tensor& gradients, std::int64_t first, at::Tensor& out) {
    if (gradients.size(1) == weight_.size(0)) {
      release_hidden();
      out = at::empty({rows_, weight_.size(1)}, sum_options().dtype(type()));
      whole_hidden_grad(gradients, out);
      return;
    }
    if (first == 0) {
      out = empty_sum();
    }
    add_hidden_grad(gradients, first, out);
  }

  /// gradients^T hidden into the group's rows of `out`, (vocab, hidden): summed over all rows in
  /// float32 and rounded once.
  void weight_grad(const at::Tensor& gradients, std::int64_t first, const at::Tensor& out) const {
    at::Tensor part = out.narrow(0, first, gradients.size(1));
    if (copies_head()) {
      part.copy_(at::mm(gradients.t(), hidden_));
    } else {
      at::mm_out(part, gradients.t(), hidden_);
    }
  }

  /// The sum of gradients over rows into the group's part of `out`, (vocab,) in float32.
  void bias_grad(const at::Tensor& gradients, std::int64_t first, const at::Tensor& out) const {
    at::Tensor part = out.narrow(0, first, gradients.size(1));
    if (narrow_) {  // torch's sum would make a float32 copy
      cpu::bf16_mm(at::ones({1, gradients.size(0)}, gradients.options()), gradients,
                   part.unsqueeze(0), false);
    } else {
      at::sum_out(part, gradients, at::IntArrayRef{0}, false);
    }
  }

 private:
  /// For few rows torch's product is up to a third faster with rows and columns exchanged.
  bool exchanges() const {
    constexpr std::int64_t few = 512;
    return !narrow_ && rows_ < few;
  }

  at::TensorOptions sum_options() const {
    return weight_.options().dtype(at::kFloat).requires_grad(false);
  }

  /// gradients W for the whole vocabulary. With rows and columns exchanged some columns of the
  /// result are made at a time: a second one is not held.
  void whole_hidden_grad(const at::Tensor& gradients, at::Tensor& out) const {
    if (!exchanges()) {
      add_hidden_grad(gradients, 0, out);
      return;
    }
    constexpr std::int64_t columns = 512;
    const at::Tensor weight = group(0, weight_.size(0));
    for (std::int64_t first = 0; first < out.size(1); first += columns) {
      const std::int64_t count = std::min(columns, out.size(1) - first);
      at::Tensor part = out.narrow(1, first, count);
      part.copy_(at::mm(weight.narrow(1, first, count).t(), gradients.t()).t());
    }
  }

  at::Tensor group(std::int64_t first, std::int64_t width) const {
    return weight_.narrow(0, first, width).to(type());
  }

  std::int64_t rows_;
  at::Tensor weight_;
  at::Tensor bias_;
  bool narrow_;
  at::Tensor hidden_;
};

}  // namespace selm::ops
