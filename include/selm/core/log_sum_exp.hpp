#pragma once

#include <cmath>

#include "selm/core/math.hpp"

/// @file
/// Log-sum-exp as a monoid, so that every back end may split a row where it likes.

namespace selm {

/// A partial sum of exponentials: `sum` is the sum of exp(x - max) over the values seen so far.
/// The default is the neutral element (no value seen). `merge` is associative and commutative
/// up to rounding; a fixed merge order gives a bitwise reproducible result.
template <typename T>
struct LogSumExp {
  T max = minus_infinity<T>;
  T sum = T(0);

  SELM_HOST_DEVICE static LogSumExp of(T x) { return {x, T(1)}; }

  /// log of the sum of exp over all values seen; -inf when there was none.
  SELM_HOST_DEVICE T value() const { return max + std::log(sum); }
};

/// Difference of two exponents. Callers with a scaled exponent pass their own.
struct PlainDifference {
  template <typename T>
  SELM_HOST_DEVICE T operator()(T x, T max) const {
    return x - max;
  }
};

/// Union of two partial sums. `difference(x, max)` gives the exponent of x relative to max; it must
/// grow with x. A part without any finite weight counts nothing, because -inf - (-inf) is not 0; a
/// NaN in its sum is kept.
template <typename T, typename Difference = PlainDifference>
SELM_HOST_DEVICE LogSumExp<T> merge(const LogSumExp<T>& a, const LogSumExp<T>& b,
                                    Difference difference = {}) {
  const LogSumExp<T> high = a.max < b.max ? b : a;
  const LogSumExp<T> low = a.max < b.max ? a : b;
  const T weight = low.max == minus_infinity<T> ? T(0) : std::exp(difference(low.max, high.max));
  return {high.max, high.sum + low.sum * weight};
}

}  // namespace selm
