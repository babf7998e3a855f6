#pragma once

#include <cmath>
#include <cstdint>

#include "selm/core/accumulation.hpp"
#include "selm/core/math.hpp"
#include "selm/core/row_statistics.hpp"
#include "selm/core/row_view.hpp"
#include "selm/core/token_logp.hpp"
#include "selm/cuda/row_pass.hpp"

/// @file
/// What a block of threads, or a cluster of blocks, does with one row of logits: everything of the
/// kernels but the launch. A `Block` has `thread()`, a RowThread, and `reduce(value, merge)`, which
/// merges the values of all threads in a fixed order and gives every thread the result.

#if defined(__CUDACC__)
#define SELM_ANY_BLOCK _Pragma("nv_exec_check_disable")  // a Block may be of one side only
#else
#define SELM_ANY_BLOCK
#endif

namespace selm::cuda {

/// Rows of logits, and the token of each that is scored. In a backward pass they may be `vocab`
/// columns from vocabulary entry `first` on.
template <typename Storage>
struct TokenRows {
  RowView<const Storage> logits;
  const std::int64_t* targets;
  std::int64_t count;
  std::int64_t vocab;
  std::int64_t ignore_index;
  LogitTransform<accumulation_t<Storage>> transform;
  std::int64_t first = 0;

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
      token.store_summary(summary, row);
    }
  }
};

/// Where the gradients of rows go, each times `scale`; no data: not wanted.
template <typename Gradient, typename T>
struct TokenGradients {
  RowView<Gradient> d_logits;
  T scale;

  SELM_HOST_DEVICE Gradient* row(std::int64_t i) const {
    return d_logits.data == nullptr ? nullptr : d_logits[i];
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

/// A row without log-probability: its label is ignored, or is not a token.
SELM_ANY_BLOCK
template <typename Block, typename Storage, typename T>
SELM_HOST_DEVICE void store_unscored(const Block& block, const TokenRows<Storage>& rows,
                                     std::int64_t row, const TokenLogpOutputs<T>& out) {
  if (block.thread().index != 0) {
    return;
  }
  if (rows.is_ignored(row)) {
    out.store(row, TokenLogp<T>{});
    out.statistics.store_ignored(row);
  } else {
    store_invalid(row, rows.vocab, out);
  }
}

/// Its gradient.
SELM_ANY_BLOCK
template <typename Block, typename Storage, typename Gradient>
SELM_HOST_DEVICE void fill_unscored(const Block& block, const TokenRows<Storage>& rows,
                                    std::int64_t row, Gradient* d) {
  using T = accumulation_t<Storage>;
  const T value = rows.is_ignored(row) ? T(0) : quiet_nan<T>;
  fill_row(d, RowCut<Gradient>::of(d, rows.vocab), block.thread(), static_cast<Gradient>(value));
}

/// A row with a valid target, from the source `first`, and once more from `again` where statistics
/// are asked for. `rows.transform` is passed for itself, so that a kernel may pass one of which
/// more is known.
SELM_ANY_BLOCK
template <typename Block, typename Storage, typename T, typename First, typename Again>
SELM_HOST_DEVICE TokenLogp<T> score_target(const Block& block, const TokenRows<Storage>& rows,
                                           const LogitTransform<T>& transform, std::int64_t row,
                                           const RowCut<Storage>& cut, const First& first,
                                           const Again& again, const TokenLogpOutputs<T>& out) {
  const std::int64_t target = rows.targets[row];
  ExpSum<T> others(target, transform);
  visit_row(first, cut, block.thread(), others);
  const LogSumExp<T> rest = block.reduce(
      others.total(), [&](const auto& a, const auto& b) { return merge(a, b, transform); });
  const TokenLogp<T> token = token_logp(rest, static_cast<T>(rows.logits[row][target]), transform);
  if (block.thread().index == 0) {
    out.store(row, token);
  }
  if (out.statistics.any()) {
    StatisticsSum<T> every{token, transform, {}};
    visit_row(again, cut, block.thread(), every);
    const RowStatistics<T> statistics = block.reduce(every.total, [](auto a, const auto& b) {
      a.merge(b);
      return a;
    });
    if (block.thread().index == 0) {
      out.statistics.store(row, statistics, token, target, rows.vocab);
    }
  }
  return token;
}

/// The same, and the row's gradient.
SELM_ANY_BLOCK
template <typename Block, typename Storage, typename T, typename First, typename Again,
          typename Gradient>
SELM_HOST_DEVICE void differentiate_target(const Block& block, const TokenRows<Storage>& rows,
                                           const LogitTransform<T>& transform, std::int64_t row,
                                           const RowCut<Storage>& cut, const First& first,
                                           const Again& again, const TokenLogpOutputs<T>& out,
                                           T scale, Gradient* d) {
  const TokenLogp<T> token = score_target(block, rows, transform, row, cut, first, again, out);
  if (d != nullptr) {
    visit_row(again, cut, block.thread(),
              GradientWriter<T, Gradient>{token, transform, rows.targets[row], scale, d});
  }
}

}  // namespace detail

/// Forward pass over one row.
SELM_ANY_BLOCK
template <typename Block, typename Storage, typename T>
SELM_HOST_DEVICE void score_row(const Block& block, const TokenRows<Storage>& rows,
                                const LogitTransform<T>& transform, std::int64_t row,
                                const TokenLogpOutputs<T>& out) {
  if (rows.is_ignored(row) || !rows.has_target(row)) {
    detail::store_unscored(block, rows, row, out);
    return;
  }
  const GlobalRow<Storage> source{rows.logits[row]};
  detail::score_target(block, rows, transform, row, RowCut<Storage>::of(source.row, rows.vocab),
                       source, source, out);
}

/// Forward pass over one row, and its gradient. The row is read once if `stash` has memory for it,
/// `stash_bytes` for each block, and twice or thrice else.
SELM_ANY_BLOCK
template <typename Block, typename Storage, typename T, typename Gradient>
SELM_HOST_DEVICE void score_and_differentiate_row(const Block& block,
                                                  const TokenRows<Storage>& rows,
                                                  const LogitTransform<T>& transform,
                                                  std::int64_t row, const StashMemory& stash,
                                                  const TokenLogpOutputs<T>& out,
                                                  const TokenGradients<Gradient, T>& gradients) {
  const Storage* s = rows.logits[row];
  Gradient* d = gradients.row(row);
  if (rows.is_ignored(row) || !rows.has_target(row)) {
    detail::store_unscored(block, rows, row, out);
    if (d != nullptr) {
      detail::fill_unscored(block, rows, row, d);
    }
    return;
  }
  const auto cut =
      d == nullptr ? RowCut<Storage>::of(s, rows.vocab) : RowCut<Storage>::of(s, d, rows.vocab);
  const auto differentiate = [&](const auto& first, const auto& again) {
    detail::differentiate_target(block, rows, transform, row, cut, first, again, out,
                                 gradients.scale, d);
  };
  if (stash.bytes != nullptr) {
    const RowStash<Storage> slots(stash, cut, block.thread());
    differentiate(StashingRow<Storage>{s, slots}, StashedRow<Storage>{slots});
  } else {
    differentiate(GlobalRow<Storage>{s}, GlobalRow<Storage>{s});
  }
}

/// Backward pass over one row: d_logits = upstream * d logp / d logits, in place if it is the row.
/// A row that could not be scored is known by its summary.
SELM_ANY_BLOCK
template <typename Block, typename Storage, typename T, typename Gradient>
SELM_HOST_DEVICE void differentiate_row(const Block& block, const TokenRows<Storage>& rows,
                                        const LogitTransform<T>& transform, std::int64_t row,
                                        const T* summary, const T* grad,
                                        const RowView<Gradient>& d_logits) {
  Gradient* d = d_logits[row];
  const auto token = TokenLogp<T>::from_summary(summary, row);
  if (rows.is_ignored(row) || std::isnan(token.log_sum)) {
    detail::fill_unscored(block, rows, row, d);
    return;
  }
  const T upstream = grad == nullptr ? T(1) : grad[row];
  const Storage* s = rows.logits[row];
  visit_row(
      GlobalRow<Storage>{s}, RowCut<Storage>::of(s, d, rows.vocab), block.thread(),
      GradientWriter<T, Gradient>{token, transform, rows.targets[row] - rows.first, upstream, d});
}

}  // namespace selm::cuda

#undef SELM_ANY_BLOCK
