#pragma once

#include <cstdint>
#include <type_traits>

#include "selm/core/loss_list.hpp"
#include "selm/core/preference.hpp"

/// @file
/// From a caller's options to the loss and the term that they name.

namespace selm {

/// Calls `visitor(preference)` with the `Preference` that valid options describe. False when there
/// is no such loss.
template <typename Visitor>
bool visit_preference(const PreferenceOptions& options, const ExplorationOptions& exploration,
                      Visitor&& visitor) {
  return visit_loss(options, [&](const auto& loss) {
    using Loss = std::decay_t<decltype(loss)>;
    visitor(Preference<Loss>{loss, make_exploration(exploration, options.beta), {options.beta}});
  });
}

/// Every row of a batch, on the host.
template <typename Storage>
void evaluate_batch(const PreferenceOptions& options, const ExplorationOptions& exploration,
                    const PreferenceInputs<Storage>& in, const PreferenceOutputs<Storage>& out,
                    std::int64_t batch) {
  visit_preference(options, exploration, [&](const auto& preference) {
    for (std::int64_t i = 0; i < batch; ++i) {
      preference.evaluate_row(i, in, out);
    }
  });
}

}  // namespace selm
