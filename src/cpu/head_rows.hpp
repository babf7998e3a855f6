#pragma once

#include <cstdint>

#include "selm/core/row_part.hpp"
#include "selm/core/token_logp.hpp"

/// @file
/// The row passes of linear_logps on the CPU, in float32 and parallel over rows. The logits of all
/// rows exist one group of vocabulary entries at a time, and are taken in while they are in the
/// cache.
///
/// Gradients of logits (`Gradient`) are float or c10::BFloat16.

namespace selm::cpu {

/// Rows to score. Targets must have been checked.
struct HeadRows {
  std::int64_t count;
  std::int64_t vocab;
  const std::int64_t* targets;
  LogitTransform<float> transform;
};

/// Raw logits of `width` vocabulary entries from `first` on, (rows, width). Passes overwrite them.
struct LogitGroup {
  float* logits;
  std::int64_t first;
  std::int64_t width;
};

/// What is known of a row while its groups pass. Parts are merged in double: there may be hundreds.
struct RunningRow {
  LogSumExp<double> others;    ///< all tokens but the target
  RowPart<double> statistics;  ///< all tokens but the target
  float target_logit = 0.0f;
  float target_slope = 0.0f;  ///< derivative of the transform at the target's logit
};

/// The first `count` rows' gradients of logits, (count, vocab), and the maxima of their groups,
/// (count, groups). Until the last group has passed they are exponentials relative to these.
template <typename Gradient>
struct KeptRows {
  Gradient* values;
  float* maxima;
  std::int64_t count;
  std::int64_t groups;
};

/// Takes in group number `index`.
template <typename Gradient>
void sum_group(const HeadRows& rows, const LogitGroup& group, std::int64_t index,
               bool with_statistics, RunningRow* running, const KeptRows<Gradient>& kept);

/// Where a finished row goes. `summary`: max, log_sum and one_minus_prob of TokenLogp per row, of
/// logits after their softcap.
struct FinishedRows {
  float* logps;
  float* summary;
  RowStatisticsOutputs statistics;
};

/// After the last group, all of them `width` wide but the last. The kept rows become
/// d logp / d logits.
template <typename Gradient>
void finish_rows(const HeadRows& rows, std::int64_t width, const RunningRow* running,
                 const KeptRows<Gradient>& kept, const FinishedRows& out);

/// Upstream gradients per row; null `logps` stand for ones, and a null `entropy` for zeros.
struct HeadUpstream {
  const float* logps;
  const float* entropy;
  const float* entropy_values;
};

/// The gradient with respect to a group's raw logits, into `out`, (rows, width) with `out_stride`
/// from row to row.
template <typename Gradient>
void group_gradient(const HeadRows& rows, const LogitGroup& group, const float* summary,
                    const HeadUpstream& upstream, Gradient* out, std::int64_t out_stride);

}  // namespace selm::cpu
