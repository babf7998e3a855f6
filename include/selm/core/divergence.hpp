#pragma once

#include <array>
#include <cmath>
#include <string_view>

#include "selm/core/math.hpp"
#include "selm/core/names.hpp"

/// @file
/// Estimators of KL(pi || pi_ref) from one sample of pi, with rho = log pi - log pi_ref
/// (J. Schulman, "Approximating KL divergence", 2020).

namespace selm {

/// Which estimator; the formulas are those of `KlEstimate`.
enum class KlEstimator { k1, k2, k3 };

/// A name that callers use, and what it stands for.
struct KlEstimatorName {
  const char* name;
  KlEstimator kind;
};

/// Every estimator.
inline constexpr std::array<KlEstimatorName, 3> kl_estimator_names{{
    {"k1", KlEstimator::k1},
    {"k2", KlEstimator::k2},
    {"k3", KlEstimator::k3},
}};

/// The entry of an estimator's name, or nullptr.
inline const KlEstimatorName* find_kl_estimator(std::string_view name) {
  return find_entry(kl_estimator_names, name);
}

/// k1 = rho (unbiased, any sign), k2 = rho^2 / 2 (biased, low variance),
/// k3 = exp(-rho) - 1 + rho (unbiased, never negative).
template <typename T>
struct KlEstimate {
  KlEstimator kind;

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T policy_logp, T ref_logp) const {
    const T rho = policy_logp - ref_logp;
    switch (kind) {
      case KlEstimator::k1:
        return {rho, T(1)};
      case KlEstimator::k2:
        return {rho * rho / T(2), rho};
      case KlEstimator::k3:
        break;
    }
    return {expm1_minus_x(-rho), -std::expm1(-rho)};
  }
};

}  // namespace selm
