#pragma once

#include <cmath>
#include <limits>

#include "selm/core/macros.hpp"

/// @file
/// Scalar functions that stay accurate over the whole range of their argument.

namespace selm {

/// A constant, because device code may not call the functions of std::numeric_limits.
template <typename T>
inline constexpr T minus_infinity = -std::numeric_limits<T>::infinity();

/// Likewise a constant.
template <typename T>
inline constexpr T quiet_nan = std::numeric_limits<T>::quiet_NaN();

/// A function's value and its derivative at one point, from shared sub-expressions.
template <typename T>
struct ValueAndGrad {
  T value;
  T grad;
};

/// log(sigmoid(x)) and its derivative sigmoid(-x). Exact limits at infinities: value 0 and -inf.
template <typename T>
SELM_HOST_DEVICE ValueAndGrad<T> log_sigmoid(T x) {
  const T e = std::exp(-std::fabs(x));
  const T negative_part = x < T(0) ? x : T(0);
  // A comparison is false for NaN, so NaN must be carried by e, which it is.
  return {negative_part - std::log1p(e), (x < T(0) ? T(1) : e) / (T(1) + e)};
}

/// 1 / (1 + exp(-x)), without overflow.
template <typename T>
SELM_HOST_DEVICE T sigmoid(T x) {
  const T e = std::exp(-std::fabs(x));
  return (x < T(0) ? e : T(1)) / (T(1) + e);
}

/// The derivative of the sigmoid, sigmoid(x) * sigmoid(-x).
template <typename T>
SELM_HOST_DEVICE T sigmoid_slope(T x) {
  const T e = std::exp(-std::fabs(x));
  return e / ((T(1) + e) * (T(1) + e));
}

/// sigmoid_slope(a) - sigmoid_slope(b), from the difference of a and b that the caller knows best:
/// where the slopes are close they have no digits left for it.
template <typename T>
SELM_HOST_DEVICE T sigmoid_slope_difference(T a, T b, T a_minus_b) {
  const bool a_is_nearer = std::fabs(a) < std::fabs(b);
  const T near = a_is_nearer ? a : b, e = std::exp(-std::fabs(a_is_nearer ? b : a));
  const T size = sigmoid_slope(near) * std::expm1(-std::fabs(a_minus_b)) *
                 std::expm1(-std::fabs(a + b)) / ((T(1) + e) * (T(1) + e));
  return a_is_nearer ? size : -size;
}

/// a * b where a factor that is exactly 0 wins over an infinite one: the limit where one of them
/// vanishes faster than the other grows, as exponentials do.
template <typename T>
SELM_HOST_DEVICE T vanishing_product(T a, T b) {
  return a == T(0) || b == T(0) ? T(0) : a * b;
}

/// log(1 - exp(x)) for x <= 0, by the branch that loses no digits on either side of -log 2
/// (Maechler, "Accurately computing log(1 - exp(-|a|))", 2012).
template <typename T>
SELM_HOST_DEVICE T log1mexp(T x) {
  constexpr T minus_log_2 = T(-0.693147180559945309417232121458L);
  return x > minus_log_2 ? std::log(-std::expm1(x)) : std::log1p(-std::exp(x));
}

/// exp(x) - 1 - x, never negative. Near 0 by its series: the difference has no digits there.
template <typename T>
SELM_HOST_DEVICE T expm1_minus_x(T x) {
  if (std::fabs(x) > T(0.5)) {
    const T e = std::expm1(x);
    return std::isinf(e) ? e
                         : e - x;  // x may be infinite too, and is then far below its exponential
  }
  T series = T(1);
  for (int n = 16; n > 2; --n) {
    series = T(1) + series * x / T(n);
  }
  return x * x / T(2) * series;
}

}  // namespace selm
