#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "selm/host/preference_arrays.hpp"

/// @file
/// Preference losses on Eigen arrays, value and gradient together. Log-probabilities are in nats,
/// summed over the tokens of a response; every array has one entry per pair or response, shape
/// [batch]. Every function throws `Error` before anything is computed.

namespace selm {

/// `grad_*` is the derivative of `losses` (of their sum, where a loss ranks the batch) with respect
/// to the policy's log-probability. Rewards are
/// beta * (policy - ref); without a reference beta * policy, for SimPO and ORPO per token.
template <typename T>
struct PreferenceLoss {
  Array1<T> losses;
  Array1<T> chosen_rewards;
  Array1<T> rejected_rewards;
  Array1<T> grad_chosen_logps;
  Array1<T> grad_rejected_logps;
};

namespace detail {

template <typename T>
PreferenceLoss<T> as_preference_loss(SelmLoss<T>&& result) {
  return {std::move(result.losses), std::move(result.chosen_rewards),
          std::move(result.rejected_rewards), std::move(result.grad_chosen_logps),
          std::move(result.grad_rejected_logps)};
}

/// A loss of the policy's average log-probabilities, which is its operation's only one.
template <typename T>
PreferenceLoss<T> average_loss(std::string_view operation, const Array1Ref<T>& policy_chosen_logps,
                               const Array1Ref<T>& policy_rejected_logps,
                               const Array1Ref<std::int64_t>& chosen_lengths,
                               const Array1Ref<std::int64_t>& rejected_lengths,
                               const PreferenceOptions& options) {
  const std::array<std::string_view, 1> legal{options.loss_type.terms().front().name};
  return as_preference_loss(evaluate_preference<T>(
      operation, legal,
      {policy_chosen_logps, policy_rejected_logps, std::nullopt, std::nullopt, std::nullopt,
       std::nullopt, chosen_lengths, rejected_lengths},
      options));
}

}  // namespace detail

/// Each [batch]; `grad_policy_logps` is the derivative of `losses`.
template <typename T>
struct UnpairedPreferenceLoss {
  Array1<T> losses;
  Array1<T> rewards;  ///< beta * (policy - ref)
  Array1<T> grad_policy_logps;
};

/// The pairwise preference loss that `options.loss_type` names, or a weighted sum of several;
/// selm/core/loss_list.hpp lists them. The lengths belong to the losses that read them, and to no
/// other.
template <typename Logps>
PreferenceLoss<ScalarOf<Logps>> dpo_loss(const Eigen::ArrayBase<Logps>& policy_chosen_logps,
                                         const Array1Ref<ScalarOf<Logps>>& policy_rejected_logps,
                                         const Array1Ref<ScalarOf<Logps>>& ref_chosen_logps,
                                         const Array1Ref<ScalarOf<Logps>>& ref_rejected_logps,
                                         const PreferenceOptions& options = {},
                                         const OptionalLengths& chosen_lengths = std::nullopt,
                                         const OptionalLengths& rejected_lengths = std::nullopt) {
  using T = ScalarOf<Logps>;
  return detail::as_preference_loss(detail::evaluate_preference<T>(
      "dpo_loss", dpo_loss_names(),
      {policy_chosen_logps.derived(), policy_rejected_logps, std::nullopt, ref_chosen_logps,
       ref_rejected_logps, std::nullopt, chosen_lengths, rejected_lengths},
      options));
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
      "selm_loss", dpo_loss_names(),
      {policy_chosen_logps.derived(), policy_rejected_logps, policy_response_logps,
       ref_chosen_logps, ref_rejected_logps, ref_response_logps, chosen_lengths, rejected_lengths},
      options, exploration);
}

/// CPO without its likelihood term (arXiv 2401.08417, eq. 3): "sigmoid", "hinge" or, with lengths,
/// "ipo" of the policy's log-probabilities alone.
template <typename Logps>
PreferenceLoss<ScalarOf<Logps>> cpo_loss(const Eigen::ArrayBase<Logps>& policy_chosen_logps,
                                         const Array1Ref<ScalarOf<Logps>>& policy_rejected_logps,
                                         const PreferenceOptions& options = {},
                                         const OptionalLengths& chosen_lengths = std::nullopt,
                                         const OptionalLengths& rejected_lengths = std::nullopt) {
  using T = ScalarOf<Logps>;
  return detail::as_preference_loss(detail::evaluate_preference<T>(
      "cpo_loss", cpo_loss_names,
      {policy_chosen_logps.derived(), policy_rejected_logps, std::nullopt, std::nullopt,
       std::nullopt, std::nullopt, chosen_lengths, rejected_lengths},
      options));
}

/// SimPO (arXiv 2405.14734, eq. 6): -log sigmoid(beta * (chosen / length - rejected / length) -
/// gamma), with label smoothing as in `dpo_loss`.
template <typename Logps>
PreferenceLoss<ScalarOf<Logps>> simpo_loss(const Eigen::ArrayBase<Logps>& policy_chosen_logps,
                                           const Array1Ref<ScalarOf<Logps>>& policy_rejected_logps,
                                           const Array1Ref<std::int64_t>& chosen_lengths,
                                           const Array1Ref<std::int64_t>& rejected_lengths,
                                           double beta = 0.1, double simpo_gamma = 0.5,
                                           double label_smoothing = 0.0) {
  PreferenceOptions options;
  options.loss_type = "simpo";
  options.beta = beta;
  options.label_smoothing = label_smoothing;
  options.simpo_gamma = simpo_gamma;
  return detail::average_loss<ScalarOf<Logps>>("simpo_loss", policy_chosen_logps.derived(),
                                               policy_rejected_logps, chosen_lengths,
                                               rejected_lengths, options);
}

/// ORPO's odds-ratio term (arXiv 2403.07691, eq. 7): -beta * log sigmoid of the difference of the
/// log-odds of the responses' probabilities per token. It is added to the likelihood loss.
template <typename Logps>
PreferenceLoss<ScalarOf<Logps>> orpo_loss(const Eigen::ArrayBase<Logps>& policy_chosen_logps,
                                          const Array1Ref<ScalarOf<Logps>>& policy_rejected_logps,
                                          const Array1Ref<std::int64_t>& chosen_lengths,
                                          const Array1Ref<std::int64_t>& rejected_lengths,
                                          double beta = 0.1) {
  PreferenceOptions options;
  options.loss_type = "orpo";
  options.beta = beta;
  return detail::average_loss<ScalarOf<Logps>>("orpo_loss", policy_chosen_logps.derived(),
                                               policy_rejected_logps, chosen_lengths,
                                               rejected_lengths, options);
}

/// KTO (arXiv 2402.01306, eq. 8) of responses that are `desirable` or not: "kto" with the baseline
/// `kl`, in nats and held constant, or "apo_zero_unpaired" without.
template <typename Logps>
UnpairedPreferenceLoss<ScalarOf<Logps>> kto_loss(const Eigen::ArrayBase<Logps>& policy_logps,
                                                 const Array1Ref<ScalarOf<Logps>>& ref_logps,
                                                 const Array1Ref<bool>& desirable,
                                                 std::optional<double> kl, double beta = 0.1,
                                                 double desirable_weight = 1.0,
                                                 double undesirable_weight = 1.0,
                                                 const std::string& loss_type = "kto") {
  using T = ScalarOf<Logps>;
  constexpr std::string_view operation = "kto_loss";
  const UnpairedLoss<double> loss = validate_unpaired(operation, loss_type, beta, desirable_weight,
                                                      undesirable_weight, kl.has_value());
  const Array1Ref<T> policy(policy_logps.derived());
  const Eigen::Index batch = policy.size();
  detail::check_same_size(operation, "ref_logps", ref_logps.size(), "policy_logps", batch);
  detail::check_same_size(operation, "desirable", desirable.size(), "policy_logps", batch);
  detail::check_logps<T>(operation, "policy_logps", policy);
  detail::check_logps<T>(operation, "ref_logps", ref_logps);

  const T baseline = static_cast<T>(kl.value_or(0.0));
  UnpairedPreferenceLoss<T> result{Array1<T>(batch), Array1<T>(batch), Array1<T>(batch)};
  const UnpairedOutputs<T> out{result.losses.data(), result.rewards.data(),
                               result.grad_policy_logps.data()};
  for (Eigen::Index i = 0; i < batch; ++i) {
    evaluate_unpaired_row(loss, i, {policy.data(), ref_logps.data(), desirable.data(), &baseline},
                          out);
  }
  return result;
}

}  // namespace selm
