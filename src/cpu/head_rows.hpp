#pragma once

#include <cstdint>

#include "selm/core/row_part.hpp"
#include "selm/core/token_logp.hpp"

/// @file
/// The row passes of linear_logps on the CPU, in float32. The logits of all rows exist one group of
/// vocabulary entries at a time, and are taken in while they are in the cache. A group is passed
/// over in blocks, in parallel over rows and blocks: few rows have groups of many blocks.
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

/// Vocabulary entries [first, first + width).
struct Group {
  std::int64_t first;
  std::int64_t width;

  /// A block's lanes are summed in float.
  static constexpr std::int64_t block_width = 1024;
  std::int64_t blocks() const { return (width + block_width - 1) / block_width; }
};

/// What is known of a row while groups pass, from one of the blocks of each. Parts are merged in
/// double: there may be hundreds.
struct RunningRow {
  LogSumExp<double> others;    ///< all tokens but the target
  RowPart<double> statistics;  ///< all tokens but the target
  float target_logit = 0.0f;   ///< 0 in all blocks but the target's
  float target_slope = 0.0f;   ///< derivative of the transform there; likewise
};

/// (rows, blocks of the widest group).
struct RunningRows {
  RunningRow* entries;
  std::int64_t blocks;
};

/// What is kept of the first `count` rows, so that their gradients need no logits. Of one group:
/// exponentials (count, width) and maxima (count, blocks).
template <typename Gradient>
struct KeptRows {
  Gradient* exponentials;  ///< exp(z - max z of the block) dz/ds, up to a factor of all tokens
  float* maxima;
  float* target_slopes;  ///< (count,)
  std::int64_t count;
};

/// Takes in a group; its raw logits, (rows, width), are overwritten.
template <typename Gradient>
void sum_group(const HeadRows& rows, const Group& group, float* logits, bool with_statistics,
               const RunningRows& running, const KeptRows<Gradient>& kept);

/// Where a finished row goes. `summary`: max, log_sum and one_minus_prob of TokenLogp per row, of
/// logits after their softcap.
struct FinishedRows {
  float* logps;
  float* summary;
  RowStatisticsOutputs statistics;
};

/// After the last group.
template <typename Gradient>
void finish_rows(const HeadRows& rows, const RunningRows& running, const KeptRows<Gradient>& kept,
                 const FinishedRows& out);

/// d logp / d raw logits of a group, of the rows that were kept, into `out`, (kept rows, width).
template <typename Gradient>
void kept_gradient(const HeadRows& rows, const Group& group, const KeptRows<Gradient>& kept,
                   const float* summary, Gradient* out);

/// Upstream gradients per row; null `logps` stand for ones, and a null `entropy` for zeros.
struct HeadUpstream {
  const float* logps;
  const float* entropy;
  const float* entropy_values;
};

/// The gradient with respect to a group's raw logits, into `out`, (rows, width); the logits are
/// overwritten.
template <typename Gradient>
void group_gradient(const HeadRows& rows, const Group& group, float* logits, const float* summary,
                    const HeadUpstream& upstream, Gradient* out);

}  // namespace selm::cpu
