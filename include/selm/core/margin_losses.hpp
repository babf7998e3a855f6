#pragma once

#include <cmath>

#include "selm/core/loss_traits.hpp"
#include "selm/core/math.hpp"
#include "selm/core/pair.hpp"

/// @file
/// Losses of one margin: beta times the difference of the two log-ratios, or of their averages.

namespace selm {

/// DPO (arXiv 2305.18290, eq. 7): -log sigmoid(beta * logratio_diff). With label smoothing e it is
/// conservative DPO, (1 - e) * loss(+) + e * loss(-).
template <typename T>
struct SigmoidLoss {
  static constexpr LossTraits traits =
      LossTraits("sigmoid").with(SmoothingRange{0.0, 0.5}).with_f_divergence();

  T beta;
  T label_smoothing;

  SELM_HOST_DEVICE static SigmoidLoss from(const LossParameters<T>& p) {
    return {p.beta, p.label_smoothing};
  }

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T logratio_diff) const {
    const ValueAndGrad<T> f = of_margin(beta * logratio_diff);
    return {f.value, beta * f.grad};
  }

  /// The same of a margin that beta is part of.
  SELM_HOST_DEVICE ValueAndGrad<T> of_margin(T margin) const {
    const ValueAndGrad<T> kept = log_sigmoid(margin);
    // Selected, not multiplied by 0: the flipped loss may be infinite. 0 - x, because -x is the
    // negative zero for a pair that is certain.
    if (label_smoothing == T(0)) {
      return {T(0) - kept.value, -kept.grad};
    }
    const ValueAndGrad<T> flipped = log_sigmoid(-margin);
    const T keep = T(1) - label_smoothing;
    return {-keep * kept.value - label_smoothing * flipped.value,
            label_smoothing * flipped.grad - keep * kept.grad};
  }
};

/// Hinge loss of SLiC (arXiv 2305.10425) on the implicit reward margin: max(0, 1 - beta *
/// logratio_diff). At the kink the derivative is 0, as in torch.relu.
template <typename T>
struct HingeLoss {
  static constexpr LossTraits traits = LossTraits("hinge").with_f_divergence();

  T beta;

  SELM_HOST_DEVICE static HingeLoss from(const LossParameters<T>& p) { return {p.beta}; }

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T logratio_diff) const {
    const T slack = T(1) - beta * logratio_diff;
    if (slack <= T(0)) {
      return {T(0), T(0)};
    }
    return {slack, -beta};
  }
};

/// Robust DPO (arXiv 2403.00409): the unbiased estimate of DPO's loss under labels flipped
/// with probability e, ((1 - e) loss(+) - e loss(-)) / (1 - 2 e). The two losses differ by the
/// margin: this is loss(+) - e / (1 - 2 e) * margin.
template <typename T>
struct RobustLoss {
  static constexpr LossTraits traits =
      LossTraits("robust").with(SmoothingRange{0.0, 0.5, false, true}).with_f_divergence();

  T beta;
  T label_smoothing;

  SELM_HOST_DEVICE static RobustLoss from(const LossParameters<T>& p) {
    return {p.beta, p.label_smoothing};
  }

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T logratio_diff) const {
    const T margin = beta * logratio_diff;
    const ValueAndGrad<T> kept = log_sigmoid(margin);
    const T tilt = label_smoothing / (T(1) - T(2) * label_smoothing);
    return {T(0) - kept.value - vanishing_product(tilt, margin), -beta * (kept.grad + tilt)};
  }
};

/// EXO for pairs (arXiv 2402.00856, eq. 16): KL(q || p) with q = sigmoid of the margin and p = 1 -
/// e for the chosen response. Its derivative is q (1 - q) times the difference of log-odds.
template <typename T>
struct ExoPairLoss {
  static constexpr LossTraits traits =
      LossTraits("exo_pair").with(SmoothingRange{0.0, 0.5, true, true}).with_f_divergence();

  T beta;
  T label_smoothing;

  SELM_HOST_DEVICE static ExoPairLoss from(const LossParameters<T>& p) {
    return {p.beta, p.label_smoothing};
  }

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T logratio_diff) const {
    const T margin = beta * logratio_diff;
    const T log_p = std::log1p(-label_smoothing), log_1mp = std::log(label_smoothing);
    const T value =
        margin > T(0) ? divergence(-margin, log_1mp, log_p) : divergence(margin, log_p, log_1mp);
    return {value, vanishing_product(beta * sigmoid_slope(margin), margin - log_p + log_1mp)};
  }

 private:
  /// KL(q || p) of two events with q = sigmoid(log_odds) <= 1/2.
  SELM_HOST_DEVICE static T divergence(T log_odds, T log_p, T log_1mp) {
    const T q = sigmoid(log_odds), gap = log_p - log_1mp - log_odds;
    if (std::fabs(gap) < T(1)) {
      // log(1 + q (exp(gap) - 1)) - q gap, without the linear parts, which cancel near q = p.
      return q * expm1_minus_x(gap) - expm1_minus_x(std::log1p(q * std::expm1(gap)));
    }
    const ValueAndGrad<T> log_q = log_sigmoid(log_odds);  // its derivative is 1 - q
    return vanishing_product(q, log_q.value - log_p) +
           log_q.grad * (log_sigmoid(-log_odds).value - log_1mp);
  }
};

/// DiscoPOP's log-ratio modulated loss (arXiv 2406.08414, eq. 5): with the margin m and s =
/// sigmoid(m / tau), (1 - s) * -log sigmoid(m) + s * exp(-m).
template <typename T>
struct DiscoPopLoss {
  static constexpr LossTraits traits =
      LossTraits("discopop").with(LossOption::discopop_tau).with_f_divergence();

  T beta;
  T tau;

  SELM_HOST_DEVICE static DiscoPopLoss from(const LossParameters<T>& p) {
    return {p.beta, p.discopop_tau};
  }

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T logratio_diff) const {
    const T margin = beta * logratio_diff;
    const ValueAndGrad<T> logistic = log_sigmoid(margin);
    const T rest = sigmoid(-margin / tau), slope = sigmoid_slope(margin / tau) / tau;
    const T exponential = modulated_exponential(margin);
    const T value = vanishing_product(rest, -logistic.value) + exponential;
    const T grad = modulation_gradient(margin, slope, logistic.value, exponential, rest / tau) -
                   rest * logistic.grad;
    return {T(0) + value, beta * grad};
  }

 private:
  /// exp(-m) * sigmoid(m / tau) from the sum of the two logarithms: each factor alone overflows or
  /// vanishes where the product does not.
  SELM_HOST_DEVICE T modulated_exponential(T margin) const {
    const T rate = margin < T(0) ? T(1) / tau - T(1) : T(-1);
    return std::exp(vanishing_product(rate, margin) -
                    std::log1p(std::exp(-std::fabs(margin) / tau)));
  }

  /// slope * (exp(-m) + log sigmoid(m)) - s * exp(-m), where slope is that of s. The summands
  /// cancel: they are added before the product where nothing overflows, near 0 as differences from
  /// 1 - log 2.
  SELM_HOST_DEVICE static T modulation_gradient(T margin, T slope, T log_sigmoid, T exponential,
                                                T rate) {
    if (margin < T(-1)) {
      return vanishing_product(slope, log_sigmoid) + vanishing_product(exponential, rate - T(1));
    }
    constexpr T one_minus_log_2 = T(0.306852819440054690582767878542L);
    const T rise = std::expm1(-margin);
    const T gap = margin < T(1) ? one_minus_log_2 + (rise - std::log1p(rise / T(2)))
                                : std::exp(-margin) + log_sigmoid;
    return slope * gap - exponential;
  }
};

/// IPO (arXiv 2310.12036, eq. 17) on log-ratios averaged over tokens, as its authors intend:
/// (rho(chosen) / length - rho(rejected) / length - 1 / (2 beta))^2.
template <typename T>
struct IpoLoss {
  static constexpr LossTraits traits = LossTraits("ipo").with(Lengths::both).with_f_divergence();

  T beta;

  SELM_HOST_DEVICE static IpoLoss from(const LossParameters<T>& p) { return {p.beta}; }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const T error = average_logratio(pair.chosen) - average_logratio(pair.rejected) - T(0.5) / beta;
    return {error * error, T(2) * error / pair.chosen.length, T(-2) * error / pair.rejected.length};
  }
};

/// DPO on log-ratios averaged over tokens: -log sigmoid(beta * (rho(chosen) / length -
/// rho(rejected) / length)), as TRL's "sigmoid_norm".
template <typename T>
struct SigmoidNormLoss {
  static constexpr LossTraits traits =
      LossTraits("sigmoid_norm").with(Lengths::both).with_f_divergence();

  T beta;

  SELM_HOST_DEVICE static SigmoidNormLoss from(const LossParameters<T>& p) { return {p.beta}; }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const ValueAndGrad<T> f =
        SigmoidLoss<T>{beta, T(0)}(average_logratio(pair.chosen) - average_logratio(pair.rejected));
    return {f.value, f.grad / pair.chosen.length, -f.grad / pair.rejected.length};
  }
};

/// R-DPO (arXiv 2403.19159): a reward that is charged `length_margin` per token makes the
/// margin beta * logratio_diff + length_margin * (chosen length - rejected length) in DPO's loss.
template <typename T>
struct RDpoLoss {
  static constexpr LossTraits traits =
      LossTraits("r_dpo").with(Lengths::both).with(LossOption::length_margin).with_f_divergence();

  T beta;
  T length_margin;

  SELM_HOST_DEVICE static RDpoLoss from(const LossParameters<T>& p) {
    return {p.beta, p.length_margin};
  }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const T length_difference = pair.chosen.length - pair.rejected.length;
    const ValueAndGrad<T> f = SigmoidLoss<T>{beta, T(0)}.of_margin(
        beta * logratio_diff(pair) + length_margin * length_difference);
    return {f.value, beta * f.grad, -beta * f.grad};
  }
};

/// AOT (arXiv 2406.05882, paired): DPO's loss after the policy's differences log pi(chosen) - log
/// pi(rejected) and the reference's have been sorted separately. It depends on the batch.
template <typename T>
struct AotLoss : SigmoidLoss<T> {
  static constexpr LossTraits traits =
      LossTraits("aot").with(SmoothingRange{0.0, 0.5}).with(Pairing::ranked_pairs);

  SELM_HOST_DEVICE static AotLoss from(const LossParameters<T>& p) {
    return {SigmoidLoss<T>::from(p)};
  }
};

/// AOT (arXiv 2406.05882, unpaired): DPO's loss after the log-ratios of the chosen and of the
/// rejected responses have been sorted separately. It depends on the batch.
template <typename T>
struct AotUnpairedLoss : SigmoidLoss<T> {
  static constexpr LossTraits traits =
      LossTraits("aot_unpaired").with(SmoothingRange{0.0, 0.5}).with(Pairing::ranked_ratios);

  SELM_HOST_DEVICE static AotUnpairedLoss from(const LossParameters<T>& p) {
    return {SigmoidLoss<T>::from(p)};
  }
};

}  // namespace selm
