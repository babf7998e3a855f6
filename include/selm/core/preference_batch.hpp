#pragma once

#include <cstdint>

#include "selm/core/preference.hpp"
#include "selm/core/ranked_batch.hpp"

/// @file
/// From a caller's options to the losses of a batch, on the host.

namespace selm {

/// Every row of a batch. The members of `in` that are made of all rows are made here.
template <typename Storage>
void evaluate_batch(const PreferenceOptions& options, const ExplorationOptions& exploration,
                    const PreferenceInputs<Storage>& in, const PreferenceOutputs<Storage>& out,
                    std::int64_t batch) {
  const RankedBatch ranked(options, in, batch);
  const PreferenceInputs<Storage> complete = ranked.complete(in);
  const Preference<LossSum> preference = make_preference(options, exploration);
  for (std::int64_t i = 0; i < batch; ++i) {
    preference.evaluate_row(i, complete, out);
  }
}

}  // namespace selm
