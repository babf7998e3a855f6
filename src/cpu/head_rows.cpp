#include "cpu/head_rows.hpp"

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/parallel.hpp"
#include "cpu/row_math.hpp"

namespace selm::cpu {
namespace {

/// What is left of a transform when softcaps have been applied to the logits. Its scale is also the
/// derivative's share that all tokens have in common: with a softcap 1, as each has its own slope.
LogitTransform<float> uncapped(const LogitTransform<float>& transform) {
  return {transform.has_softcap() ? 1.0f : transform.scale, 0.0f, 0.0f};
}

/// One block of one row of a group.
struct Place {
  std::int64_t row;
  std::int64_t block;  ///< of the group
  std::int64_t first;  ///< within the group
  std::int64_t width;
};

/// Calls `visit(place, scratch)` for every block of `rows` rows, in parallel; a thread has one
/// scratch.
template <typename Visit>
void for_each_block(std::int64_t rows, const Group& group, Visit visit) {
  const std::int64_t blocks = group.blocks();
  const std::int64_t cost = std::min(group.width, group.block_width);
  at::parallel_for(0, rows * blocks, grain(cost), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> scratch;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t block = i % blocks, first = block * group.block_width;
      visit(Place{i / blocks, block, first, std::min(group.block_width, group.width - first)},
            scratch);
    }
  });
}

/// A block of logits. Its softcap is applied at once; its derivative is one factor for all tokens,
/// or with a softcap one per token.
class LogitBlock {
 public:
  /// `logits`: those of the group. `slopes` is scratch, and must outlive the block.
  LogitBlock(const HeadRows& rows, const Group& group, const GroupLogits& logits,
             const Place& place, std::vector<float>& slopes)
      : s_(logits.data + place.row * logits.stride + place.first),
        first_(group.first + place.first),
        width_(place.width),
        target_(rows.targets[place.row] - first_),
        transform_(uncapped(rows.transform)) {
    if (rows.transform.has_softcap()) {
      slopes.resize(static_cast<std::size_t>(width_));
      row_math().softcap(s_, width_, rows.transform, slopes.data());
      slopes_ = slopes.data();
    }
  }

  bool holds_target() const { return target_ >= 0 && target_ < width_; }
  float target_logit() const { return s_[target_]; }
  float target_slope() const { return slopes_ == nullptr ? transform_.scale : slopes_[target_]; }

  /// Of all tokens but the target.
  RowPart<float> statistics() const {
    const auto part = [&](std::int64_t begin, std::int64_t end) {
      return begin == end
                 ? RowPart<float>{}
                 : row_math().statistics(s_ + begin, end - begin, first_ + begin, transform_.scale);
    };
    return holds_target() ? merge(part(0, target_), part(target_ + 1, width_), transform_)
                          : part(0, width_);
  }

  /// Takes the target out of `exponentials`.
  void mask_target() { s_[target_] = minus_infinity<float>; }

  /// Their sum; also exp(z - max z) dz/ds of each token, where `out` is not null, up to the factor
  /// that all tokens share.
  template <typename Gradient>
  LogSumExp<float> exponentials(Gradient* out) const {
    return out == nullptr
               ? row_math().from_float.log_sum_exp(s_, width_, transform_.scale,
                                                   minus_infinity<float>, UpcomingValues::none(s_))
               : row_math().to<Gradient>().exponentials(s_, width_, transform_.scale, slopes_, out);
  }

  /// p factor(p) dz/ds of each token; `at_target` dz/ds of the target.
  template <typename Gradient>
  void gradient(const TokenLogp<float>& token, ProbFactor factor, float at_target,
                Gradient* out) const {
    row_math().to<Gradient>().softmax(
        s_, width_, token, transform_.scale,
        {transform_.scale * factor.constant, transform_.scale * factor.of_log_prob}, slopes_, out);
    if (holds_target()) {
      out[target_] = static_cast<Gradient>(at_target * target_slope());
    }
  }

 private:
  float* s_;
  std::int64_t first_;
  std::int64_t width_;
  std::int64_t target_;
  LogitTransform<float> transform_;
  const float* slopes_ = nullptr;
};

LogSumExp<double> widened(const LogSumExp<float>& part) {
  return {part.max, part.sum};
}

RowPart<double> widened(const RowPart<float>& part) {
  return {widened(part.exponentials), part.weighted_exponent, part.sum_sq, part.sum_logits,
          part.best_index};
}

LogitTransform<double> widened(const LogitTransform<float>& transform) {
  return {transform.scale, transform.inner, transform.outer};
}

TokenLogp<double> widened(const TokenLogp<float>& token) {
  return {token.logp, token.max, token.log_sum, token.one_minus_prob};
}

/// What all blocks of a row say together.
RunningRow merged(const RunningRow* blocks, std::int64_t count,
                  const LogitTransform<double>& transform) {
  RunningRow row = blocks[0];
  for (std::int64_t b = 1; b < count; ++b) {
    row.others = merge(row.others, blocks[b].others, transform);
    row.statistics = merge(row.statistics, blocks[b].statistics, transform);
    row.target_logit += blocks[b].target_logit;
    row.target_slope += blocks[b].target_slope;
  }
  return row;
}

}  // namespace

template <typename Gradient>
void sum_group(const HeadRows& rows, const Group& group, const GroupLogits& logits,
               bool with_statistics, const RunningRows& running, const KeptGroup<Gradient>& kept) {
  const LogitTransform<double> transform = widened(uncapped(rows.transform));
  for_each_block(rows.count, group, [&](const Place& place, std::vector<float>& slopes) {
    LogitBlock block(rows, group, logits, place, slopes);
    RunningRow& total = running.entries[place.row * running.blocks + place.block];
    if (with_statistics) {
      total.statistics = merge(total.statistics, widened(block.statistics()), transform);
    }
    if (block.holds_target()) {
      total.target_logit = block.target_logit();
      total.target_slope = block.target_slope();
      block.mask_target();
    }
    const bool is_kept = kept.exponentials != nullptr;
    const LogSumExp<float> part = block.exponentials(
        is_kept ? kept.exponentials + place.row * kept.stride + place.first : nullptr);
    if (is_kept) {
      kept.max(rows, place.block, place.row) = part.max;
    }
    total.others = merge(total.others, widened(part), transform);
  });
}

void finish_rows(const HeadRows& rows, const RunningRows& running, const FinishedRows& out) {
  const LogitTransform<float> transform = uncapped(rows.transform);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    const RunningRow row =
        merged(running.entries + i * running.blocks, running.blocks, widened(transform));
    const TokenLogp<float> token = token_logp(
        LogSumExp<float>{static_cast<float>(row.others.max), static_cast<float>(row.others.sum)},
        row.target_logit, transform);
    out.logps[i] = token.logp;
    token.store_summary(out.summary, i);
    if (out.statistics.any()) {
      const std::int64_t target = rows.targets[i];
      const auto alone = RowPart<double>::of(row.target_logit, target, widened(transform));
      out.statistics.store(i, merge(row.statistics, alone, widened(transform)).statistics(),
                           widened(token), target, rows.vocab);
    }
    if (out.target_slopes != nullptr) {
      out.target_slopes[i] = row.target_slope;
    }
  }
}

template <typename Gradient>
void kept_gradient(const HeadRows& rows, const Group& group, const KeptGroup<Gradient>& kept,
                   const RowGradients& numbers, Gradient* out, std::int64_t stride) {
  const LogitTransform<float> transform = uncapped(rows.transform);
  for_each_block(rows.count, group, [&](const Place& place, std::vector<float>&) {
    const std::int64_t i = place.row;
    const auto token = TokenLogp<float>::from_summary(numbers.summary, i);
    const float upstream = numbers.upstream[i];
    const float max = kept.max(rows, place.block, i);
    const float share = std::exp(transform(max, token.max) - token.log_sum);
    Gradient* const to = out + i * stride + place.first;
    row_math().to<Gradient>().multiply(kept.exponentials + i * kept.stride + place.first,
                                       place.width, -upstream * transform.scale * share, to);
    const std::int64_t target = rows.targets[i] - group.first - place.first;
    if (target >= 0 && target < place.width) {
      to[target] =
          static_cast<Gradient>(upstream * token.one_minus_prob * numbers.target_slopes[i]);
    }
  });
}

template <typename Gradient>
bool relate_group(const HeadRows& rows, const Group& group, const KeptGroup<Gradient>& exponentials,
                  float* references, float* factors) {
  constexpr float farthest = 30.0f;  // sums may grow to exp(farthest) of what they could be
  const LogitTransform<float> transform = uncapped(rows.transform);
  bool risen = false;
  for (std::int64_t i = 0; i < rows.count; ++i) {
    float max = exponentials.max(rows, 0, i);
    for (std::int64_t block = 1; block < group.blocks(); ++block) {
      max = std::max(max, exponentials.max(rows, block, i));
    }
    const bool rises = transform(max, references[i]) > farthest;
    factors[i] = rises ? std::exp(transform(references[i], max)) : 1.0f;
    references[i] = rises ? max : references[i];
    risen |= rises;
  }
  for_each_block(rows.count, group, [&](const Place& place, std::vector<float>&) {
    Gradient* const block =
        exponentials.exponentials + place.row * exponentials.stride + place.first;
    const float max = exponentials.max(rows, place.block, place.row);
    const float factor = std::exp(transform(max, references[place.row]));
    row_math().to<Gradient>().multiply(block, place.width, factor, block);
  });
  return risen;
}

void finish_sums(const HeadRows& rows, const float* references, const float* summary,
                 const float* target_slopes, float* factors, float* of_target) {
  const LogitTransform<float> transform = uncapped(rows.transform);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    const auto token = TokenLogp<float>::from_summary(summary, i);
    factors[i] = -transform.scale * std::exp(transform(references[i], token.max) - token.log_sum);
    of_target[i] = token.one_minus_prob * target_slopes[i];
  }
}

template <typename Gradient>
void group_gradient(const HeadRows& rows, const Group& group, float* logits, const float* summary,
                    const HeadUpstream& upstream, Gradient* out) {
  const LogitTransform<float> transform = uncapped(rows.transform);
  for_each_block(rows.count, group, [&](const Place& place, std::vector<float>& slopes) {
    const std::int64_t i = place.row;
    const LogitBlock block(rows, group, {logits, group.width}, place, slopes);
    const auto token = TokenLogp<float>::from_summary(summary, i);
    const float by_logp = upstream.logps[i];
    // d entropy / d z = -p (log p + entropy)
    const float by_entropy = upstream.entropy == nullptr ? 0.0f : upstream.entropy[i];
    const float shift = by_entropy == 0.0f ? 0.0f : by_entropy * upstream.entropy_values[i];
    float at_target = by_logp * token.one_minus_prob;
    if (by_entropy != 0.0f && block.holds_target()) {
      const float log_prob = transform(block.target_logit(), token.max) - token.log_sum;
      at_target -= std::exp(log_prob) * (by_entropy * log_prob + shift);
    }
    block.gradient(token, {-(by_logp + shift), -by_entropy}, at_target,
                   out + i * group.width + place.first);
  });
}

#define SELM_INSTANTIATE(Gradient)                                                                 \
  template void sum_group<Gradient>(const HeadRows&, const Group&, const GroupLogits&, bool,       \
                                    const RunningRows&, const KeptGroup<Gradient>&);               \
  template void kept_gradient<Gradient>(const HeadRows&, const Group&, const KeptGroup<Gradient>&, \
                                        const RowGradients&, Gradient*, std::int64_t);             \
  template bool relate_group<Gradient>(const HeadRows&, const Group&, const KeptGroup<Gradient>&,  \
                                       float*, float*);                                            \
  template void group_gradient<Gradient>(const HeadRows&, const Group&, float*, const float*,      \
                                         const HeadUpstream&, Gradient*)

SELM_INSTANTIATE(float);
SELM_INSTANTIATE(c10::BFloat16);

}  // namespace selm::cpu
