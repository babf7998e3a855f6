#pragma once

#include <optional>

#include "selm/core/exploration.hpp"
#include "selm/host/arrays.hpp"
#include "selm/host/options.hpp"

/// @file
/// The exploration term alone, on Eigen arrays.

namespace selm {

/// What `exploration_bonus` returns.
template <typename T>
struct ExplorationBonus {
  Array1<T> bonus;              ///< the term that is ADDED to the loss, [batch]
  Array1<T> grad_policy_logps;  ///< its derivative with respect to `policy_logps`, [batch]
};

/// With rho = policy_logps - ref_logps, all [batch]: kind "selm" (arXiv 2405.19332, eq. 4.2) is
/// alpha * beta * rho, "popo" (arXiv 2502.00666) alpha * (sigmoid(beta * rho) - 1/2) / beta, "xpo"
/// (arXiv 2405.21046) alpha * policy_logps. "xpo" knows neither beta nor, unless it is clipped,
/// ref_logps: there they must be left out, elsewhere they are required. alpha = 0 gives zeros
/// whatever the inputs. Throws `Error`: a size or an option that does not fit, a log-probability
/// above 0.
template <typename Logps>
ExplorationBonus<ScalarOf<Logps>> exploration_bonus(
    const Eigen::ArrayBase<Logps>& policy_logps,
    const OptionalArray1Ref<ScalarOf<Logps>>& ref_logps, const ExplorationOptions& options,
    std::optional<double> beta) {
  using T = ScalarOf<Logps>;
  constexpr std::string_view operation = "exploration_bonus";
  validate(operation, options, "kind");
  validate_reference_use(operation, options, beta.has_value(), ref_logps.has_value());
  if (beta) {
    validate_beta(operation, *beta);
  }
  const Array1Ref<T> policy(policy_logps.derived());
  detail::check_logps<T>(operation, "policy_logps", policy);
  if (ref_logps) {
    detail::check_same_size(operation, "ref_logps", ref_logps->size(), "policy_logps",
                            policy.size());
    detail::check_logps<T>(operation, "ref_logps", *ref_logps);
  }

  const ExplorationTerm<double> term = make_exploration(options, beta.value_or(0.0));
  ExplorationBonus<T> result{Array1<T>(policy.size()), Array1<T>(policy.size())};
  for (Eigen::Index i = 0; i < policy.size(); ++i) {
    const ValueAndGrad<double> f = term(policy[i], ref_logps ? (*ref_logps)[i] : T(0));
    result.bonus[i] = static_cast<T>(f.value);
    result.grad_policy_logps[i] = static_cast<T>(f.grad);
  }
  return result;
}

}  // namespace selm
