#pragma once

#include <cstdint>

#include "selm/core/exploration.hpp"
#include "selm/core/pair.hpp"
#include "selm/core/reward.hpp"

/// @file
/// One row of a batch: preference loss + exploration term, value and gradient. Every back end is a
/// loop over `evaluate_row`.

namespace selm {

/// Arrays of `batch` values each, float or double. `policy_response` and `ref_response` are null
/// when there is no exploration term; the lengths are null unless the loss uses them.
template <typename Storage>
struct PreferenceInputs {
  const Storage* policy_chosen;
  const Storage* policy_rejected;
  const Storage* policy_response;
  const Storage* ref_chosen;
  const Storage* ref_rejected;
  const Storage* ref_response;
  const std::int64_t* chosen_lengths;
  const std::int64_t* rejected_lengths;
};

/// Arrays of `batch` values each. The three of the response are null when there is none. `d_*` is
/// the derivative of `losses` with respect to the policy log-probability of that response.
template <typename Storage>
struct PreferenceOutputs {
  Storage* losses;
  Storage* dpo_losses;
  Storage* exploration;
  Storage* chosen_rewards;
  Storage* rejected_rewards;
  Storage* response_rewards;
  Storage* d_chosen;
  Storage* d_rejected;
  Storage* d_response;
};

namespace detail {

SELM_HOST_DEVICE inline double length_at(const std::int64_t* lengths, std::int64_t i) {
  return lengths == nullptr ? 0.0 : static_cast<double>(lengths[i]);
}

}  // namespace detail

/// A preference loss together with an exploration term (SELM, arXiv 2405.19332, eq. 4.2).
/// Arithmetic is double whatever the storage, rounded once at the end.
template <typename Loss>
struct Preference {
  Loss loss;
  ExplorationTerm<double> exploration;
  ImplicitReward<double> reward;

  template <typename Storage>
  SELM_HOST_DEVICE void evaluate_row(std::int64_t i, const PreferenceInputs<Storage>& in,
                                     const PreferenceOutputs<Storage>& out) const {
    const PairInputs<double> pair{
        {in.policy_chosen[i], in.ref_chosen[i], detail::length_at(in.chosen_lengths, i)},
        {in.policy_rejected[i], in.ref_rejected[i], detail::length_at(in.rejected_lengths, i)}};
    const PairGrad<double> dpo = evaluate_pair(loss, pair);
    double total = dpo.value;
    if (in.policy_response != nullptr) {
      const double policy = in.policy_response[i];
      const double ref = in.ref_response[i];
      const ValueAndGrad<double> term = exploration(policy, ref);
      total += term.value;
      out.exploration[i] = static_cast<Storage>(term.value);
      out.response_rewards[i] = static_cast<Storage>(reward(policy, ref).value);
      out.d_response[i] = static_cast<Storage>(term.grad);
    } else {
      out.exploration[i] = Storage(0);
    }
    out.losses[i] = static_cast<Storage>(total);
    out.dpo_losses[i] = static_cast<Storage>(dpo.value);
    out.chosen_rewards[i] = static_cast<Storage>(reward(pair.chosen.policy, pair.chosen.ref).value);
    out.rejected_rewards[i] =
        static_cast<Storage>(reward(pair.rejected.policy, pair.rejected.ref).value);
    out.d_chosen[i] = static_cast<Storage>(dpo.d_chosen);
    out.d_rejected[i] = static_cast<Storage>(dpo.d_rejected);
  }
};

}  // namespace selm
