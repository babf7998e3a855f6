#pragma once

#include <string_view>
#include <type_traits>

#include "selm/core/reward.hpp"
#include "selm/host/arrays.hpp"
#include "selm/host/options.hpp"

/// @file
/// Implicit rewards and their inverse (arXiv 2305.18290, eq. 4 and 5) on Eigen arrays.

namespace selm {

namespace detail {

/// Checked under the names of the operation's two arrays.
template <typename T>
Array1<T> scaled_logratios(std::string_view operation, std::string_view first,
                           const Array1Ref<T>& logps, std::string_view second,
                           const Array1Ref<T>& other_logps, double beta) {
  check_logps<T>(operation, first, logps);
  check_same_size(operation, second, other_logps.size(), first, logps.size());
  check_logps<T>(operation, second, other_logps);
  const ImplicitReward<double> reward{beta};
  return logps.binaryExpr(other_logps,
                          [&](T p, T r) { return static_cast<T>(reward(p, r).value); });
}

}  // namespace detail

/// beta * (policy_logps - ref_logps), [batch]: the reward up to a constant of the prompt.
template <typename Logps>
Array1<ScalarOf<Logps>> implicit_rewards(const Eigen::ArrayBase<Logps>& policy_logps,
                                         const Array1Ref<ScalarOf<Logps>>& ref_logps, double beta) {
  using T = ScalarOf<Logps>;
  constexpr std::string_view operation = "implicit_rewards";
  validate_beta(operation, beta);
  return detail::scaled_logratios<T>(operation, "policy_logps", policy_logps.derived(), "ref_logps",
                                     ref_logps, beta);
}

/// How much higher one policy's implicit reward is than another's, beta * (logps - other_logps),
/// [batch]: both have the same reference, which cancels (arXiv 2405.19332, Fig. 4).
template <typename Logps>
Array1<ScalarOf<Logps>> implicit_reward_difference(const Eigen::ArrayBase<Logps>& logps,
                                                   const Array1Ref<ScalarOf<Logps>>& other_logps,
                                                   double beta) {
  constexpr std::string_view operation = "implicit_reward_difference";
  validate_beta(operation, beta);
  return detail::scaled_logratios<ScalarOf<Logps>>(operation, "logps", logps.derived(),
                                                   "other_logps", other_logps, beta);
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
template <typename Logps, std::enable_if_t<bool(Logps::IsVectorAtCompileTime), int> = 0>
double log_partition(const Eigen::ArrayBase<Logps>& ref_logps,
                     const Array1Ref<ScalarOf<Logps>>& rewards, double beta) {
  using T = ScalarOf<Logps>;
  constexpr std::string_view operation = "log_partition";
  validate_positive(operation, "beta", beta);
  const Array1Ref<T> ref(ref_logps.derived());
  detail::check_logps<T>(operation, "ref_logps", ref);
  detail::check_same_size(operation, "rewards", rewards.size(), "ref_logps", ref.size());
  if (ref.size() == 0) {
    throw Error(ErrorCode::value, operation, "ref_logps", "to hold at least one response", "none");
  }
  return log_partition(ref.data(), rewards.data(), ref.size(), beta);
}

/// log Z of every prompt, [prompts], where each row of the arrays, [prompts, responses], holds all
/// responses of one.
template <typename Logps, std::enable_if_t<!bool(Logps::IsVectorAtCompileTime), int> = 0>
Array1<ScalarOf<Logps>> log_partition(const Eigen::ArrayBase<Logps>& ref_logps,
                                      const Array2Ref<ScalarOf<Logps>>& rewards, double beta) {
  using T = ScalarOf<Logps>;
  constexpr std::string_view operation = "log_partition";
  validate_positive(operation, "beta", beta);
  const Array2Ref<T> ref(ref_logps.derived());
  detail::check_same_shape<T, T>(operation, "rewards", rewards, "ref_logps", ref);
  if (ref.cols() == 0) {
    throw Error(ErrorCode::value, operation, "ref_logps", "to hold at least one response",
                detail::shape_text(ref.rows(), ref.cols()));
  }
  Array1<T> result(ref.rows());
  for (Eigen::Index i = 0; i < ref.rows(); ++i) {
    for (Eigen::Index k = 0; k < ref.cols(); ++k) {
      check_logp(operation, "ref_logps", ref(i, k), i * ref.cols() + k);
    }
    result[i] =
        static_cast<T>(log_partition(ref.row(i).data(), rewards.row(i).data(), ref.cols(), beta));
  }
  return result;
}

namespace detail {

/// `log_partition(i)` is that of response i's prompt.
template <typename T, typename LogPartition>
Array1<T> policy_logps(const Array1Ref<T>& rewards, const Array1Ref<T>& ref_logps, double beta,
                       LogPartition&& log_partition) {
  constexpr std::string_view operation = "policy_logps_from_rewards";
  validate_positive(operation, "beta", beta);
  check_same_size(operation, "ref_logps", ref_logps.size(), "rewards", rewards.size());
  check_logps<T>(operation, "ref_logps", ref_logps);
  Array1<T> logps(rewards.size());
  for (Eigen::Index i = 0; i < rewards.size(); ++i) {
    logps[i] = static_cast<T>(
        policy_logp_from_reward<double>(rewards[i], ref_logps[i], beta, log_partition(i)));
  }
  return logps;
}

}  // namespace detail

/// The policy whose implicit rewards these are: ref_logps + rewards / beta - log_partition,
/// [responses]. With `log_partition` of the same prompt the result is normalised; with 0 it inverts
/// `implicit_rewards`.
template <typename Rewards>
Array1<ScalarOf<Rewards>> policy_logps_from_rewards(const Eigen::ArrayBase<Rewards>& rewards,
                                                    const Array1Ref<ScalarOf<Rewards>>& ref_logps,
                                                    double beta, double log_partition) {
  validate_finite("policy_logps_from_rewards", "log_partition", log_partition);
  return detail::policy_logps<ScalarOf<Rewards>>(rewards.derived(), ref_logps, beta,
                                                 [&](Eigen::Index) { return log_partition; });
}

/// The same for responses to several prompts: `log_partitions`, [responses], holds log Z of each
/// response's prompt.
template <typename Rewards>
Array1<ScalarOf<Rewards>> policy_logps_from_rewards(
    const Eigen::ArrayBase<Rewards>& rewards, const Array1Ref<ScalarOf<Rewards>>& ref_logps,
    double beta, const Array1Ref<ScalarOf<Rewards>>& log_partitions) {
  using T = ScalarOf<Rewards>;
  detail::check_same_size("policy_logps_from_rewards", "log_partition", log_partitions.size(),
                          "rewards", rewards.size());
  return detail::policy_logps<T>(rewards.derived(), ref_logps, beta, [&](Eigen::Index i) {
    return static_cast<double>(log_partitions[i]);
  });
}

}  // namespace selm
