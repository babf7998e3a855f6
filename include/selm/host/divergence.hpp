#pragma once

#include <string_view>

#include "selm/core/divergence.hpp"
#include "selm/host/arrays.hpp"
#include "selm/host/options.hpp"

/// @file
/// Estimates of KL(pi || pi_ref) on Eigen arrays.

namespace selm {

/// What `kl_estimate` returns.
template <typename T>
struct KlEstimates {
  Array1<T> estimates;          ///< one per sample, in nats, [batch]
  Array1<T> grad_policy_logps;  ///< derivative with respect to `policy_logps`, [batch]
};

/// KL(pi || pi_ref) estimated from each sample of pi alone, by "k1", "k2" or "k3" (J. Schulman,
/// "Approximating KL divergence", 2020); the mean over samples is the estimate.
template <typename Logps>
KlEstimates<ScalarOf<Logps>> kl_estimate(const Eigen::ArrayBase<Logps>& policy_logps,
                                         const Array1Ref<ScalarOf<Logps>>& ref_logps,
                                         std::string_view kind = "k3") {
  using T = ScalarOf<Logps>;
  constexpr std::string_view operation = "kl_estimate";
  const KlEstimate<double> estimate{parse_kl_estimator(operation, kind)};
  const Array1Ref<T> policy(policy_logps.derived());
  detail::check_logps<T>(operation, "policy_logps", policy);
  detail::check_same_size(operation, "ref_logps", ref_logps.size(), "policy_logps", policy.size());
  detail::check_logps<T>(operation, "ref_logps", ref_logps);

  KlEstimates<T> result{Array1<T>(policy.size()), Array1<T>(policy.size())};
  for (Eigen::Index i = 0; i < policy.size(); ++i) {
    const ValueAndGrad<double> f = estimate(policy[i], ref_logps[i]);
    result.estimates[i] = static_cast<T>(f.value);
    result.grad_policy_logps[i] = static_cast<T>(f.grad);
  }
  return result;
}

}  // namespace selm
