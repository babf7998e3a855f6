#pragma once

#include "selm/core/row_statistics.hpp"

/// @file
/// The statistics of a row from one read of its logits: sums over a part of the row are relative to
/// the part's own largest logit, and are rescaled when parts meet.

namespace selm {

/// Sums over a part of one row, x = z - max z of the part; the default is the neutral element.
template <typename T>
struct RowPart {
  LogSumExp<T> exponentials;
  T weighted_exponent = T(0);                                          ///< sum of exp(x) * x
  T sum_sq = T(0);                                                     ///< sum of exp(2 x)
  T sum_logits = T(0);                                                 ///< sum of z
  std::int64_t best_index = std::numeric_limits<std::int64_t>::max();  ///< of the largest logit

  /// One token with raw logit s.
  SELM_HOST_DEVICE static RowPart of(T s, std::int64_t index, const LogitTransform<T>& transform) {
    return {LogSumExp<T>::of(s), T(0), T(1), transform.value(s), index};
  }

  /// Of the whole row.
  SELM_HOST_DEVICE RowStatistics<T> statistics() const {
    const T sum = exponentials.sum;
    return {weighted_exponent / sum, sum_sq / (sum * sum), sum_logits, exponentials.max,
            best_index};
  }
};

/// Union of two parts; `transform(s, max)` is z(s) - z(max).
template <typename T>
SELM_HOST_DEVICE RowPart<T> merge(const RowPart<T>& a, const RowPart<T>& b,
                                  const LogitTransform<T>& transform) {
  const bool b_is_higher = a.exponentials.max < b.exponentials.max;
  const RowPart<T>& high = b_is_higher ? b : a;
  const RowPart<T>& low = b_is_higher ? a : b;
  RowPart<T> both = high;
  both.exponentials = merge(a.exponentials, b.exponentials, transform);
  both.sum_logits += low.sum_logits;
  if (low.exponentials.max == high.exponentials.max && low.best_index < high.best_index) {
    both.best_index = low.best_index;  // a tie goes to the first index
  }
  const T shift = transform(low.exponentials.max, high.exponentials.max);
  const T weight = std::exp(shift);
  if (weight > T(0)) {  // else the lower part counts nothing, whatever its exponents
    both.weighted_exponent += weight * (low.weighted_exponent + shift * low.exponentials.sum);
    both.sum_sq += weight * weight * low.sum_sq;
  }
  return both;
}

}  // namespace selm
