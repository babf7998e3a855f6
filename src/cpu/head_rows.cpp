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

/// One row of a group. Its softcap is applied at once; its derivative is one factor for all tokens,
/// or with a softcap one per token.
class GroupRow {
 public:
  /// `slopes` is scratch, and must outlive the row.
  GroupRow(const HeadRows& rows, const LogitGroup& group, std::int64_t row,
           std::vector<float>& slopes)
      : s_(group.logits + row * group.width),
        first_(group.first),
        width_(group.width),
        target_(rows.targets[row] - group.first),
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
               ? row_math().log_sum_exp(s_, width_, transform_.scale)
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

/// Of exponentials relative to the group's maximum; a block shares the factor -p.
template <typename Gradient>
void make_gradients(const HeadRows& rows, std::int64_t row, std::int64_t width,
                    const TokenLogp<float>& token, float target_slope,
                    const KeptRows<Gradient>& kept) {
  const LogitTransform<float> transform = uncapped(rows.transform);
  Gradient* const values = kept.values + row * rows.vocab;
  for (std::int64_t g = 0; g < kept.groups; ++g) {
    const float max = kept.maxima[row * kept.groups + g];
    const std::int64_t first = g * width;
    row_math().to<Gradient>().multiply(
        values + first, std::min(width, rows.vocab - first),
        -transform.scale * std::exp(transform(max, token.max) - token.log_sum));
  }
  values[rows.targets[row]] = static_cast<Gradient>(token.one_minus_prob * target_slope);
}

}  // namespace

template <typename Gradient>
void sum_group(const HeadRows& rows, const LogitGroup& group, std::int64_t index,
               bool with_statistics, RunningRow* running, const KeptRows<Gradient>& kept) {
  const LogitTransform<double> transform = widened(uncapped(rows.transform));
  at::parallel_for(0, rows.count, grain(group.width), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> slopes;
    for (std::int64_t i = begin; i < end; ++i) {
      GroupRow row(rows, group, i, slopes);
      RunningRow& total = running[i];
      if (with_statistics) {
        total.statistics = merge(total.statistics, widened(row.statistics()), transform);
      }
      if (row.holds_target()) {
        total.target_logit = row.target_logit();
        total.target_slope = row.target_slope();
        row.mask_target();
      }
      const bool is_kept = i < kept.count;
      const LogSumExp<float> part =
          row.exponentials(is_kept ? kept.values + i * rows.vocab + group.first : nullptr);
      if (is_kept) {
        kept.maxima[i * kept.groups + index] = part.max;
      }
      total.others = merge(total.others, widened(part), transform);
    }
  });
}

template <typename Gradient>
void finish_rows(const HeadRows& rows, std::int64_t width, const RunningRow* running,
                 const KeptRows<Gradient>& kept, const FinishedRows& out) {
  const LogitTransform<float> transform = uncapped(rows.transform);
  at::parallel_for(
      0, rows.count, grain(kept.count > 0 ? rows.vocab : 16),
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const RunningRow& row = running[i];
          const TokenLogp<float> token =
              token_logp(LogSumExp<float>{static_cast<float>(row.others.max),
                                          static_cast<float>(row.others.sum)},
                         row.target_logit, transform);
          out.logps[i] = token.logp;
          out.summary[3 * i] = token.max;
          out.summary[3 * i + 1] = token.log_sum;
          out.summary[3 * i + 2] = token.one_minus_prob;
          if (out.statistics.any()) {
            const std::int64_t target = rows.targets[i];
            const auto alone = RowPart<double>::of(row.target_logit, target, widened(transform));
            out.statistics.store(i, merge(row.statistics, alone, widened(transform)).statistics(),
                                 widened(token), target, rows.vocab);
          }
          if (i < kept.count) {
            make_gradients(rows, i, width, token, row.target_slope, kept);
          }
        }
      });
}

template <typename Gradient>
void group_gradient(const HeadRows& rows, const LogitGroup& group, const float* summary,
                    const HeadUpstream& upstream, Gradient* out, std::int64_t out_stride) {
  const LogitTransform<float> transform = uncapped(rows.transform);
  at::parallel_for(0, rows.count, grain(group.width), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> slopes;
    for (std::int64_t i = begin; i < end; ++i) {
      const GroupRow row(rows, group, i, slopes);
      const TokenLogp<float> token{0.0f, summary[3 * i], summary[3 * i + 1], summary[3 * i + 2]};
      const float by_logp = upstream.logps == nullptr ? 1.0f : upstream.logps[i];
      // d entropy / d z = -p (log p + entropy)
      const float by_entropy = upstream.entropy == nullptr ? 0.0f : upstream.entropy[i];
      const float shift = by_entropy == 0.0f ? 0.0f : by_entropy * upstream.entropy_values[i];
      float at_target = by_logp * token.one_minus_prob;
      if (by_entropy != 0.0f && row.holds_target()) {
        const float log_prob = transform(row.target_logit(), token.max) - token.log_sum;
        at_target -= std::exp(log_prob) * (by_entropy * log_prob + shift);
      }
      row.gradient(token, {-(by_logp + shift), -by_entropy}, at_target, out + i * out_stride);
    }
  });
}

#define SELM_INSTANTIATE(Gradient)                                                          \
  template void sum_group<Gradient>(const HeadRows&, const LogitGroup&, std::int64_t, bool, \
                                    RunningRow*, const KeptRows<Gradient>&);                \
  template void finish_rows<Gradient>(const HeadRows&, std::int64_t, const RunningRow*,     \
                                      const KeptRows<Gradient>&, const FinishedRows&);      \
  template void group_gradient<Gradient>(const HeadRows&, const LogitGroup&, const float*,  \
                                         const HeadUpstream&, Gradient*, std::int64_t)

SELM_INSTANTIATE(float);
SELM_INSTANTIATE(c10::BFloat16);

}  // namespace selm::cpu
