#pragma once

#include <Eigen/Core>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "selm/selm.hpp"

/// @file
/// A bandit whose best arm the reference policy almost never plays, a finite class of policies that
/// could solve it, and online preference learning with the exact minimiser over that class.

namespace bandit {

inline constexpr int common_arms = 5;
inline constexpr int rare_arms = 20;
inline constexpr int arms = common_arms + rare_arms;
inline constexpr double common_mass = 0.999;  ///< what pi_ref gives to the common arms together
inline constexpr double special_reward = 2.0;
inline constexpr double beta = 0.1;

/// Hypothesis 0: no arm is special. Hypothesis j > 0: rare arm j is.
inline constexpr int hypotheses = 1 + rare_arms;

/// Two losses closer than this are equal: they differ by the rounding of log-probabilities.
inline constexpr double tie = 1e-9;

using Random = std::mt19937_64;

/// Every hypothesis about the rewards, with the policy that is optimal under it.
class PolicyClass {
 public:
  PolicyClass()
      : rewards_(Eigen::ArrayXXd::Zero(hypotheses, arms)),
        logps_(hypotheses, arms),
        ref_logps_(hypotheses, arms) {
    ref_logps_.leftCols(common_arms).setConstant(std::log(common_mass / common_arms));
    ref_logps_.rightCols(rare_arms).setConstant(std::log((1.0 - common_mass) / rare_arms));
    rewards_.bottomRightCorner(rare_arms, rare_arms)
        .matrix()
        .diagonal()
        .setConstant(special_reward);
    for (int h = 0; h < hypotheses; ++h) {
      const selm::Array1<double> rewards = rewards_.row(h);
      const selm::Array1<double> ref_logps = ref_logps_.row(h);
      const double log_z = selm::log_partition(ref_logps, rewards, beta);
      logps_.row(h) = selm::policy_logps_from_rewards(rewards, ref_logps, beta, log_z);
      const selm::Array1<double> probs = logps_.row(h).exp();
      probs_.emplace_back(probs.begin(), probs.end());
    }
  }

  double reward(int hypothesis, int arm) const { return rewards_(hypothesis, arm); }

  /// log pi_h(arm) for every hypothesis h.
  auto logps(int arm) const { return logps_.col(arm); }

  /// log pi_ref(arm), once for every hypothesis.
  auto ref_logps(int arm) const { return ref_logps_.col(arm); }

  /// An arm drawn from a hypothesis' policy; that of hypothesis 0 is pi_ref.
  int sample(int hypothesis, Random& random) const {
    return std::discrete_distribution<int>{}(random, probs_[hypothesis]);
  }

 private:
  Eigen::ArrayXXd rewards_;  // hypotheses x arms, as the other two
  Eigen::ArrayXXd logps_;
  Eigen::ArrayXXd ref_logps_;
  std::vector<std::discrete_distribution<int>::param_type> probs_;
};

/// Online learning on one bandit. Each round plays an arm of the learner's policy against one of
/// pi_ref, and a Bradley-Terry judge says which is better.
class Learner {
 public:
  /// `alpha` is the coefficient of log pi(response), XPO's; SELM's alpha is alpha / beta.
  Learner(const PolicyClass& policies, double alpha, int truth, Random random)
      : policies_(policies),
        exploration_{alpha, "xpo"},
        truth_(truth),
        random_(random),
        total_losses_(selm::Array1<double>::Zero(hypotheses)) {}

  void play_round() {
    const int own = policies_.sample(policy(), random_);
    const int response = policies_.sample(0, random_);
    const double margin = policies_.reward(truth_, own) - policies_.reward(truth_, response);
    const bool own_wins = std::bernoulli_distribution(selm::sigmoid(margin))(random_);
    const auto [chosen, rejected] = own_wins ? std::pair(own, response) : std::pair(response, own);
    // One call evaluates the round for all hypotheses: the batch runs over them.
    total_losses_ += selm::selm_loss(policies_.logps(chosen), policies_.logps(rejected),
                                     policies_.logps(response), policies_.ref_logps(chosen),
                                     policies_.ref_logps(rejected), policies_.ref_logps(response),
                                     exploration_, {"sigmoid", beta})
                         .losses;
  }

  /// The minimiser of the total loss. In a tie the earlier hypothesis wins: pi_ref, where training
  /// starts, stays until another policy is better.
  int policy() const {
    const double bound = total_losses_.minCoeff() + tie;
    int h = 0;
    while (total_losses_[h] > bound) {
      ++h;
    }
    return h;
  }

  bool is_best() const { return policy() == truth_; }

 private:
  const PolicyClass& policies_;
  selm::ExplorationOptions exploration_;
  int truth_;
  Random random_;
  selm::Array1<double> total_losses_;
};

}  // namespace bandit
