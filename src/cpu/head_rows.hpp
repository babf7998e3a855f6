#pragma once

#include <cstdint>
#include <limits>

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

/// Vocabulary entries [first, first + width), in blocks.
struct Group {
  std::int64_t first;
  std::int64_t width;
  std::int64_t block_width;  ///< at most `widest_block`; the last block may have fewer

  /// A block's lanes are summed in float.
  static constexpr std::int64_t widest_block = 512;
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

/// What is kept of a group, so that gradients need no logits: until backward, or until they have
/// been summed. Without `exponentials` nothing is kept.
template <typename Gradient>
struct KeptGroup {
  Gradient* exponentials;  ///< exp(z - max z of the block) dz/ds, up to a factor of all tokens
  std::int64_t stride;     ///< of the exponentials, from row to row
  float* maxima;           ///< (blocks, rows)

  float& max(const HeadRows& rows, std::int64_t block, std::int64_t row) const {
    return maxima[block * rows.count + row];
  }
};

/// Raw logits of a group, (rows, width).
struct GroupLogits {
  float* data;
  std::int64_t stride;  ///< from row to row
};

/// Takes in a group; its logits are overwritten. Exponentials of type float may take their place.
template <typename Gradient>
void sum_group(const HeadRows& rows, const Group& group, const GroupLogits& logits,
               bool with_statistics, const RunningRows& running, const KeptGroup<Gradient>& kept);

/// Where a finished row goes. `summary`: max, log_sum and one_minus_prob of TokenLogp per row, of
/// logits after their softcap.
struct FinishedRows {
  float* logps;
  float* summary;
  float* target_slopes;  ///< or null: derivatives of the transform at the targets
  RowStatisticsOutputs statistics;
};

/// After the last group.
void finish_rows(const HeadRows& rows, const RunningRows& running, const FinishedRows& out);

/// Numbers of each row that a gradient is made with.
struct RowGradients {
  const float* summary;
  const float* target_slopes;
  const float* upstream;  ///< of the log-probabilities
};

/// The gradient with respect to a group's raw logits, made of what was kept, into `out`, whose rows
/// are `stride` apart; `out` may be what was kept.
template <typename Gradient>
void kept_gradient(const HeadRows& rows, const Group& group, const KeptGroup<Gradient>& kept,
                   const RowGradients& numbers, Gradient* out, std::int64_t stride);

/// For sums over tokens that are made while groups pass: exponentials become relative to a value
/// per row, its largest logit so far or one not far below. Online softmax (Milakov & Gimelshein,
/// 2018, algorithm 3), with weights for what is summed.
///
/// `references`, (rows), are `lowest_reference` at first. Returns whether some have risen;
/// `factors`, (rows), make earlier sums relative to the present ones.
template <typename Gradient>
bool relate_group(const HeadRows& rows, const Group& group, const KeptGroup<Gradient>& exponentials,
                  float* references, float* factors);

constexpr float lowest_reference = std::numeric_limits<float>::lowest();

/// The gradient of a finished row's log-probability is `factors` times its sum, plus `of_target`
/// times what belongs to the target.
void finish_sums(const HeadRows& rows, const float* references, const float* summary,
                 const float* target_slopes, float* factors, float* of_target);

/// Upstream gradients per row; a null `entropy` stands for zeros.
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
