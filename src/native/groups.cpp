#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <vector>

#include "cpu/bf16_mm.hpp"
#include "cpu/head_rows.hpp"
#include "native/block_gradients.hpp"
#include "native/hidden_away.hpp"
#include "native/linear_head.hpp"
#include "rows.hpp"

// linear_logps by groups of the vocabulary: the head is read once, a group of logits never leaves
// the cache, and of all that is of the vocabulary's size only the kept gradients exist.

namespace selm::ops {
namespace {

/// Matrix products with vocabulary entries [first, first + width) of the head. Operands are
/// bfloat16 where this machine multiplies it, else float32; sums are float32.
class GroupProducts {
 public:
  explicit GroupProducts(const ScoredRows& rows)
      : weight_(with_contiguous_rows(rows.weight)),
        narrow_(weight_.scalar_type() == at::kBFloat16 && cpu::has_bf16_mm()) {
    if (rows.bias) {
      bias_ = rows.bias->to(at::kFloat);
    }
  }

  at::ScalarType type() const { return narrow_ ? at::kBFloat16 : at::kFloat; }

  /// Logits into (rows, width).
  void logits(const at::Tensor& hidden, std::int64_t first, at::Tensor& out) const {
    const at::Tensor weight = group(first, out.size(1));
    if (narrow_) {
      cpu::bf16_mm(hidden, weight.t(), out, false);
    } else {
      at::mm_out(out, hidden, weight.t());
    }
    if (bias_.defined()) {
      out.add_(bias_.narrow(0, first, out.size(1)));
    }
  }

  /// sum += gradients W, (rows, hidden).
  void add_hidden_grad(const at::Tensor& gradients, std::int64_t first, at::Tensor& sum) const {
    const at::Tensor weight = group(first, gradients.size(1));
    if (narrow_) {
      cpu::bf16_mm(gradients, weight, sum, true);
    } else {
      sum.addmm_(gradients, weight);
    }
  }

  /// gradients^T hidden into the group's rows of `out`, (vocab, hidden): summed over all rows in
  /// float32 and rounded once.
  void weight_grad(const at::Tensor& gradients, const at::Tensor& hidden, std::int64_t first,
                   const at::Tensor& out) const {
    at::Tensor part = out.narrow(0, first, gradients.size(1));
    if (out.scalar_type() == type()) {
      at::mm_out(part, gradients.t(), hidden);
    } else {
      part.copy_(at::mm(gradients.t(), hidden));
    }
  }

  /// gradients^T factors into the group's part of `out`, (vocab,).
  void bias_grad(const at::Tensor& gradients, const at::Tensor& factors, std::int64_t first,
                 const at::Tensor& out) const {
    out.narrow(0, first, gradients.size(1))
        .copy_(at::mv(gradients.to(at::kFloat).t(), factors.squeeze(1)));
  }

 private:
  at::Tensor group(std::int64_t first, std::int64_t width) const {
    return weight_.narrow(0, first, width).to(type());
  }

  at::Tensor weight_;
  at::Tensor bias_;
  bool narrow_;
};

/// How the workspace is divided. Backward finds what forward kept by dividing it again.
struct Plan {
  std::int64_t width;  ///< vocabulary entries of a group
  std::int64_t groups;
  std::int64_t kept;  ///< rows whose logit gradients are kept

  static constexpr std::int64_t widest = 1024;

  static Plan make(std::int64_t count, std::int64_t vocab, std::int64_t workspace_bytes,
                   at::ScalarType gradient_type) {
    constexpr std::int64_t cached_bytes = std::int64_t{1} << 24;
    constexpr std::int64_t narrowest = 16;
    const std::int64_t column = std::max<std::int64_t>(count, 1) * entry_bytes(gradient_type);
    const std::int64_t tile = std::min(cached_bytes, workspace_bytes / 2);
    const std::int64_t width = std::clamp(tile / column / narrowest * narrowest, narrowest, widest);
    const std::int64_t groups = (vocab + width - 1) / width;
    const std::int64_t row = vocab * bytes_of(gradient_type) + groups * bytes_of(at::kFloat);
    const std::int64_t left = std::max<std::int64_t>(workspace_bytes - width * column, 0);
    return {width, groups, std::min(count, left / row)};
  }

  /// How many rows the workspace holds with all of their gradients, a byte per token for the maxima
  /// of narrow groups, and a wide group of logits; at least one.
  static std::int64_t rows_at_once(const ScoredRows& rows, at::ScalarType gradient_type) {
    const std::int64_t row =
        rows.vocab() * (bytes_of(gradient_type) + 1) + widest * entry_bytes(gradient_type);
    return std::clamp<std::int64_t>(rows.workspace_bytes / row, 1,
                                    std::max<std::int64_t>(rows.count(), 1));
  }

  template <typename Visit>
  void for_each_group(std::int64_t vocab, Visit visit) const {
    for (std::int64_t g = 0; g < groups; ++g) {
      visit(g, g * width, std::min(width, vocab - g * width));
    }
  }

 private:
  static std::int64_t bytes_of(at::ScalarType type) {
    return static_cast<std::int64_t>(c10::elementSize(type));
  }

  /// Of a logit and its gradient.
  static std::int64_t entry_bytes(at::ScalarType gradient_type) {
    return bytes_of(at::kFloat) + bytes_of(gradient_type);
  }
};

Plan plan_of(const ScoredRows& rows, at::ScalarType gradient_type) {
  return Plan::make(rows.count(), rows.vocab(), rows.workspace_bytes, gradient_type);
}

template <typename Visit>
void dispatch(at::ScalarType gradient_type, Visit visit) {
  if (gradient_type == at::kBFloat16) {
    visit(at::BFloat16());
  } else {
    visit(float());
  }
}

cpu::HeadRows head_rows(const ScoredRows& rows, std::int64_t first, std::int64_t count) {
  return {count, rows.vocab(), rows.labels.const_data_ptr<std::int64_t>() + first,
          rows.logit_transform<float>()};
}

/// A contiguous (rows, width) matrix at the beginning of `scratch`.
at::Tensor leading(const at::Tensor& scratch, std::int64_t rows, std::int64_t width) {
  return scratch.narrow(0, 0, rows * width).view({rows, width});
}

/// Scores rows [first, first + count), whose hidden states are `hidden`, and leaves the logit
/// gradients of the first rows in `kept`.
void score(const ScoredRows& rows, const GroupProducts& products, const Plan& plan,
           const at::Tensor& hidden, std::int64_t first, const at::Tensor& kept,
           const HeadOutputs& out) {
  const std::int64_t count = hidden.size(0);
  const at::TensorOptions wide = hidden.options().dtype(at::kFloat);
  const at::Tensor scratch = at::empty({count * plan.width}, wide);
  const at::Tensor maxima = at::empty({kept.size(0), plan.groups}, wide);
  std::vector<cpu::RunningRow> running(static_cast<std::size_t>(count));
  const cpu::HeadRows span = head_rows(rows, first, count);
  const RowStatisticsOutputs statistics = out.statistics_pointers(first);
  dispatch(kept.scalar_type(), [&](auto example) {
    using Gradient = decltype(example);
    const cpu::KeptRows<Gradient> kept_rows{kept.mutable_data_ptr<Gradient>(),
                                            maxima.mutable_data_ptr<float>(), kept.size(0),
                                            plan.groups};
    plan.for_each_group(rows.vocab(), [&](std::int64_t g, std::int64_t begin, std::int64_t width) {
      at::Tensor logits = leading(scratch, count, width);
      products.logits(hidden, begin, logits);
      cpu::sum_group(span, {logits.mutable_data_ptr<float>(), begin, width}, g, statistics.any(),
                     running.data(), kept_rows);
    });
    cpu::finish_rows(span, plan.width, running.data(), kept_rows,
                     {out.logps.mutable_data_ptr<float>() + first,
                      out.summary.mutable_data_ptr<float>() + 3 * first, statistics});
  });
}

/// The head is frozen: as many rows at once as the workspace holds are scored and differentiated.
void score_and_differentiate(const ScoredRows& rows, const GroupProducts& products,
                             const at::Tensor& hidden, const HeadOutputs& out) {
  const std::int64_t step = Plan::rows_at_once(rows, products.type());
  const Plan plan = Plan::make(step, rows.vocab(), rows.workspace_bytes, products.type());
  const at::Tensor kept = at::empty({step, rows.vocab()}, hidden.options());
  for (std::int64_t first = 0; first < rows.count(); first += step) {
    const std::int64_t count = std::min(step, rows.count() - first);
    const at::Tensor part = kept.narrow(0, 0, count);
    score(rows, products, plan, hidden.narrow(0, first, count), first, part, out);
    at::Tensor sum = out.hidden_grad.narrow(0, first, count).zero_();
    plan.for_each_group(rows.vocab(), [&](std::int64_t, std::int64_t begin, std::int64_t width) {
      products.add_hidden_grad(part.narrow(1, begin, width), begin, sum);
    });
  }
}

/// d loss / d logits of a group for all rows.
///
/// One number per row multiplies the gradients of its log-probability: a factor. A gradient of the
/// entropy has another shape: then all rows are computed anew, with both numbers, and the factors
/// are 1.
class GroupGradients final : public BlockGradients {
 public:
  GroupGradients(const ScoredRows& rows, const GroupProducts& products, const Plan& plan,
                 const HeadUpstreamGradients& upstream, const at::Tensor& hidden)
      : BlockGradients(HiddenAway::find(upstream.kept, upstream.entropy.defined() ? 0 : plan.kept,
                                        rows.vocab(), hidden.options()),
                       upstream.entropy.defined()
                           ? at::ones({rows.count(), 1}, upstream.logps.options())
                           : upstream.logps.unsqueeze(1),
                       plan.width),
        rows_(rows),
        products_(products),
        upstream_(upstream),
        hidden_(hidden) {
    if (computed() > 0) {
      scratch_ = at::empty({computed() * plan.width}, upstream.logps.options());
    }
  }

 private:
  void compute(std::int64_t first, const at::Tensor& out) const override {
    const std::int64_t width = out.size(1);
    at::Tensor logits = leading(scratch_, computed(), width);
    products_.logits(hidden_.narrow(0, begin(), computed()), first, logits);
    cpu::HeadUpstream upstream{};
    if (upstream_.entropy.defined()) {  // of all rows: the first one is 0
      upstream = {upstream_.logps.const_data_ptr<float>(),
                  upstream_.entropy.const_data_ptr<float>(),
                  upstream_.entropy_values.const_data_ptr<float>()};
    }
    dispatch(out.scalar_type(), [&](auto example) {
      using Gradient = decltype(example);
      cpu::group_gradient(head_rows(rows_, begin(), computed()),
                          {logits.mutable_data_ptr<float>(), first, width},
                          upstream_.summary.const_data_ptr<float>() + 3 * begin(), upstream,
                          out.mutable_data_ptr<Gradient>(), out.stride(0));
    });
  }

  const ScoredRows& rows_;
  const GroupProducts& products_;
  const HeadUpstreamGradients& upstream_;
  at::Tensor hidden_;
  at::Tensor scratch_;
};

}  // namespace

at::Tensor forward_by_groups(const ScoredRows& rows, ForBackward wanted, const HeadOutputs& out) {
  const GroupProducts products(rows);
  const Plan plan = plan_of(rows, products.type());
  const at::Tensor hidden = rows.hidden.to(products.type());
  const std::int64_t count = wanted == ForBackward::logit_grads ? plan.kept : 0;
  const at::Tensor kept = HiddenAway::make(count, rows.vocab(), hidden.options());
  if (wanted == ForBackward::hidden_grad) {
    score_and_differentiate(rows, products, hidden, out);
  } else {
    score(rows, products, plan, hidden, 0,
          HiddenAway::find(kept, count, rows.vocab(), hidden.options()), out);
  }
  return wanted == ForBackward::logit_grads ? kept : kept.narrow(0, 0, 0);
}

void backward_by_groups(const ScoredRows& rows, const HeadUpstreamGradients& upstream,
                        HeadGradients& out) {
  const GroupProducts products(rows);
  const Plan plan = plan_of(rows, products.type());
  const at::Tensor hidden = rows.hidden.to(products.type());
  const GroupGradients gradients(rows, products, plan, upstream, hidden);
  const at::Tensor scaled_hidden =
      out.weight.defined() ? (rows.hidden * gradients.factors()).to(products.type()) : at::Tensor();
  backward_by_blocks(rows.vocab(), plan.width, products, gradients, scaled_hidden, out);
}

}  // namespace selm::ops
