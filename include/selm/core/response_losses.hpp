#pragma once

#include <cmath>

#include "selm/core/loss_traits.hpp"
#include "selm/core/math.hpp"
#include "selm/core/pair.hpp"

/// @file
/// Losses in which each response's log-ratio counts for itself, beside or in place of their
/// difference.

namespace selm {

/// NCA for pairs (arXiv 2402.05369), with the rewards r = beta * rho:
/// -log sigmoid(r_w) - log sigmoid(-r_w) / 2 - log sigmoid(-r_l) / 2.
template <typename T>
struct NcaPairLoss {
  static constexpr LossTraits traits = LossTraits("nca_pair");

  T beta;

  SELM_HOST_DEVICE static NcaPairLoss from(const LossParameters<T>& p) { return {p.beta}; }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const T chosen = beta * logratio(pair.chosen), rejected = beta * logratio(pair.rejected);
    const ValueAndGrad<T> up = log_sigmoid(chosen), down = log_sigmoid(-chosen);
    const ValueAndGrad<T> other = log_sigmoid(-rejected);
    return {-up.value - T(0.5) * down.value - T(0.5) * other.value,
            beta * (T(0.5) * down.grad - up.grad), T(0.5) * beta * other.grad};
  }
};

/// BCO on pairs, without its baseline (arXiv 2404.04656): -log sigmoid(r_w) - log sigmoid(-r_l).
template <typename T>
struct BcoPairLoss {
  static constexpr LossTraits traits = LossTraits("bco_pair");

  T beta;

  SELM_HOST_DEVICE static BcoPairLoss from(const LossParameters<T>& p) { return {p.beta}; }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const ValueAndGrad<T> up = log_sigmoid(beta * logratio(pair.chosen));
    const ValueAndGrad<T> down = log_sigmoid(-beta * logratio(pair.rejected));
    return {T(0) - up.value - down.value, -beta * up.grad, beta * down.grad};
  }
};

/// SPPO with hard labels (arXiv 2405.00675, eq. 4.7 with P = 1 and 0):
/// (rho_w - 1 / (2 beta))^2 + (rho_l + 1 / (2 beta))^2.
template <typename T>
struct SppoHardLoss {
  static constexpr LossTraits traits = LossTraits("sppo_hard");

  T beta;

  SELM_HOST_DEVICE static SppoHardLoss from(const LossParameters<T>& p) { return {p.beta}; }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const T target = T(0.5) / beta;
    const T chosen = logratio(pair.chosen) - target, rejected = logratio(pair.rejected) + target;
    return {chosen * chosen + rejected * rejected, T(2) * chosen, T(2) * rejected};
  }
};

/// APO-zero (arXiv 2408.06266, eq. 7): 1 - sigmoid(r_w) + sigmoid(r_l).
template <typename T>
struct ApoZeroLoss {
  static constexpr LossTraits traits = LossTraits("apo_zero");

  T beta;

  SELM_HOST_DEVICE static ApoZeroLoss from(const LossParameters<T>& p) { return {p.beta}; }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const T chosen = beta * logratio(pair.chosen), rejected = beta * logratio(pair.rejected);
    return {sigmoid(-chosen) + sigmoid(rejected), -beta * sigmoid_slope(chosen),
            beta * sigmoid_slope(rejected)};
  }
};

/// APO-down (arXiv 2408.06266, eq. 8): sigmoid(r_w) + 1 - sigmoid(r_w - r_l).
template <typename T>
struct ApoDownLoss {
  static constexpr LossTraits traits = LossTraits("apo_down");

  T beta;

  SELM_HOST_DEVICE static ApoDownLoss from(const LossParameters<T>& p) { return {p.beta}; }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const T chosen = beta * logratio(pair.chosen), margin = beta * logratio_diff(pair);
    const T change = sigmoid_slope_difference(chosen, margin, beta * logratio(pair.rejected));
    return {sigmoid(chosen) + sigmoid(-margin), beta * change, beta * sigmoid_slope(margin)};
  }
};

/// DPO-positive (arXiv 2402.13228): DPO's loss of the margin beta * (logratio_diff -
/// lambda * max(0, -rho_w)), which charges for a chosen response that becomes less likely.
template <typename T>
struct DpopLoss {
  static constexpr LossTraits traits = LossTraits("dpop").with(LossOption::dpop_lambda);

  T beta;
  T lambda;

  SELM_HOST_DEVICE static DpopLoss from(const LossParameters<T>& p) {
    return {p.beta, p.dpop_lambda};
  }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const T rho = logratio(pair.chosen);
    const bool falls = rho < T(0);
    const T margin = beta * (logratio_diff(pair) + (falls ? vanishing_product(lambda, rho) : T(0)));
    const ValueAndGrad<T> f = log_sigmoid(margin);
    return {T(0) - f.value, -beta * f.grad * (falls ? T(1) + lambda : T(1)), beta * f.grad};
  }
};

}  // namespace selm
