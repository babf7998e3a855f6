#pragma once

#include <cstdint>

#include "selm/core/exploration.hpp"
#include "selm/core/loss_sum.hpp"
#include "selm/core/pair_rows.hpp"
#include "selm/core/reward.hpp"

/// @file
/// One row of a batch: preference loss + exploration term, value and gradient. Every back end is a
/// loop over `evaluate_row`.

namespace selm {

/// Arrays of `batch` values each. Where there is no response, `response_rewards` and `d_response`
/// are not written and may be null; every other array is, `exploration` with zeros. `d_*` is the
/// derivative with respect to the policy log-probability of that response: of its row's loss or,
/// where a loss ranks the batch, of the losses' sum.
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

/// A preference loss together with an exploration term (SELM, arXiv 2405.19332, eq. 4.2). `Loss` is
/// `LossSum`, or a pair functor of the caller's own. Arithmetic is double whatever the storage,
/// rounded once at the end.
template <typename Loss>
struct Preference {
  Loss loss;
  ExplorationTerm<double> exploration;
  ImplicitReward<double> reward;
  bool rewards_are_averages = false;  ///< per token: see LossTraits

  template <typename Storage>
  SELM_HOST_DEVICE void evaluate_row(std::int64_t i, const PreferenceInputs<Storage>& in,
                                     const PreferenceOutputs<Storage>& out) const {
    const PairInputs<double> pair = in.pair(i);
    const PairGrad<double> dpo = evaluate_loss(loss, in, i);
    double total = dpo.value;
    if (in.policy_response != nullptr) {
      const double policy = in.policy_response[i];
      const double ref = in.ref_response[i];
      const ValueAndGrad<double> term = exploration(policy, ref);
      total += term.value;
      out.exploration[i] = static_cast<Storage>(term.value);
      out.response_rewards[i] = static_cast<Storage>(reward(policy, ref).value);
      out.d_response[i] = static_cast<Storage>(in.upstream_of(i) * term.grad);
    } else {
      out.exploration[i] = Storage(0);
    }
    out.losses[i] = static_cast<Storage>(total);
    out.dpo_losses[i] = static_cast<Storage>(dpo.value);
    out.chosen_rewards[i] = static_cast<Storage>(reward_of(pair.chosen));
    out.rejected_rewards[i] = static_cast<Storage>(reward_of(pair.rejected));
    out.d_chosen[i] = static_cast<Storage>(dpo.d_chosen);
    out.d_rejected[i] = static_cast<Storage>(dpo.d_rejected);
  }

 private:
  SELM_HOST_DEVICE double reward_of(const SequenceLogps<double>& response) const {
    const double value = reward(response.policy, response.ref).value;
    return rewards_are_averages ? value / response.length : value;
  }
};

/// The loss and the term that the options name. Throws std::invalid_argument for a name that is
/// unknown; ranges are the caller's to check (selm/host/loss_options.hpp). Losses that read lengths
/// or the whole batch need the members of `PreferenceInputs` that say so: `evaluate_batch` makes
/// those of the batch.
inline Preference<LossSum> make_preference(const PreferenceOptions& options,
                                           const ExplorationOptions& exploration) {
  return {make_loss_sum(options),
          make_exploration(exploration, options.beta),
          {options.beta},
          any_loss(options, [](const LossTraits& loss) { return loss.averages_rewards(); })};
}

}  // namespace selm
