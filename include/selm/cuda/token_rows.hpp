#pragma once

#include <cstdint>

#include "selm/core/accumulation.hpp"
#include "selm/core/math.hpp"
#include "selm/core/row_statistics.hpp"
#include "selm/core/row_view.hpp"
#include "selm/core/token_logp.hpp"
#include "selm/cuda/row_pass.hpp"

/// @file
/// What a block of threads does with one row of logits: everything of the kernels but the launch.
/// A `Block` has `thread()`, a RowThread, and `reduce(value, merge)`, which merges the values of
/// all threads in a fixed order and gives every thread the result.

#if defined(__CUDACC__)
#define SELM_ANY_BLOCK _Pragma("nv_exec_check_disable")  // a Block may be of one side only
#else
#define SELM_ANY_BLOCK
#endif

namespace selm::cuda {

/// Rows of logits, and the token of each that is scored.
template <typename Storage>
struct TokenRows {
  RowView<const Storage> logits;
  const std::int64_t* targets;
  std::int64_t count;
  std::int64_t vocab;
  std::int64_t ignore_index;
  LogitTransform<accumulation_t<Storage>> transform;

  SELM_HOST_DEVICE bool is_ignored(std::int64_t row) const { return targets[row] == ignore_index; }
  SELM_HOST_DEVICE bool has_target(std::int64_t row) const {
    return targets[row] >= 0 && targets[row] < vocab;
  }
};

/// Results of the forward pass; of `logps` one value per row, of `summary` (null if not wanted)
/// the three of TokenLogp that the backward pass reads.
template <typename T>
struct TokenLogpOutputs {
  T* logps;
  T* summary;
  RowStatisticsOutputs statistics;

  SELM_HOST_DEVICE void store(std::int64_t row, const TokenLogp<T>& token) const {
    logps[row] = token.logp;
    if (summary != nullptr) {
      summary[3 * row] = token.max;
      summary[3 * row + 1] = token.log_sum;
      summary[3 * row + 2] = token.one_minus_prob;
    }
  }
};

namespace detail {

/// A row without a valid target: all NaN, and no token is its best one.
template <typename T>
SELM_HOST_DEVICE void store_invalid(std::int64_t row, std::int64_t vocab,
                                    const TokenLogpOutputs<T>& out) {
  constexpr T nan = quiet_nan<T>;
  constexpr std::int64_t no_target = -1;
  const TokenLogp<T> token{nan, nan, nan, nan};
  RowStatistics<T> statistics;
  statistics.mean_exponent = statistics.sum_sq_probs = statistics.sum_logits = nan;
  out.store(row, token);
  out.statistics.store(row, statistics, token, no_target, vocab);
}

/// A row with a valid target. `rows.transform` is passed for itself, so that a kernel may pass one
/// of which more is known.
SELM_ANY_BLOCK
template <typename Block, typename Storage, typename T>
SELM_HOST_DEVICE void score_target(const Block& block, const TokenRows<Storage>& rows,
                                   const LogitTransform<T>& transform, std::int64_t row,
                                   const TokenLogpOutputs<T>& out) {
  const Storage* s = rows.logits[row];
  const std::int64_t target = rows.targets[row];
  const auto cut = RowCut<Storage>::of(s, rows.vocab);

  ExpSum<T> others(target, transform);
  visit_row(s, cut, block.thread(), others);
  const LogSumExp<T> rest = block.reduce(
      others.total(), [&](const auto& a, const auto& b) { return merge(a, b, transform); });
  const TokenLogp<T> token = token_logp(rest, static_cast<T>(s[target]), transform);
  if (block.thread().index == 0) {
    out.store(row, token);
  }
  if (!out.statistics.any()) {
    return;
  }
  StatisticsSum<T> every{token, transform, {}};
  visit_row(s, cut, block.thread(), every);
  const RowStatistics<T> statistics = block.reduce(every.total, [](auto a, const auto& b) {
    a.merge(b);
    return a;
  });
  if (block.thread().index == 0) {
    out.statistics.store(row, statistics, token, target, rows.vocab);
  }
}

}  // namespace detail

/// Forward pass over one row.
SELM_ANY_BLOCK
template <typename Block, typename Storage, typename T>
SELM_HOST_DEVICE void score_row(const Block& block, const TokenRows<Storage>& rows,
                                const LogitTransform<T>& transform, std::int64_t row,
                                const TokenLogpOutputs<T>& out) {
  if (!rows.is_ignored(row) && rows.has_target(row)) {
    detail::score_target(block, rows, transform, row, out);
  } else if (block.thread().index == 0) {
    if (rows.is_ignored(row)) {
      out.store(row, TokenLogp<T>{});
      out.statistics.store_ignored(row);
    } else {
      detail::store_invalid(row, rows.vocab, out);
    }
  }
}

/// Backward pass over one row: d_logits = upstream * d logp / d logits, in place if it is the row.
SELM_ANY_BLOCK
template <typename Block, typename Storage, typename T>
SELM_HOST_DEVICE void differentiate_row(const Block& block, const TokenRows<Storage>& rows,
                                        const LogitTransform<T>& transform, std::int64_t row,
                                        const T* summary, const T* grad,
                                        const RowView<Storage>& d_logits) {
  Storage* d = d_logits[row];
  if (rows.is_ignored(row) || !rows.has_target(row)) {
    const T value = rows.is_ignored(row) ? T(0) : quiet_nan<T>;
    fill_row(d, RowCut<Storage>::of(d, rows.vocab), block.thread(), static_cast<Storage>(value));
    return;
  }
  const TokenLogp<T> token{T(0), summary[3 * row], summary[3 * row + 1], summary[3 * row + 2]};
  const T upstream = grad == nullptr ? T(1) : grad[row];
  const Storage* s = rows.logits[row];
  visit_row(s, RowCut<Storage>::of(s, d, rows.vocab), block.thread(),
            GradientWriter<T, Storage>{token, transform, rows.targets[row], upstream, d});
}

}  // namespace selm::cuda

#undef SELM_ANY_BLOCK
