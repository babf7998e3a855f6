#pragma once

#include <cmath>

#include "selm/core/math.hpp"
#include "selm/core/options.hpp"
#include "selm/core/pair.hpp"

/// @file
/// One functor per pairwise loss. Each carries what is known about it:
///   name                 how callers spell it (TRL's `loss_type`)
///   uses_lengths         whether it needs the responses' lengths
///   max_label_smoothing  label smoothing is valid in [0, this]; 0 means that it is not defined
///   from(options)        its parameters
/// To add one: write it here, append it to `PairLosses` (loss_list.hpp), add its golden rows,
/// document it.

namespace selm {

/// DPO (arXiv 2305.18290, eq. 7): -log sigmoid(beta * logratio_diff). With label smoothing e it is
/// conservative DPO, (1 - e) * loss(+) + e * loss(-).
template <typename T>
struct SigmoidLoss {
  static constexpr const char* name = "sigmoid";
  static constexpr bool uses_lengths = false;
  static constexpr double max_label_smoothing = 0.5;

  T beta;
  T label_smoothing;

  static SigmoidLoss from(const PreferenceOptions& options) {
    return {T(options.beta), T(options.label_smoothing)};
  }

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T logratio_diff) const {
    const T margin = beta * logratio_diff;
    const ValueAndGrad<T> kept = log_sigmoid(margin);
    // Selected, not multiplied by 0: the flipped loss may be infinite. 0 - x, because -x is the
    // negative zero for a pair that is certain.
    if (label_smoothing == T(0)) {
      return {T(0) - kept.value, -beta * kept.grad};
    }
    const ValueAndGrad<T> flipped = log_sigmoid(-margin);
    const T keep = T(1) - label_smoothing;
    return {-keep * kept.value - label_smoothing * flipped.value,
            beta * (label_smoothing * flipped.grad - keep * kept.grad)};
  }
};

/// Hinge loss of SLiC (arXiv 2305.10425) on the implicit reward margin: max(0, 1 - beta *
/// logratio_diff). At the kink the derivative is 0, as in torch.relu.
template <typename T>
struct HingeLoss {
  static constexpr const char* name = "hinge";
  static constexpr bool uses_lengths = false;
  static constexpr double max_label_smoothing = 0.0;

  T beta;

  static HingeLoss from(const PreferenceOptions& options) { return {T(options.beta)}; }

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T logratio_diff) const {
    const T slack = T(1) - beta * logratio_diff;
    if (slack <= T(0)) {
      return {T(0), T(0)};
    }
    return {slack, -beta};
  }
};

/// IPO (arXiv 2310.12036, eq. 17) on log-ratios averaged over tokens, as its authors intend:
/// (rho(chosen) / length - rho(rejected) / length - 1 / (2 beta))^2.
template <typename T>
struct IpoLoss {
  static constexpr const char* name = "ipo";
  static constexpr bool uses_lengths = true;
  static constexpr double max_label_smoothing = 0.0;

  T beta;

  static IpoLoss from(const PreferenceOptions& options) { return {T(options.beta)}; }

  SELM_HOST_DEVICE PairGrad<T> operator()(const PairInputs<T>& pair) const {
    const T difference =
        logratio(pair.chosen) / pair.chosen.length - logratio(pair.rejected) / pair.rejected.length;
    const T error = difference - T(0.5) / beta;
    return {error * error, T(2) * error / pair.chosen.length, T(-2) * error / pair.rejected.length};
  }
};

}  // namespace selm
