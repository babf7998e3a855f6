#pragma once

#include <cstdint>
#include <string_view>
#include <utility>

#include "selm/core/preference_batch.hpp"
#include "selm/host/arrays.hpp"
#include "selm/host/options.hpp"

/// @file
/// Preference losses on Eigen arrays, value and gradient together. Log-probabilities are in nats,
/// summed over the tokens of a response; every array has one entry per pair, shape [batch].

namespace selm {

/// `grad_*` is the derivative of `losses` with respect to the policy's log-probability. Rewards are
/// beta * (policy - ref).
template <typename T>
struct PreferenceLoss {
  Array1<T> losses;
  Array1<T> chosen_rewards;
  Array1<T> rejected_rewards;
  Array1<T> grad_chosen_logps;
  Array1<T> grad_rejected_logps;
};

/// `losses` = `dpo_losses` + `exploration`. Without a response, `response_rewards` and
/// `grad_response_logps` are empty.
template <typename T>
struct SelmLoss {
  Array1<T> losses;
  Array1<T> dpo_losses;
  Array1<T> exploration;
  Array1<T> chosen_rewards;
  Array1<T> rejected_rewards;
  Array1<T> response_rewards;
  Array1<T> grad_chosen_logps;
  Array1<T> grad_rejected_logps;
  Array1<T> grad_response_logps;
};

/// Numbers of tokens, at least 1.
using OptionalLengths = OptionalArray1Ref<std::int64_t>;

namespace detail {

template <typename T>
const T* data_or_null(const OptionalArray1Ref<T>& array) {
  return array ? array->data() : nullptr;
}

/// The arrays of a call, under their public names.
template <typename T>
struct PreferenceArguments {
  const Array1Ref<T>& policy_chosen_logps;
  const Array1Ref<T>& policy_rejected_logps;
  const OptionalArray1Ref<T>& policy_response_logps;
  const Array1Ref<T>& ref_chosen_logps;
  const Array1Ref<T>& ref_rejected_logps;
  const OptionalArray1Ref<T>& ref_response_logps;
  const OptionalLengths& chosen_lengths;
  const OptionalLengths& rejected_lengths;

  void check_shapes(std::string_view operation) const {
    const auto check = [&](std::string_view argument, Eigen::Index size) {
      check_same_size(operation, argument, size, "policy_chosen_logps", policy_chosen_logps.size());
    };
    check("policy_rejected_logps", policy_rejected_logps.size());
    check("ref_chosen_logps", ref_chosen_logps.size());
    check("ref_rejected_logps", ref_rejected_logps.size());
    if (policy_response_logps) {
      check("policy_response_logps", policy_response_logps->size());
      check("ref_response_logps", ref_response_logps->size());
    }
    if (chosen_lengths) {
      check("chosen_lengths", chosen_lengths->size());
      check("rejected_lengths", rejected_lengths->size());
    }
  }

  PreferenceInputs<T> inputs() const {
    return {policy_chosen_logps.data(),          policy_rejected_logps.data(),
            data_or_null(policy_response_logps), ref_chosen_logps.data(),
            ref_rejected_logps.data(),           data_or_null(ref_response_logps),
            data_or_null(chosen_lengths),        data_or_null(rejected_lengths)};
  }
};

template <typename T>
SelmLoss<T> make_selm_loss(Eigen::Index batch, bool has_response) {
  const auto pairs = [&] { return Array1<T>(batch); };
  const auto responses = [&] { return Array1<T>(has_response ? batch : 0); };
  return {pairs(), pairs(), pairs(), pairs(), pairs(), responses(), pairs(), pairs(), responses()};
}

template <typename T>
PreferenceOutputs<T> outputs_of(SelmLoss<T>& result) {
  return {result.losses.data(),
          result.dpo_losses.data(),
          result.exploration.data(),
          result.chosen_rewards.data(),
          result.rejected_rewards.data(),
          result.response_rewards.data(),
          result.grad_chosen_logps.data(),
          result.grad_rejected_logps.data(),
          result.grad_response_logps.data()};
}

template <typename T>
SelmLoss<T> evaluate_preference(std::string_view operation, const PreferenceArguments<T>& arguments,
                                const PreferenceOptions& options,
                                const ExplorationOptions& exploration) {
  validate(operation, options, arguments.chosen_lengths.has_value(),
           arguments.rejected_lengths.has_value());
  validate(operation, exploration, "exploration");
  validate_response_use(operation, exploration, arguments.policy_response_logps.has_value(),
                        arguments.ref_response_logps.has_value());
  arguments.check_shapes(operation);
  const Eigen::Index batch = arguments.policy_chosen_logps.size();
  const PreferenceInputs<T> in = arguments.inputs();
  check_values(operation, in, batch);

  SelmLoss<T> result = make_selm_loss<T>(batch, arguments.policy_response_logps.has_value());
  evaluate_batch(options, exploration, in, outputs_of(result), batch);
  return result;
}

}  // namespace detail

/// The pairwise preference loss that `options.loss_type` names: "sigmoid" (DPO, arXiv 2305.18290,
/// eq. 7), "hinge" or "ipo". The lengths belong to the losses that average over tokens, and to no
/// other. Throws `Error` before anything is computed.
template <typename Logps>
PreferenceLoss<ScalarOf<Logps>> dpo_loss(const Eigen::ArrayBase<Logps>& policy_chosen_logps,
                                         const Array1Ref<ScalarOf<Logps>>& policy_rejected_logps,
                                         const Array1Ref<ScalarOf<Logps>>& ref_chosen_logps,
                                         const Array1Ref<ScalarOf<Logps>>& ref_rejected_logps,
                                         const PreferenceOptions& options = {},
                                         const OptionalLengths& chosen_lengths = std::nullopt,
                                         const OptionalLengths& rejected_lengths = std::nullopt) {
  using T = ScalarOf<Logps>;
  SelmLoss<T> result = detail::evaluate_preference<T>(
      "dpo_loss",
      {policy_chosen_logps.derived(), policy_rejected_logps, std::nullopt, ref_chosen_logps,
       ref_rejected_logps, std::nullopt, chosen_lengths, rejected_lengths},
      options, {});
  return {std::move(result.losses), std::move(result.chosen_rewards),
          std::move(result.rejected_rewards), std::move(result.grad_chosen_logps),
          std::move(result.grad_rejected_logps)};
}

/// SELM (arXiv 2405.19332, eq. 4.2): `dpo_loss` plus the exploration term of a response that the
/// reference policy produced, alpha * beta * (policy - ref) for kind "selm". With alpha = 0 it is
/// `dpo_loss` bit for bit, and the response may be left out (`std::nullopt` for both).
template <typename Logps>
SelmLoss<ScalarOf<Logps>> selm_loss(const Eigen::ArrayBase<Logps>& policy_chosen_logps,
                                    const Array1Ref<ScalarOf<Logps>>& policy_rejected_logps,
                                    const OptionalArray1Ref<ScalarOf<Logps>>& policy_response_logps,
                                    const Array1Ref<ScalarOf<Logps>>& ref_chosen_logps,
                                    const Array1Ref<ScalarOf<Logps>>& ref_rejected_logps,
                                    const OptionalArray1Ref<ScalarOf<Logps>>& ref_response_logps,
                                    const ExplorationOptions& exploration,
                                    const PreferenceOptions& options,
                                    const OptionalLengths& chosen_lengths = std::nullopt,
                                    const OptionalLengths& rejected_lengths = std::nullopt) {
  return detail::evaluate_preference<ScalarOf<Logps>>(
      "selm_loss",
      {policy_chosen_logps.derived(), policy_rejected_logps, policy_response_logps,
       ref_chosen_logps, ref_rejected_logps, ref_response_logps, chosen_lengths, rejected_lengths},
      options, exploration);
}

}  // namespace selm
