#pragma once

#include <cmath>

#include "selm/core/reward.hpp"
#include "selm/host/arrays.hpp"
#include "selm/host/options.hpp"

/// @file
/// Implicit rewards and their inverse (arXiv 2305.18290, eq. 4 and 5) on Eigen arrays.

namespace selm {

/// beta * (policy_logps - ref_logps), [batch]: the reward up to a constant of the prompt.
template <typename Logps>
Array1<ScalarOf<Logps>> implicit_rewards(const Eigen::ArrayBase<Logps>& policy_logps,
                                         const Array1Ref<ScalarOf<Logps>>& ref_logps, double beta) {
  using T = ScalarOf<Logps>;
  constexpr std::string_view operation = "implicit_rewards";
  validate_beta(operation, beta);
  const Array1Ref<T> policy(policy_logps.derived());
  detail::check_logps<T>(operation, "policy_logps", policy);
  detail::check_same_size(operation, "ref_logps", ref_logps.size(), "policy_logps", policy.size());
  detail::check_logps<T>(operation, "ref_logps", ref_logps);
  const ImplicitReward<double> reward{beta};
  return policy.binaryExpr(ref_logps, [&](T p, T r) { return static_cast<T>(reward(p, r).value); });
}

/// chosen_rewards - rejected_rewards, [batch].
template <typename Rewards>
Array1<ScalarOf<Rewards>> reward_margins(const Eigen::ArrayBase<Rewards>& chosen_rewards,
                                         const Array1Ref<ScalarOf<Rewards>>& rejected_rewards) {
  detail::check_same_size("reward_margins", "rejected_rewards", rejected_rewards.size(),
                          "chosen_rewards", chosen_rewards.size());
  return chosen_rewards.derived() - rejected_rewards;
}

/// 1 where the chosen response has the higher reward, else 0 (also for a tie), [batch].
template <typename Rewards>
Array1<ScalarOf<Rewards>> reward_accuracies(const Eigen::ArrayBase<Rewards>& chosen_rewards,
                                            const Array1Ref<ScalarOf<Rewards>>& rejected_rewards) {
  detail::check_same_size("reward_accuracies", "rejected_rewards", rejected_rewards.size(),
                          "chosen_rewards", chosen_rewards.size());
  return (chosen_rewards.derived() > rejected_rewards).template cast<ScalarOf<Rewards>>();
}

/// log Z of one prompt: log of the sum over all its responses of exp(ref_logps + rewards / beta).
template <typename Logps>
double log_partition(const Eigen::ArrayBase<Logps>& ref_logps,
                     const Array1Ref<ScalarOf<Logps>>& rewards, double beta) {
  using T = ScalarOf<Logps>;
  constexpr std::string_view operation = "log_partition";
  validate_beta(operation, beta);
  const Array1Ref<T> ref(ref_logps.derived());
  detail::check_logps<T>(operation, "ref_logps", ref);
  detail::check_same_size(operation, "rewards", rewards.size(), "ref_logps", ref.size());
  if (ref.size() == 0) {
    throw Error(ErrorCode::value, operation, "ref_logps", "to hold at least one response", "none");
  }
  const Array1<double> ref_double = ref.template cast<double>();
  const Array1<double> rewards_double = rewards.template cast<double>();
  return log_partition(ref_double.data(), rewards_double.data(), ref_double.size(), beta);
}

/// The policy whose implicit rewards these are: ref_logps + rewards / beta - log_partition,
/// [responses]. With `log_partition` of the same prompt the result is normalised; with 0 it inverts
/// `implicit_rewards`.
template <typename Rewards>
Array1<ScalarOf<Rewards>> policy_logps_from_rewards(const Eigen::ArrayBase<Rewards>& rewards,
                                                    const Array1Ref<ScalarOf<Rewards>>& ref_logps,
                                                    double beta, double log_partition) {
  using T = ScalarOf<Rewards>;
  constexpr std::string_view operation = "policy_logps_from_rewards";
  validate_beta(operation, beta);
  if (!std::isfinite(log_partition)) {
    throw Error(ErrorCode::value, operation, "log_partition", "to be a finite number",
                fmt::format("{}", log_partition));
  }
  detail::check_same_size(operation, "ref_logps", ref_logps.size(), "rewards", rewards.size());
  detail::check_logps<T>(operation, "ref_logps", ref_logps);
  return rewards.derived().binaryExpr(ref_logps, [&](T reward, T ref) {
    return static_cast<T>(policy_logp_from_reward<double>(reward, ref, beta, log_partition));
  });
}

}  // namespace selm
