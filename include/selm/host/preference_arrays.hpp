#pragma once

#include <cstdint>
#include <string_view>

#include "selm/core/preference_batch.hpp"
#include "selm/host/arrays.hpp"
#include "selm/host/loss_options.hpp"

/// @file
/// The common part of the preference losses on Eigen arrays: checks, the batch, the results.

namespace selm {

/// `losses` = `dpo_losses` + `exploration`, each [batch]. `grad_*` is the derivative of `losses`
/// with respect to that response's policy log-probability. Without a response, `response_rewards`
/// and `grad_response_logps` are empty.
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
  const OptionalArray1Ref<T>& ref_chosen_logps;
  const OptionalArray1Ref<T>& ref_rejected_logps;
  const OptionalArray1Ref<T>& ref_response_logps;
  const OptionalLengths& chosen_lengths;
  const OptionalLengths& rejected_lengths;

  void check_shapes(std::string_view operation) const {
    const auto check = [&](std::string_view argument, Eigen::Index size) {
      check_same_size(operation, argument, size, "policy_chosen_logps", policy_chosen_logps.size());
    };
    const auto check_given = [&](std::string_view argument, const auto& array) {
      if (array) {
        check(argument, array->size());
      }
    };
    check("policy_rejected_logps", policy_rejected_logps.size());
    check_given("ref_chosen_logps", ref_chosen_logps);
    check_given("ref_rejected_logps", ref_rejected_logps);
    check_given("policy_response_logps", policy_response_logps);
    check_given("ref_response_logps", ref_response_logps);
    check_given("chosen_lengths", chosen_lengths);
    check_given("rejected_lengths", rejected_lengths);
  }

  PreferenceInputs<T> inputs() const {
    return {policy_chosen_logps.data(),          policy_rejected_logps.data(),
            data_or_null(policy_response_logps), data_or_null(ref_chosen_logps),
            data_or_null(ref_rejected_logps),    data_or_null(ref_response_logps),
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

/// `legal`: the names that the operation accepts for `loss_type`.
template <typename T, typename Names>
SelmLoss<T> evaluate_preference(std::string_view operation, const Names& legal,
                                const PreferenceArguments<T>& arguments,
                                const PreferenceOptions& options,
                                const ExplorationOptions& exploration = {}) {
  validate_loss_type(operation, options, legal);
  validate(operation, options, arguments.chosen_lengths.has_value(),
           arguments.rejected_lengths.has_value());
  validate(operation, exploration, "exploration");
  validate_response_use(operation, exploration, arguments.policy_response_logps.has_value(),
                        arguments.ref_response_logps.has_value());
  validate_together(operation, options, exploration);
  arguments.check_shapes(operation);
  const Eigen::Index batch = arguments.policy_chosen_logps.size();
  const PreferenceInputs<T> in = arguments.inputs();
  check_values(operation, in, batch);

  SelmLoss<T> result = make_selm_loss<T>(batch, arguments.policy_response_logps.has_value());
  evaluate_batch(options, exploration, in, outputs_of(result), batch);
  return result;
}

}  // namespace detail

}  // namespace selm
