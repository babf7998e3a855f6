#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mul.h>
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

/// What the forward pass keeps, hidden away behind `byte`: maxima of blocks, derivatives of the
/// transform at the targets, exponentials.
struct Kept {
  const GroupPlan& plan;
  at::ScalarType type;  ///< of exponentials
  at::Tensor byte;

  float* maxima() const { return reinterpret_cast<float*>(HiddenAway::find(byte)); }

  /// Null where nothing is kept.
  float* target_slopes() const {
    return plan.kept > 0 ? maxima() + plan.rows * plan.part(0, plan.kept).blocks() : nullptr;
  }

  /// (rows, kept tokens). Gradients may take their place.
  at::Tensor exponentials() const {
    const auto stride = plan.stride(static_cast<std::int64_t>(c10::elementSize(type)));
    return HiddenAway::find(byte, plan.rows, stride, plan.numbers_bytes(plan.kept),
                            byte.options().dtype(type))
        .narrow(1, 0, plan.kept);
  }

  /// Those of a group; undefined beyond the kept tokens.
  at::Tensor place_of(const cpu::Group& group) const {
    return group.first < plan.kept ? exponentials().narrow(1, group.first, group.width)
                                   : at::Tensor();
  }

  template <typename Gradient>
  cpu::KeptGroup<Gradient> of(const cpu::Group& group) const {
    const at::Tensor place = place_of(group);
    if (!place.defined()) {
      return {nullptr, 0, nullptr};
    }
    const std::int64_t blocks = plan.part(0, group.first).blocks();
    return {place.mutable_data_ptr<Gradient>(), place.stride(0), maxima() + blocks * plan.rows};
  }

  template <typename Gradient>
  void use(const cpu::Group&) const {}
};

cpu::HeadRows head_rows(const ScoredRows& rows) {
  return {rows.count(), rows.vocab(), rows.labels.const_data_ptr<std::int64_t>(),
          rows.logit_transform<float>()};
}

/// A contiguous (rows, width) matrix at the beginning of `scratch`.
at::Tensor leading(const at::Tensor& scratch, std::int64_t rows, std::int64_t width) {
  return scratch.narrow(0, 0, rows * width).view({rows, width});
}

/// Scores all rows. `exponentials.of(group)` is where those of a group go, as a tensor
/// `exponentials.place_of(group)`, undefined for nowhere. `use(group)` may then do something with
/// them, and derivatives at the targets go to `target_slopes()`, if that is not null.
template <typename Exponentials>
void score(const ScoredRows& rows, const GroupProducts& products, const GroupPlan& plan,
           Exponentials& exponentials, const HeadOutputs& out) {
  const std::int64_t blocks = plan.group(0).blocks();
  at::Tensor scratch;
  const auto logits_of = [&](const cpu::Group& group) {
    at::Tensor place = exponentials.place_of(group);
    if (place.defined() && place.scalar_type() == at::kFloat) {
      return place;
    }
    if (!scratch.defined()) {
      scratch = at::empty({plan.rows * plan.width}, rows.hidden.options().dtype(at::kFloat));
    }
    return leading(scratch, plan.rows, group.width);
  };
  std::vector<cpu::RunningRow> entries(static_cast<std::size_t>(plan.rows * blocks));
  const cpu::RunningRows running{entries.data(), blocks};
  const cpu::HeadRows span = head_rows(rows);
  const RowStatisticsOutputs statistics = out.statistics_pointers(0);
  dispatch(products.type(), [&](auto example) {
    using Gradient = decltype(example);
    plan.for_each_group([&](const cpu::Group& group) {
      at::Tensor logits = logits_of(group);
      products.logits(group.first, logits);
      cpu::sum_group(span, group, {logits.mutable_data_ptr<float>(), logits.stride(0)},
                     statistics.any(), running, exponentials.template of<Gradient>(group));
      exponentials.template use<Gradient>(group);
    });
  });
  cpu::finish_rows(span, running,
                   {out.logps.mutable_data_ptr<float>(), out.summary.mutable_data_ptr<float>(),
                    exponentials.target_slopes(), statistics});
}

/// d logp / d hidden of a frozen head, summed up while the exponentials of a group are in the
/// cache.
class HiddenGradients {
 public:
  HiddenGradients(const ScoredRows& rows, GroupProducts& products, const GroupPlan& plan)
      : rows_(rows),
        products_(products),
        sum_(products.empty_sum()),
        exponentials_(at::empty({plan.rows * plan.width}, sum_.options().dtype(products.type()))),
        maxima_(at::empty({plan.group(0).blocks() * plan.rows}, sum_.options())),
        references_(at::full({plan.rows}, cpu::lowest_reference, sum_.options())),
        factors_(at::empty({plan.rows, 1}, sum_.options())),
        target_slopes_(at::empty({plan.rows, 1}, sum_.options())) {}

  at::Tensor place_of(const cpu::Group& group) const {
    return leading(exponentials_, sum_.size(0), group.width);
  }

  template <typename Gradient>
  cpu::KeptGroup<Gradient> of(const cpu::Group& group) const {
    const at::Tensor place = place_of(group);
    return {place.mutable_data_ptr<Gradient>(), place.stride(0), maxima_.mutable_data_ptr<float>()};
  }

  float* target_slopes() const { return target_slopes_.mutable_data_ptr<float>(); }

  template <typename Gradient>
  void use(const cpu::Group& group) {
    const bool risen = cpu::relate_group(head_rows(rows_), group, of<Gradient>(group),
                                         references_.mutable_data_ptr<float>(),
                                         factors_.mutable_data_ptr<float>());
    if (risen && group.first > 0) {  // the first group writes the sum
      sum_.mul_(factors_);
    }
    products_.add_hidden_grad(place_of(group), group.first, sum_);
  }

  /// When the rows have been finished.
  void finish(const HeadOutputs& out) {
    exponentials_.reset();
    products_.release_hidden();
    const at::Tensor of_target = at::empty_like(factors_);
    cpu::finish_sums(head_rows(rows_), references_.const_data_ptr<float>(),
                     out.summary.const_data_ptr<float>(), target_slopes(),
                     factors_.mutable_data_ptr<float>(), of_target.mutable_data_ptr<float>());
    at::Tensor hidden_grad = out.hidden_grad;
    at::mul_out(hidden_grad, sum_, factors_);
    sum_.reset();
    hidden_grad.addcmul_(rows_.weight.index_select(0, rows_.labels), of_target);
  }

 private:
  const ScoredRows& rows_;
  GroupProducts& products_;
  at::Tensor sum_;            ///< (rows, hidden)
  at::Tensor exponentials_;   ///< of a group
  at::Tensor maxima_;         ///< of its blocks
  at::Tensor references_;     ///< (rows)
  at::Tensor factors_;        ///< (rows, 1)
  at::Tensor target_slopes_;  ///< (rows, 1)
};

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
        kept_{plan_, products.type(), upstream.kept} {
    // What is kept makes gradients of log-probabilities. Those of the entropy have another shape.
    if (upstream.entropy.defined() ||
        !HiddenAway::is_whole(upstream.kept, plan.kept_bytes(products))) {
      plan_.kept = 0;
    }
    if (plan_.kept > 0 && !torch::autograd::get_current_graph_task_keep_graph()) {
      kept_.byte = HiddenAway::take(upstream.kept);  // nobody will ask for it again
      in_place_ = kept_.exponentials();
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
    at::Tensor out = tile(gradients_, group.width, products_.type());
    differentiate_kept(group, out);
    return out;
  }

 private:
  /// d loss / d logits of a part of the vocabulary that was kept.
  void differentiate_kept(const cpu::Group& part, const at::Tensor& out) const {
    dispatch(out.scalar_type(), [&](auto example) {
      using Gradient = decltype(example);
      cpu::kept_gradient(head_rows(rows_), part, kept_.of<Gradient>(part),
                         {upstream_.summary.const_data_ptr<float>(), kept_.target_slopes(),
                          upstream_.logps.const_data_ptr<float>()},
                         out.mutable_data_ptr<Gradient>(), out.stride(0));
    });
  }

  at::Tensor computed(std::int64_t first) {
    if (in_place_.defined()) {  // they have been used: their memory serves wider groups
      plan_.width = plan_.width_within(plan_.kept_bytes(products_), products_);
      in_place_.reset();
      kept_.byte.reset();
    }
    const cpu::Group group = plan_.group(first);
    at::Tensor logits = tile(logits_, group.width, at::kFloat);
    products_.logits(first, logits);
    cpu::HeadUpstream upstream{upstream_.logps.const_data_ptr<float>(), nullptr, nullptr};
    if (upstream_.entropy.defined()) {
      upstream.entropy = upstream_.entropy.const_data_ptr<float>();
      upstream.entropy_values = upstream_.entropy_values.const_data_ptr<float>();
    }
    at::Tensor out = tile(gradients_, group.width, products_.type());
    dispatch(out.scalar_type(), [&](auto example) {
      using Gradient = decltype(example);
      cpu::group_gradient(head_rows(rows_), group, logits.mutable_data_ptr<float>(),
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
  GroupProducts products(rows);
  GroupPlan plan = GroupPlan::make(rows, products);
  if (wanted == ForBackward::hidden_grad) {
    HiddenGradients gradients(rows, products, plan);
    score(rows, products, plan, gradients, out);
    gradients.finish(out);
    return HiddenAway::make(0, rows.hidden.options());
  }
  if (wanted == ForBackward::summary) {
    plan.kept = 0;
  }
  Kept kept{plan, products.type(),
            HiddenAway::make(plan.kept_bytes(products), rows.hidden.options())};
  score(rows, products, plan, kept, out);
  return kept.byte;
}

void backward_by_groups(ScoredRows rows, const HeadUpstreamGradients& upstream,
                        HeadGradients& out) {
  GroupProducts products(rows);
  rows.hidden.reset();  // the products hold them, and release them
  GroupGradients gradients(rows, products, GroupPlan::make(rows, products), upstream);
  backward_by_blocks(rows.vocab(), products, gradients, out);
}

}  // namespace selm::ops
