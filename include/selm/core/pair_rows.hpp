#pragma once

#include <cstdint>

#include "selm/core/loss_traits.hpp"
#include "selm/core/math.hpp"
#include "selm/core/pair.hpp"

/// @file
/// The arrays of a batch, and the pairs that a loss sees in them.

namespace selm {

/// Pairs for losses that rank the batch: the k-th pair is made of these rows. The last two say in
/// which pair a row's chosen and rejected response came to stand. All are null where no loss ranks;
/// one that does is then NaN.
struct RankedPairs {
  const std::int64_t* policy_chosen;
  const std::int64_t* ref_chosen;
  const std::int64_t* policy_rejected;
  const std::int64_t* ref_rejected;
  const std::int64_t* pair_of_chosen;
  const std::int64_t* pair_of_rejected;
};

/// Arrays of `batch` values each, float or double. `policy_response` and `ref_response` are null
/// when there is no exploration term; a null reference stands for zeros. The lengths may be null
/// unless a loss reads them: where they are missing its value is NaN.
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
  const double* mean_chosen_length = nullptr;  ///< one number, for `Lengths::mean_chosen`
  RankedPairs ranked_pairs = {};               ///< for losses over `Pairing::ranked_pairs`
  RankedPairs ranked_ratios = {};              ///< for losses over `Pairing::ranked_ratios`
  const Storage* upstream = nullptr;  ///< factor of each loss in the derivatives; null for ones

  SELM_HOST_DEVICE double upstream_of(std::int64_t loss) const {
    return upstream == nullptr ? 1.0 : static_cast<double>(upstream[loss]);
  }

  SELM_HOST_DEVICE double mean_length() const {
    return mean_chosen_length == nullptr ? quiet_nan<double> : *mean_chosen_length;
  }

  /// Row i's own chosen and rejected response; a length that is not given is NaN.
  SELM_HOST_DEVICE PairInputs<double> pair(std::int64_t i) const {
    return {{at(policy_chosen, i), at(ref_chosen, i), length(chosen_lengths, i)},
            {at(policy_rejected, i), at(ref_rejected, i), length(rejected_lengths, i)}};
  }

  /// The k-th pair of a ranked batch. No loss that ranks reads lengths.
  SELM_HOST_DEVICE PairInputs<double> pair(const RankedPairs& rows, std::int64_t k) const {
    return {{at(policy_chosen, rows.policy_chosen[k]), at(ref_chosen, rows.ref_chosen[k]), 1.0},
            {at(policy_rejected, rows.policy_rejected[k]), at(ref_rejected, rows.ref_rejected[k]),
             1.0}};
  }

 private:
  SELM_HOST_DEVICE static double at(const Storage* values, std::int64_t i) {
    return values == nullptr ? 0.0 : static_cast<double>(values[i]);
  }
  SELM_HOST_DEVICE static double length(const std::int64_t* lengths, std::int64_t i) {
    return lengths == nullptr ? quiet_nan<double> : static_cast<double>(lengths[i]);
  }
};

}  // namespace selm
