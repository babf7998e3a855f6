#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "selm/core/loss_sum.hpp"
#include "selm/core/options.hpp"
#include "selm/core/pair_rows.hpp"

/// @file
/// What losses over a batch need to know of all its rows, on the host.

namespace selm {

/// Whether one of the losses pairs its rows this way.
inline bool uses(const PreferenceOptions& options, Pairing pairing) {
  return any_loss(options, [&](const LossTraits& loss) { return loss.pairing == pairing; });
}

/// Whether one of the losses reads these lengths.
inline bool uses(const PreferenceOptions& options, Lengths lengths) {
  return any_loss(options, [&](const LossTraits& loss) { return loss.lengths == lengths; });
}

/// Rows by ascending value, and each row's place among them.
class Ranking {
 public:
  Ranking() = default;

  /// Equal values stay in the order of their rows, NaN comes last.
  template <typename Value>
  Ranking(std::int64_t rows, Value&& value)
      : order_(static_cast<std::size_t>(rows)), places_(order_.size()) {
    std::iota(order_.begin(), order_.end(), std::int64_t(0));
    std::stable_sort(order_.begin(), order_.end(), [&](std::int64_t a, std::int64_t b) {
      return value(a) < value(b) || (std::isnan(value(b)) && !std::isnan(value(a)));
    });
    for (std::size_t k = 0; k < order_.size(); ++k) {
      places_[static_cast<std::size_t>(order_[k])] = static_cast<std::int64_t>(k);
    }
  }

  const std::int64_t* order() const { return order_.data(); }
  const std::int64_t* places() const { return places_.data(); }

 private:
  std::vector<std::int64_t> order_;
  std::vector<std::int64_t> places_;
};

/// Pairs for `Pairing::ranked_pairs`: rank k of the policy's differences with rank k of the
/// reference's. `Order` has the rows by rank, `order()`, and each row's rank, `places()`.
template <typename Order>
RankedPairs pairs_of_differences(const Order& policy, const Order& ref) {
  return {policy.order(), ref.order(),     policy.order(),
          ref.order(),    policy.places(), policy.places()};
}

/// Pairs for `Pairing::ranked_ratios`: rank k of the chosen with rank k of the rejected.
template <typename Order>
RankedPairs pairs_of_ratios(const Order& chosen, const Order& rejected) {
  return {chosen.order(),   chosen.order(),  rejected.order(),
          rejected.order(), chosen.places(), rejected.places()};
}

/// Made of a batch for the losses that need it; must outlive the inputs that it completes.
class RankedBatch {
 public:
  template <typename Storage>
  RankedBatch(const PreferenceOptions& options, const PreferenceInputs<Storage>& in,
              std::int64_t rows) {
    if (uses(options, Pairing::ranked_pairs)) {
      policy_ = Ranking(rows, [&](std::int64_t i) {
        const PairInputs<double> pair = in.pair(i);
        return pair.chosen.policy - pair.rejected.policy;
      });
      ref_ = Ranking(rows, [&](std::int64_t i) {
        const PairInputs<double> pair = in.pair(i);
        return pair.chosen.ref - pair.rejected.ref;
      });
    }
    if (uses(options, Pairing::ranked_ratios)) {
      chosen_ = Ranking(rows, [&](std::int64_t i) { return logratio(in.pair(i).chosen); });
      rejected_ = Ranking(rows, [&](std::int64_t i) { return logratio(in.pair(i).rejected); });
    }
    if (uses(options, Lengths::mean_chosen) && in.chosen_lengths != nullptr) {
      mean_chosen_length_ =
          std::accumulate(in.chosen_lengths, in.chosen_lengths + rows, 0.0) / double(rows);
    }
  }

  template <typename Storage>
  PreferenceInputs<Storage> complete(PreferenceInputs<Storage> in) const {
    in.mean_chosen_length = &mean_chosen_length_;
    in.ranked_pairs = pairs_of_differences(policy_, ref_);
    in.ranked_ratios = pairs_of_ratios(chosen_, rejected_);
    return in;
  }

 private:
  Ranking policy_, ref_, chosen_, rejected_;
  double mean_chosen_length_ = quiet_nan<double>;
};

}  // namespace selm
