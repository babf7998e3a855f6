#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "cpu/head_rows.hpp"
#include "native/backward_by_blocks.hpp"
#include "native/group_plan.hpp"
#include "native/group_products.hpp"
#include "native/hidden_away.hpp"
#include "native/linear_head.hpp"

// linear_logps by groups of the vocabulary: the head is read once, a group of logits never leaves
// the cache, and of all that is of the vocabulary's size only the kept exponentials exist.

namespace selm::ops {
namespace {

template <typename Visit>
void dispatch(at::ScalarType gradient_type, Visit visit) {
  if (gradient_type == at::kBFloat16) {
    visit(at::BFloat16());
  } else {
    visit(float());
  }
}

/// What the forward pass keeps of plan.rows rows, hidden away behind `byte`: maxima of blocks,
/// derivatives of the transform at the targets, exponentials.
struct Kept {
  const GroupPlan& plan;
  at::Tensor byte;

  float* maxima() const { return reinterpret_cast<float*>(HiddenAway::find(byte)); }
  float* target_slopes() const { return maxima() + plan.rows * plan.part(0, plan.kept).blocks(); }

  /// (rows, kept tokens), in `type`. Gradients may take their place.
  at::Tensor exponentials(std::int64_t rows, at::ScalarType type) const {
    return HiddenAway::find(byte, rows, plan.kept, plan.numbers_bytes(plan.kept),
                            byte.options().dtype(type));
  }

  /// Those of a group; nothing is kept of one beyond the kept tokens.
  template <typename Gradient>
  cpu::KeptGroup<Gradient> group(std::int64_t first) const {
    if (first >= plan.kept) {
      return {nullptr, 0, nullptr};
    }
    auto* const begin = HiddenAway::find(byte) + plan.numbers_bytes(plan.kept);
    return {reinterpret_cast<Gradient*>(begin) + first, plan.kept, maxima()};
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

/// Scores rows [first, first + count).
void score(const ScoredRows& rows, const GroupProducts& products, const Kept& kept,
           std::int64_t first, std::int64_t count, const HeadOutputs& out) {
  const GroupPlan& plan = kept.plan;
  const std::int64_t blocks = plan.group(0).blocks();
  const at::Tensor scratch =
      at::empty({count * plan.width}, rows.hidden.options().dtype(at::kFloat));
  std::vector<cpu::RunningRow> entries(static_cast<std::size_t>(count * blocks));
  const cpu::RunningRows running{entries.data(), blocks};
  const cpu::HeadRows span = head_rows(rows, first, count);
  const RowStatisticsOutputs statistics = out.statistics_pointers(first);
  dispatch(products.type(), [&](auto example) {
    plan.for_each_group([&](const cpu::Group& group) {
      at::Tensor logits = leading(scratch, count, group.width);
      products.logits(first, group.first, logits);
      cpu::sum_group(span, group, logits.mutable_data_ptr<float>(), statistics.any(), running,
                     kept.group<decltype(example)>(group.first));
    });
  });
  cpu::finish_rows(span, running,
                   {out.logps.mutable_data_ptr<float>() + first,
                    out.summary.mutable_data_ptr<float>() + 3 * first,
                    plan.kept > 0 ? kept.target_slopes() : nullptr, statistics});
}

/// d logp / d logits times `upstream` (null: 1) of a part of the vocabulary that was kept, into
/// `out`, whose rows are contiguous.
void kept_gradient(const ScoredRows& rows, const Kept& kept, const cpu::Group& part,
                   std::int64_t first, const at::Tensor& summary, const float* upstream,
                   const at::Tensor& out) {
  dispatch(out.scalar_type(), [&](auto example) {
    using Gradient = decltype(example);
    cpu::kept_gradient(
        head_rows(rows, first, out.size(0)), part, kept.group<Gradient>(part.first),
        {summary.const_data_ptr<float>() + 3 * first, kept.target_slopes(), upstream},
        out.mutable_data_ptr<Gradient>(), out.stride(0));
  });
}

/// The head is frozen: as many rows at once as the workspace holds are scored and differentiated.
void score_and_differentiate(const ScoredRows& rows, const GroupProducts& products,
                             const HeadOutputs& out) {
  const GroupPlan plan = GroupPlan::of_some_rows(rows, products);
  const Kept kept{plan, HiddenAway::make(plan.kept_bytes(products), rows.hidden.options())};
  const std::int64_t width = products.copies_head() ? plan.width : plan.vocab;
  for (std::int64_t first = 0; first < rows.count(); first += plan.rows) {
    const std::int64_t count = std::min(plan.rows, rows.count() - first);
    score(rows, products, kept, first, count, out);
    const at::Tensor gradients = kept.exponentials(count, products.type());
    kept_gradient(rows, kept, plan.part(0, plan.vocab), first, out.summary, nullptr, gradients);
    at::Tensor sum = out.hidden_grad.narrow(0, first, count);
    for (std::int64_t token = 0; token < plan.vocab; token += width) {
      products.add_hidden_grad(gradients.narrow(1, token, std::min(width, plan.vocab - token)),
                               token, sum);
    }
  }
}

/// d loss / d logits by blocks of the vocabulary, for all rows: those that the forward pass kept,
/// and the others anew.
class GroupGradients {
 public:
  GroupGradients(const ScoredRows& rows, const GroupProducts& products, const GroupPlan& plan,
                 const HeadUpstreamGradients& upstream)
      : rows_(rows),
        products_(products),
        plan_(plan),
        upstream_(upstream),
        kept_{plan_, upstream.kept} {
    // What is kept makes gradients of log-probabilities. Those of the entropy have another shape.
    if (upstream.entropy.defined() ||
        !HiddenAway::is_whole(upstream.kept, plan.kept_bytes(products))) {
      plan_.kept = 0;
    }
    if (plan_.kept > 0 && !torch::autograd::get_current_graph_task_keep_graph()) {
      kept_.byte = HiddenAway::take(upstream.kept);  // nobody will ask for it again
      in_place_ = kept_.exponentials(plan_.rows, products.type());
      differentiate_kept(plan_.part(0, plan_.kept), in_place_);
    }
  }

  GroupGradients(const GroupGradients&) = delete;
  GroupGradients& operator=(const GroupGradients&) = delete;

  /// (rows, width). The next call may overwrite it.
  at::Tensor operator()(std::int64_t first) {
    if (first >= plan_.kept) {
      return computed(first);
    }
    const cpu::Group group = plan_.group(first);
    if (in_place_.defined()) {
      return products_.copies_head() ? in_place_.narrow(1, first, group.width) : in_place_;
    }
    const at::Tensor out = tile(gradients_, group.width, products_.type());
    differentiate_kept(group, out);
    return out;
  }

 private:
  void differentiate_kept(const cpu::Group& group, const at::Tensor& out) const {
    kept_gradient(rows_, kept_, group, 0, upstream_.summary,
                  upstream_.logps.const_data_ptr<float>(), out);
  }

  at::Tensor computed(std::int64_t first) {
    if (in_place_.defined()) {  // they have been used: their memory serves wider groups
      plan_.width = plan_.width_within(plan_.kept_bytes(products_), products_);
      in_place_.reset();
      kept_.byte.reset();
    }
    const cpu::Group group = plan_.group(first);
    at::Tensor logits = tile(logits_, group.width, at::kFloat);
    products_.logits(0, first, logits);
    cpu::HeadUpstream upstream{upstream_.logps.const_data_ptr<float>(), nullptr, nullptr};
    if (upstream_.entropy.defined()) {
      upstream.entropy = upstream_.entropy.const_data_ptr<float>();
      upstream.entropy_values = upstream_.entropy_values.const_data_ptr<float>();
    }
    const at::Tensor out = tile(gradients_, group.width, products_.type());
    dispatch(out.scalar_type(), [&](auto example) {
      using Gradient = decltype(example);
      cpu::group_gradient(head_rows(rows_, 0, plan_.rows), group, logits.mutable_data_ptr<float>(),
                          upstream_.summary.const_data_ptr<float>(), upstream,
                          out.mutable_data_ptr<Gradient>());
    });
    return out;
  }

  /// (rows, width) at the beginning of memory for a whole group.
  at::Tensor tile(at::Tensor& memory, std::int64_t width, at::ScalarType type) const {
    if (!memory.defined()) {
      memory = at::empty({plan_.rows * plan_.width}, upstream_.logps.options().dtype(type));
    }
    return leading(memory, plan_.rows, width);
  }

  const ScoredRows& rows_;
  const GroupProducts& products_;
  GroupPlan plan_;
  const HeadUpstreamGradients& upstream_;
  Kept kept_;
  at::Tensor in_place_;   ///< (rows, kept), where the graph is not needed again
  at::Tensor gradients_;  ///< of a group
  at::Tensor logits_;     ///< of a group
};

}  // namespace

at::Tensor forward_by_groups(const ScoredRows& rows, ForBackward wanted, const HeadOutputs& out) {
  const GroupProducts products(rows);
  if (wanted == ForBackward::hidden_grad) {
    score_and_differentiate(rows, products, out);
    return HiddenAway::make(0, rows.hidden.options());
  }
  GroupPlan plan = GroupPlan::of_all_rows(rows, products);
  if (wanted == ForBackward::summary) {
    plan.kept = 0;
  }
  const Kept kept{plan, HiddenAway::make(plan.kept_bytes(products), rows.hidden.options())};
  score(rows, products, kept, 0, rows.count(), out);
  return kept.byte;
}

void backward_by_groups(ScoredRows rows, const HeadUpstreamGradients& upstream,
                        HeadGradients& out) {
  GroupProducts products(rows);
  rows.hidden.reset();  // the products hold them, and release them
  GroupGradients gradients(rows, products, GroupPlan::of_all_rows(rows, products), upstream);
  backward_by_blocks(rows.vocab(), products, gradients, out);
}

}  // namespace selm::ops
