#pragma once

#include <cmath>
#include <cstdint>

#include "selm/core/log_sum_exp.hpp"
#include "selm/core/math.hpp"

/// @file
/// The reparameterisation between policies and rewards (arXiv 2305.18290, eq. 4 and 5):
///   r(x, y) = beta * (log pi(y|x) - log pi_ref(y|x)) + beta * log Z(x),
///   Z(x) = sum over y of pi_ref(y|x) exp(r(x, y) / beta).

namespace selm {

/// Implicit reward beta * (log pi - log pi_ref): the reward up to the prompt's constant beta * log
/// Z.
template <typename T>
struct ImplicitReward {
  T beta;

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T policy_logp, T ref_logp) const {
    return {beta * (policy_logp - ref_logp), beta};
  }
};

/// Inverse of the implicit reward: log pi(y|x) = log pi_ref(y|x) + r(x, y) / beta - log Z(x).
/// With log_partition = 0 it inverts `ImplicitReward` exactly.
template <typename T>
SELM_HOST_DEVICE T policy_logp_from_reward(T reward, T ref_logp, T beta, T log_partition) {
  return ref_logp + (reward / beta - log_partition);
}

/// log Z(x) of a finite response set: log of the sum of exp(ref_logps[i] + rewards[i] / beta), in
/// the type of beta.
template <typename T, typename Storage>
SELM_HOST_DEVICE T log_partition(const Storage* ref_logps, const Storage* rewards,
                                 std::int64_t count, T beta) {
  LogSumExp<T> total;
  for (std::int64_t i = 0; i < count; ++i) {
    total = merge(total, LogSumExp<T>::of(T(ref_logps[i]) + T(rewards[i]) / beta));
  }
  return total.value();
}

}  // namespace selm
