#pragma once

#include <cmath>

#include "selm/core/loss_traits.hpp"
#include "selm/core/margin_losses.hpp"
#include "selm/core/math.hpp"
#include "selm/core/pair.hpp"

/// @file
/// Losses of the policy's likelihood alone. CPO's sigmoid and hinge losses (arXiv 2401.08417) are
/// those of margin_losses.hpp with the reference's log-probabilities 0.

namespace selm {

/// Negative log-likelihood per token of the chosen response, RPO's second term (arXiv 2404.19733,
/// eq. 1): -log pi(chosen) / length.
template <typename T>
struct NllLoss {
  static constexpr LossTraits traits = LossTraits("nll").with(Lengths::chosen).without_reference();

  SELM_HOST_DEVICE static NllLoss from(const LossParameters<T>&) { return {}; }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    return {T(0) - pair.chosen.policy / pair.chosen.length, T(-1) / pair.chosen.length, T(0)};
  }
};

/// The same over the batch: the mean of these losses is the negative log-likelihood per chosen
/// token of the batch, as TRL's "sft".
template <typename T>
struct SftLoss : NllLoss<T> {
  static constexpr LossTraits traits =
      LossTraits("sft").with(Lengths::mean_chosen).without_reference();

  SELM_HOST_DEVICE static SftLoss from(const LossParameters<T>&) { return {}; }
};

/// SimPO (arXiv 2405.14734, eq. 6): DPO's loss of the margin beta * (log pi(chosen) / length - log
/// pi(rejected) / length) - gamma.
template <typename T>
struct SimpoLoss {
  static constexpr LossTraits traits = LossTraits("simpo")
                                           .with(SmoothingRange{0.0, 0.5})
                                           .with(Lengths::both)
                                           .with(LossOption::simpo_gamma)
                                           .without_reference();

  T beta;
  T gamma;
  T label_smoothing;

  SELM_HOST_DEVICE static SimpoLoss from(const LossParameters<T>& p) {
    return {p.beta, p.simpo_gamma, p.label_smoothing};
  }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const T difference = average_logratio(pair.chosen) - average_logratio(pair.rejected);
    const ValueAndGrad<T> f =
        SigmoidLoss<T>{beta, label_smoothing}.of_margin(beta * difference - gamma);
    return {f.value, beta * f.grad / pair.chosen.length, -beta * f.grad / pair.rejected.length};
  }
};

/// ORPO's odds-ratio term (arXiv 2403.07691, eq. 4 and 7) with weight beta: -beta * log sigmoid(log
/// odds(chosen) - log odds(rejected)), odds(y) = p / (1 - p), log p = log pi(y) / length.
template <typename T>
struct OrpoLoss {
  static constexpr LossTraits traits = LossTraits("orpo").with(Lengths::both).without_reference();

  T beta;

  SELM_HOST_DEVICE static OrpoLoss from(const LossParameters<T>& p) { return {p.beta}; }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const T chosen = log_probability(pair.chosen), rejected = log_probability(pair.rejected);
    // 1 - p; 0 - x, because -x is the negative zero for a response that is certain.
    const T rest_chosen = T(0) - std::expm1(chosen), rest_rejected = T(0) - std::expm1(rejected);
    const T quotient = rest_chosen / rest_rejected, relative = std::exp(rejected - chosen);
    const T odds_ratio = relative * quotient;  // of the rejected over the chosen response
    const T scale_chosen = beta / pair.chosen.length, scale_rejected = beta / pair.rejected.length;
    if (odds_ratio < T(1)) {
      // Its logarithm would be rounded, and a response that is certain has none.
      const T total = T(1) + odds_ratio;
      return {beta * std::log1p(odds_ratio), -scale_chosen * relative / rest_rejected / total,
              scale_rejected * odds_ratio / rest_rejected / total};
    }
    const T inverse = T(1) / odds_ratio, total = T(1) + inverse;
    return {beta * (rejected - chosen + std::log(quotient) + std::log1p(inverse)),
            -scale_chosen / rest_chosen / total, scale_rejected / rest_rejected / total};
  }

 private:
  /// Per token, and at most 0: summed log-probabilities may exceed it by their rounding.
  SELM_HOST_DEVICE static T log_probability(const SequenceLogps<T>& response) {
    const T average = average_logratio(response);
    return average > T(0) ? T(0) : average;
  }
};

}  // namespace selm
