#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/ones_like.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "cpu/bf16_mm.hpp"
#include "cpu/head_rows.hpp"
#include "native/backward_by_blocks.hpp"
#include "native/hidden_away.hpp"
#include "native/linear_head.hpp"
#include "rows.hpp"

// linear_logps by groups of the vocabulary: the head is read once, a group of logits never leaves
// the cache, and of all that is of the vocabulary's size only the kept exponentials exist.

namespace selm::ops {
namespace {

std::int64_t bytes_of(at::ScalarType type) {
  return static_cast<std::int64_t>(c10::elementSize(type));
}

/// Matrix products with vocabulary entries [first, first + width) of the head. Operands are
/// bfloat16 where this machine multiplies it, else float32; sums are float32.
class GroupProducts {
 public:
  explicit GroupProducts(const ScoredRows& rows)
      : weight_(rows.weight.stride(0) == 1 ? rows.weight : with_contiguous_rows(rows.weight)),
        narrow_(weight_.scalar_type() == at::kBFloat16 && cpu::has_bf16_mm()) {
    if (rows.bias) {
      bias_ = *rows.bias;
    }
  }

  at::ScalarType type() const { return narrow_ ? at::kBFloat16 : at::kFloat; }

  /// For each vocabulary entry of a group, where products of `count` rows need copies: the head and
  /// its gradient in another type than their own, or of even width; gradients of logits in float32.
  std::int64_t copied_bytes(std::int64_t count) const {
    constexpr std::int64_t copies = 2;
    const bool copies_head =
        weight_.scalar_type() != type() || (narrow_ && weight_.size(1) % 2 != 0);
    const bool copies_gradients = narrow_ && bias_.defined();
    return (copies_head ? copies * weight_.size(1) * bytes_of(type()) : 0) +
           (copies_gradients ? count * bytes_of(at::kFloat) : 0);
  }

  /// Logits into (rows, width).
  void logits(const at::Tensor& hidden, std::int64_t first, at::Tensor& out) const {
    const at::Tensor weight = group(first, out.size(1));
    if (narrow_) {
      cpu::bf16_mm(hidden, weight.t(), out, false);
    } else {
      at::mm_out(out, hidden, weight.t());
    }
    if (bias_.defined()) {
      out.add_(bias_.narrow(0, first, out.size(1)).to(at::kFloat));
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
  static constexpr std::int64_t narrowest = 16;

  std::int64_t width;   ///< vocabulary entries of a group
  std::int64_t groups;  ///< of the vocabulary
  std::int64_t kept;    ///< rows of which the logits' exponentials are kept

  /// Of `tile_bytes` for all that exists of a group at once.
  static Plan make(std::int64_t count, std::int64_t vocab, std::int64_t tile_bytes,
                   const GroupProducts& products) {
    const std::int64_t width = std::min(
        width_of_groups(column_bytes(count, products), std::max<std::int64_t>(tile_bytes, 0)),
        (vocab + narrowest - 1) / narrowest * narrowest);
    return {width, (vocab + width - 1) / width, count};
  }

  /// Rows that are scored and differentiated in two calls: what the tile leaves keeps rows.
  static Plan make(const ScoredRows& rows, const GroupProducts& products) {
    Plan plan = make(rows.count(), rows.vocab(), rows.workspace_bytes / 2, products);
    const std::int64_t left =
        rows.workspace_bytes - plan.width * column_bytes(rows.count(), products);
    plan.kept = std::clamp<std::int64_t>(left / plan.kept_bytes(1, rows.vocab(), products.type()),
                                         0, rows.count());
    return plan;
  }

  /// Of all exponentials of a row, and a byte per token for the maxima of narrow groups.
  static std::int64_t bytes_of_row(const ScoredRows& rows, const GroupProducts& products) {
    return rows.vocab() * (bytes_of(products.type()) + 1);
  }

  /// How many such rows the workspace holds with a block of logits; at least one.
  static std::int64_t rows_at_once(const ScoredRows& rows, const GroupProducts& products) {
    const std::int64_t row =
        bytes_of_row(rows, products) + cpu::Group::block_width * entry_bytes(products);
    return std::clamp<std::int64_t>(rows.workspace_bytes / row, 1, rows.count());
  }

  std::int64_t blocks_of_group() const { return cpu::Group{0, width}.blocks(); }

  /// Maxima of blocks and the target's slope, before the exponentials, which begin aligned.
  std::int64_t kept_floats(std::int64_t count) const {
    constexpr std::int64_t aligned = 16;
    return (count * (groups * blocks_of_group() + 1) + aligned - 1) / aligned * aligned;
  }

  std::int64_t kept_bytes(std::int64_t count, std::int64_t vocab,
                          at::ScalarType gradient_type) const {
    return kept_floats(count) * bytes_of(at::kFloat) + count * vocab * bytes_of(gradient_type);
  }

  template <typename Visit>
  void for_each_group(std::int64_t vocab, Visit visit) const {
    for (std::int64_t first = 0; first < vocab; first += width) {
      visit(cpu::Group{first, std::min(width, vocab - first)});
    }
  }

 private:
  /// Of a logit and its gradient.
  static std::int64_t entry_bytes(const GroupProducts& products) {
    return bytes_of(at::kFloat) + bytes_of(products.type());
  }

  /// Of a vocabulary entry of a group.
  static std::int64_t column_bytes(std::int64_t count, const GroupProducts& products) {
    return count * entry_bytes(products) + products.copied_bytes(count);
  }

  /// A block, or less of very many rows; of few rows as many blocks as a core's cache holds.
  static std::int64_t width_of_groups(std::int64_t column_bytes, std::int64_t available) {
    constexpr std::int64_t block = cpu::Group::block_width, most_blocks = 64;
    constexpr std::int64_t cache_of_core = std::int64_t{1} << 20, cache = std::int64_t{1} << 24;
    const std::int64_t blocks = std::min(available, cache_of_core) / column_bytes / block;
    if (blocks > 1) {
      return std::min(blocks, most_blocks) * block;
    }
    const std::int64_t entries = std::min(available, cache) / column_bytes;
    return std::clamp(entries / narrowest * narrowest, narrowest, block);
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

/// What the forward pass keeps of the first `count` rows, in `memory` of `Plan::kept_bytes`.
struct Kept {
  std::byte* memory;
  std::int64_t count;

  template <typename Gradient>
  cpu::KeptRows<Gradient> group(const Plan& plan, std::int64_t first) const {
    auto* const floats = reinterpret_cast<float*>(memory);
    const std::int64_t all = plan.kept_floats(count), slopes = all - count;
    auto* const exponentials = reinterpret_cast<Gradient*>(floats + all);
    return {exponentials + first * count,
            floats + first / plan.width * plan.blocks_of_group() * count, floats + slopes, count};
  }
};

cpu::HeadRows head_rows(const ScoredRows& rows, std::int64_t first, std::int64_t count) {
  return {count, rows.vocab(), rows.labels.const_data_ptr<std::int64_t>() + first,
          rows.logit_transform<float>()};
}

/// A contiguous (rows, width) matrix at the beginning of `scratch`.
at::Tensor leading(const at::Tensor& scratch, std::int64_t rows, std::int64_t width) {
  return scratch.narrow(0, 0, rows * width).view({rows, width});
}

/// Scores rows [first, first + count), whose hidden states are `hidden`.
void score(const ScoredRows& rows, const GroupProducts& products, const Plan& plan,
           const at::Tensor& hidden, std::int64_t first, const Kept& kept, const HeadOutputs& out) {
  const std::int64_t count = hidden.size(0), blocks = plan.blocks_of_group();
  const at::Tensor scratch = at::empty({count * plan.width}, hidden.options().dtype(at::kFloat));
  std::vector<cpu::RunningRow> entries(static_cast<std::size_t>(count * blocks));
  const cpu::RunningRows running{entries.data(), blocks};
  const cpu::HeadRows span = head_rows(rows, first, count);
  const RowStatisticsOutputs statistics = out.statistics_pointers(first);
  dispatch(products.type(), [&](auto example) {
    using Gradient = decltype(example);
    plan.for_each_group(rows.vocab(), [&](const cpu::Group& group) {
      at::Tensor logits = leading(scratch, count, group.width);
      products.logits(hidden, group.first, logits);
      cpu::sum_group(span, group, logits.mutable_data_ptr<float>(), statistics.any(), running,
                     kept.group<Gradient>(plan, group.first));
    });
    cpu::finish_rows(span, running, kept.group<Gradient>(plan, 0),
                     {out.logps.mutable_data_ptr<float>() + first,
                      out.summary.mutable_data_ptr<float>() + 3 * first, statistics});
  });
}

/// d logp / d logits of a group into `out`, (kept rows, width); the rows begin at row `first`.
void kept_gradient(const ScoredRows& rows, const Plan& plan, const cpu::Group& group,
                   std::int64_t first, const Kept& kept, const at::Tensor& summary,
                   const at::Tensor& out) {
  dispatch(out.scalar_type(), [&](auto example) {
    using Gradient = decltype(example);
    cpu::kept_gradient(
        head_rows(rows, first, kept.count), group, kept.group<Gradient>(plan, group.first),
        summary.const_data_ptr<float>() + 3 * first, out.mutable_data_ptr<Gradient>());
  });
}

/// The head is frozen: as many rows at once as the workspace holds are scored and differentiated.
void score_and_differentiate(const ScoredRows& rows, const GroupProducts& products,
                             const at::Tensor& hidden, const HeadOutputs& out) {
  const std::int64_t step = Plan::rows_at_once(rows, products);
  const std::int64_t row_bytes = Plan::bytes_of_row(rows, products);
  const Plan plan =
      Plan::make(step, rows.vocab(), rows.workspace_bytes - step * row_bytes, products);
  const at::Tensor memory =
      HiddenAway::make(plan.kept_bytes(step, rows.vocab(), products.type()), hidden.options());
  const at::Tensor scratch = at::empty({step * plan.width}, hidden.options());
  for (std::int64_t first = 0; first < rows.count(); first += step) {
    const Kept kept{HiddenAway::find(memory), std::min(step, rows.count() - first)};
    score(rows, products, plan, hidden.narrow(0, first, kept.count), first, kept, out);
    at::Tensor sum = out.hidden_grad.narrow(0, first, kept.count).zero_();
    plan.for_each_group(rows.vocab(), [&](const cpu::Group& group) {
      const at::Tensor gradients = leading(scratch, kept.count, group.width);
      kept_gradient(rows, plan, group, first, kept, out.summary, gradients);
      products.add_hidden_grad(gradients, group.first, sum);
    });
  }
}

/// d loss / d logits of a group for all rows: from what the forward pass kept, and the others anew.
///
/// One number per row multiplies the gradients of its log-probability. It is left out here, and
/// multiplies hidden states and results instead (`factors`). A gradient of the entropy has another
/// shape: then all rows are computed anew, with both numbers, and the factors are 1.
class GroupGradients {
 public:
  GroupGradients(const ScoredRows& rows, const GroupProducts& products, const Plan& plan,
                 const HeadUpstreamGradients& upstream, const at::Tensor& hidden)
      : rows_(rows), products_(products), plan_(plan), upstream_(upstream), hidden_(hidden) {
    const bool of_logps_alone = !upstream.entropy.defined();
    const std::int64_t bytes = plan.kept_bytes(plan.kept, rows.vocab(), products.type());
    if (of_logps_alone && HiddenAway::is_whole(upstream.kept, bytes)) {
      kept_ = {HiddenAway::find(upstream.kept), plan.kept};
    }
    const at::Tensor factors = of_logps_alone ? upstream.logps : at::ones_like(upstream.logps);
    factors_ = factors.unsqueeze(1);
    scratch_ = at::empty({computed() * plan.width}, upstream.logps.options());
    gradients_ = at::empty({rows.count() * plan.width}, hidden.options());
  }

  /// (rows, 1), float32.
  const at::Tensor& factors() const { return factors_; }

  /// (rows, width). Overwrites the last group's.
  at::Tensor operator()(std::int64_t first, std::int64_t width) const {
    const cpu::Group group{first, width};
    at::Tensor all = leading(gradients_, rows_.count(), group.width);
    if (kept_.count > 0) {
      kept_gradient(rows_, plan_, group, 0, kept_, upstream_.summary, all);
    }
    if (computed() > 0) {
      compute(group, all.narrow(0, kept_.count, computed()));
    }
    return all;
  }

 private:
  std::int64_t computed() const { return rows_.count() - kept_.count; }

  void compute(const cpu::Group& group, const at::Tensor& out) const {
    const std::int64_t begin = kept_.count;
    at::Tensor logits = leading(scratch_, computed(), group.width);
    products_.logits(hidden_.narrow(0, begin, computed()), group.first, logits);
    cpu::HeadUpstream upstream{};
    if (upstream_.entropy.defined()) {  // of all rows: begin is 0
      upstream = {upstream_.logps.const_data_ptr<float>(),
                  upstream_.entropy.const_data_ptr<float>(),
                  upstream_.entropy_values.const_data_ptr<float>()};
    }
    dispatch(out.scalar_type(), [&](auto example) {
      using Gradient = decltype(example);
      cpu::group_gradient(head_rows(rows_, begin, computed()), group,
                          logits.mutable_data_ptr<float>(),
                          upstream_.summary.const_data_ptr<float>() + 3 * begin, upstream,
                          out.mutable_data_ptr<Gradient>());
    });
  }

  const ScoredRows& rows_;
  const GroupProducts& products_;
  const Plan& plan_;
  const HeadUpstreamGradients& upstream_;
  at::Tensor hidden_;
  Kept kept_{nullptr, 0};
  at::Tensor factors_;
  at::Tensor scratch_;
  at::Tensor gradients_;
};

}  // namespace

at::Tensor forward_by_groups(const ScoredRows& rows, ForBackward wanted, const HeadOutputs& out) {
  const GroupProducts products(rows);
  const at::Tensor hidden = rows.hidden.to(products.type());
  if (wanted == ForBackward::hidden_grad) {
    score_and_differentiate(rows, products, hidden, out);
    return HiddenAway::make(0, hidden.options());
  }
  const Plan plan = Plan::make(rows, products);
  const std::int64_t count = wanted == ForBackward::logit_grads ? plan.kept : 0;
  at::Tensor memory =
      HiddenAway::make(plan.kept_bytes(count, rows.vocab(), products.type()), hidden.options());
  score(rows, products, plan, hidden, 0, {HiddenAway::find(memory), count}, out);
  return memory;
}

void backward_by_groups(const ScoredRows& rows, const HeadUpstreamGradients& upstream,
                        HeadGradients& out) {
  const GroupProducts products(rows);
  const Plan plan = Plan::make(rows, products);
  const at::Tensor hidden = rows.hidden.to(products.type());
  const GroupGradients gradients(rows, products, plan, upstream, hidden);
  const at::Tensor scaled_hidden =
      out.weight.defined() ? (rows.hidden * gradients.factors()).to(products.type()) : at::Tensor();
  backward_by_blocks(rows.vocab(), plan.width, products, gradients, scaled_hidden, out);
}

}  // namespace selm::ops
