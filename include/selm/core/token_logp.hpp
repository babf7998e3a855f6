#pragma once

#include <cmath>
#include <cstdint>

#include "selm/core/log_sum_exp.hpp"
#include "selm/core/macros.hpp"

/// @file
/// The log-probability of one token from a row of vocabulary logits, and its gradient.

namespace selm {

/// How raw head outputs s become logits: z(s) = softcap * tanh(logit_scale * s / softcap) /
/// temperature, or z(s) = logit_scale * s / temperature without softcap. Increasing in s, since all
/// factors are > 0.
template <typename T>
struct LogitTransform {
  T scale;  ///< logit_scale / temperature
  T inner;  ///< logit_scale / softcap; 0 means no softcap
  T outer;  ///< softcap / temperature

  /// `softcap` = 0 means none.
  static LogitTransform make(double temperature, double logit_scale, double softcap) {
    const bool capped = softcap > 0.0;
    return {T(logit_scale / temperature), capped ? T(logit_scale / softcap) : T(0),
            capped ? T(softcap / temperature) : T(0)};
  }

  SELM_HOST_DEVICE bool has_softcap() const { return inner != T(0); }

  /// A masked token, s = -inf, stays masked under a softcap: z(-inf) = -inf.
  SELM_HOST_DEVICE T value(T s) const {
    return has_softcap() && s != minus_infinity<T> ? outer * std::tanh(inner * s) : scale * s;
  }

  /// z(s) - z(max). Without softcap the subtraction comes first, so that a large common offset of
  /// the logits costs no digits.
  SELM_HOST_DEVICE T operator()(T s, T max) const {
    return has_softcap() ? value(s) - value(max) : scale * (s - max);
  }

  /// dz/ds.
  SELM_HOST_DEVICE T derivative(T s) const {
    if (!has_softcap()) {
      return scale;
    }
    const T t = std::tanh(inner * s);
    return scale * (T(1) - t) * (T(1) + t);
  }
};

/// What a backward pass needs to know of a row, beside its logits.
template <typename T>
struct TokenLogp {
  T logp;            ///< log softmax(z)[target], never > 0
  T max;             ///< largest raw logit s of the row, or one not far below
  T log_sum;         ///< log of the sum of exp(z(s) - z(max)), never < 0
  T one_minus_prob;  ///< 1 - exp(logp), from its own sum: exp(logp) - 1 has no digits left for a
                     ///< confident token

  /// What a backward pass reads: row `row` of `summary`, (rows, 3), holds max, log_sum and
  /// one_minus_prob.
  SELM_HOST_DEVICE static TokenLogp from_summary(const T* summary, std::int64_t row) {
    return {T(0), summary[3 * row], summary[3 * row + 1], summary[3 * row + 2]};
  }
  SELM_HOST_DEVICE void store_summary(T* summary, std::int64_t row) const {
    summary[3 * row] = max;
    summary[3 * row + 1] = log_sum;
    summary[3 * row + 2] = one_minus_prob;
  }
};

/// Closes a row: `rest` sums over every token but the target, whose raw logit is `target`. Ignoring
/// the transform: logp = (target - max) - log(sum), in that order. A row that cannot be normalised
/// (a NaN or +inf logit, or every logit -inf) is NaN throughout.
template <typename T>
SELM_HOST_DEVICE TokenLogp<T> token_logp(const LogSumExp<T>& rest, T target,
                                         const LogitTransform<T>& transform) {
  const bool target_is_max = rest.sum == T(0) || rest.max <= target;
  const T max = target_is_max ? target : rest.max;
  const T zero = max - max;  // NaN where max is infinite
  if (target_is_max) {
    const T others = rest.sum == T(0) ? T(0) : rest.sum * std::exp(transform(rest.max, target));
    const T log_sum = std::log1p(others) + zero;
    return {T(0) - log_sum, max, log_sum, others / (T(1) + others) + zero};
  }
  const T exponent = transform(target, max);
  const T sum = rest.sum + std::exp(exponent);
  const T log_sum = std::log(sum) + zero;
  return {exponent - log_sum, max, log_sum, rest.sum / sum + zero};
}

/// softmax(z)[v] for the token with raw logit s.
template <typename T>
SELM_HOST_DEVICE T token_prob(T s, const TokenLogp<T>& row, const LogitTransform<T>& transform) {
  return std::exp(transform(s, row.max) - row.log_sum);
}

/// Derivative of logp with respect to a non-target raw logit s.
template <typename T>
SELM_HOST_DEVICE T token_logp_grad(T s, const TokenLogp<T>& row,
                                   const LogitTransform<T>& transform) {
  return -token_prob(s, row, transform) * transform.derivative(s);
}

/// Derivative of logp with respect to the target's raw logit s.
template <typename T>
SELM_HOST_DEVICE T target_logp_grad(T s, const TokenLogp<T>& row,
                                    const LogitTransform<T>& transform) {
  return row.one_minus_prob * transform.derivative(s);
}

}  // namespace selm
