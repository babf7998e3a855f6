#pragma once

#include <c10/util/Exception.h>

#include <string>
#include <vector>

#include "selm/core/options.hpp"
#include "selm/core/preference.hpp"

/// @file
/// A loss's options on their way through the dispatcher, which knows lists of names and numbers.

namespace selm::ops {

struct PreferenceSpec {
  std::vector<std::string> names;
  std::vector<double> numbers;
};

/// From valid options.
inline PreferenceSpec pack(const PreferenceOptions& options,
                           const ExplorationOptions& exploration) {
  const LossSum sum = make_loss_sum(options);
  const ExplorationTerm<double> term = make_exploration(exploration, options.beta);
  const LossParameters<double>& p = sum.parameters;
  PreferenceSpec spec{
      {exploration.kind, options.f_divergence_type},
      {exploration.alpha, term.logratio_clip, p.beta, p.label_smoothing, p.discopop_tau,
       p.dpop_lambda, p.length_margin, p.simpo_gamma, sum.link.alpha}};
  for (const WeightedLoss& loss : options.loss_type.terms()) {
    spec.names.push_back(loss.name);
    spec.numbers.push_back(loss.weight);
  }
  return spec;
}

/// Inverse of `pack`, with every default filled in.
inline std::pair<PreferenceOptions, ExplorationOptions> unpack(
    const std::vector<std::string>& names, c10::ArrayRef<double> numbers) {
  constexpr std::size_t own_names = 2, own_numbers = 9;
  TORCH_CHECK_VALUE(
      names.size() > own_names && numbers.size() - own_numbers == names.size() - own_names,
      "selm::_preference_loss: expected one weight per loss");
  std::vector<WeightedLoss> losses;
  for (std::size_t k = own_names; k < names.size(); ++k) {
    losses.push_back({names[k], numbers[own_numbers + k - own_names]});
  }
  return {{std::move(losses), numbers[2], numbers[3], names[1], numbers[8], numbers[4], numbers[5],
           numbers[6], numbers[7]},
          {numbers[0], names[0], numbers[1]}};
}

}  // namespace selm::ops
