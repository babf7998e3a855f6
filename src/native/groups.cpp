#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <vector>

#include "cpu/bf16_mm.hpp"
#include "cpu/head_rows.hpp"
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

  static Plan make(const ScoredRows& rows, at::ScalarType gradient_type) {
    constexpr std::int64_t cached_bytes = std::int64_t{1} << 24;
    constexpr std::int64_t narrowest = 16, widest = 1024;
    const auto bytes = static_cast<std::int64_t>(c10::elementSize(gradient_type));
    const std::int64_t column = std::max<std::int64_t>(rows.count(), 1) *
                                (static_cast<std::int64_t>(sizeof(float)) + bytes);
    const std::int64_t tile = std::min(cached_bytes, rows.workspace_bytes / 2);
    const std::int64_t fitting = tile / column / narrowest * narrowest;
    const std::int64_t width = std::clamp(fitting, narrowest, widest);
    const std::int64_t groups = (rows.vocab() + width - 1) / width;
    const std::int64_t row =
        rows.vocab() * bytes + groups * static_cast<std::int64_t>(sizeof(float));
    const std::int64_t left = std::max<std::int64_t>(rows.workspace_bytes - width * column, 0);
    return {width, groups, std::min(rows.count(), left / row)};
  }

  template <typename Visit>
  void for_each_group(std::int64_t vocab, Visit visit) const {
    for (std::int64_t g = 0; g < groups; ++g) {
      visit(g, g * width, std::min(width, vocab - g * width));
    }
  }
};

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
                             const Plan& plan, const at::Tensor& hidden, const HeadOutputs& out) {
  const std::int64_t step = std::max<std::int64_t>(plan.kept, 1);
  const at::Tensor kept = at::empty({std::min(step, rows.count()), rows.vocab()}, hidden.options());
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

cpu::HeadUpstream pointers(const HeadUpstreamGradients& upstream) {
  return {upstream.logps.const_data_ptr<float>(), upstream.entropy.const_data_ptr<float>(),
          upstream.entropy_values.const_data_ptr<float>()};
}

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

}  // namespace

at::Tensor forward_by_groups(const ScoredRows& rows, ForBackward wanted, const HeadOutputs& out) {
  const GroupProducts products(rows);
  const Plan plan = Plan::make(rows, products.type());
  const at::Tensor hidden = rows.hidden.to(products.type());
  if (wanted == ForBackward::hidden_grad) {
    score_and_differentiate(rows, products, plan, hidden, out);
  }
  const std::int64_t count = wanted == ForBackward::logit_grads ? plan.kept : 0;
  const at::Tensor kept = HiddenAway::make(count, rows.vocab(), hidden.options());
  if (wanted != ForBackward::hidden_grad) {
    score(rows, products, plan, hidden, 0,
          HiddenAway::find(kept, count, rows.vocab(), hidden.options()), out);
  }
  return wanted == ForBackward::logit_grads ? kept : kept.narrow(0, 0, 0);
}

void backward_by_groups(const ScoredRows& rows, const HeadUpstreamGradients& upstream,
                        HeadGradients& out) {
  const GroupProducts products(rows);
  const Plan plan = Plan::make(rows, products.type());
  const at::Tensor hidden = rows.hidden.to(products.type());
  const at::TensorOptions wide = hidden.options().dtype(at::kFloat);
  const std::int64_t n = rows.count();
  // One number per row multiplies the gradients of its log-probability, and comes in at the end.
  // That of the entropy has another shape: then gradients are computed anew, with both numbers.
  const bool scaled_at_the_end = !upstream.entropy.defined();
  const at::Tensor kept = HiddenAway::find(upstream.kept, scaled_at_the_end ? plan.kept : 0,
                                           rows.vocab(), hidden.options());
  const std::int64_t stored = kept.size(0), computed = n - stored;
  const at::Tensor ones = at::ones({n}, wide);
  const at::Tensor factors = scaled_at_the_end ? upstream.logps : ones;
  const at::Tensor scaled_hidden = scaled_at_the_end && out.weight.defined()
                                       ? (rows.hidden * factors.unsqueeze(1)).to(products.type())
                                       : hidden;
  const at::Tensor scratch = at::empty({computed * plan.width}, wide);
  const at::Tensor gradients = at::empty({computed == 0 ? 0 : n * plan.width}, hidden.options());
  const cpu::HeadUpstream per_row = scaled_at_the_end ? cpu::HeadUpstream{} : pointers(upstream);
  plan.for_each_group(rows.vocab(), [&](std::int64_t, std::int64_t begin, std::int64_t width) {
    at::Tensor part = kept.narrow(1, begin, width);
    if (computed > 0) {
      part = leading(gradients, n, width);
      part.narrow(0, 0, stored).copy_(kept.narrow(1, begin, width));
      at::Tensor logits = leading(scratch, computed, width);
      products.logits(hidden.narrow(0, stored, computed), begin, logits);
      dispatch(part.scalar_type(), [&](auto example) {
        using Gradient = decltype(example);
        cpu::group_gradient(head_rows(rows, stored, computed),
                            {logits.mutable_data_ptr<float>(), begin, width},
                            upstream.summary.const_data_ptr<float>() + 3 * stored, per_row,
                            part.mutable_data_ptr<Gradient>() + stored * width, width);
      });
    }
    if (out.hidden.defined()) {
      products.add_hidden_grad(part, begin, out.hidden);
    }
    if (out.weight.defined()) {
      products.weight_grad(part, scaled_hidden, begin, out.weight);
    }
    if (out.bias.defined()) {
      out.bias.narrow(0, begin, width).copy_(at::mv(part.to(at::kFloat).t(), factors));
    }
  });
  if (scaled_at_the_end && out.hidden.defined()) {
    out.hidden.mul_(factors.unsqueeze(1));
  }
}

}  // namespace selm::ops
