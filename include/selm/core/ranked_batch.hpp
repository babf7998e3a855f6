#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "selm/core/loss_list.hpp"
#include "selm/core/options.hpp"
#include "selm/core/pair_rows.hpp"

/// @file
/// What losses over a batch need to know of all its rows, on the host.

namespace selm {

/// Whether `property(traits)` holds for one of the losses.
template <typename Property>
bool any_loss(const PreferenceOptions& options, Property&& property) {
  const auto& terms = options.loss_type.terms();
  return std::any_of(terms.begin(), terms.end(), [&](const WeightedLoss& term) {
    const LossTraits* traits = find_loss(term.name);
    return traits != nullptr && property(*traits);
  });
}

inline bool uses(const PreferenceOptions& options, Pairing pairing) {
  return any_loss(options, [&](const LossTraits& loss) { return loss.pairing == pairing; });
}

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

/// Made of a batch for the losses that need it; must outlive the inputs that it completes.
class RankedBatch {
 public:
  template <typename Storage>
  RankedBatch(const PreferenceOptions& options, const PreferenceInputs<Storage>& in,
              std::int64_t rows) {
    if (uses(options, Pairing::ranked_pairs)) {
      policy_ = Ranking(rows, [&](std::int64_t i) {
        return double(in.policy_chosen[i]) - double(in.policy_rejected[i]);
      });
      ref_ = Ranking(rows, [&](std::int64_t i) {
        return double(in.ref_chosen[i]) - double(in.ref_rejected[i]);
      });
    }
    if (uses(options, Pairing::ranked_ratios)) {
      chosen_ = Ranking(rows, [&](std::int64_t i) { return logratio(in.pair(i).chosen); });
      rejected_ = Ranking(rows, [&](std::int64_t i) { return logratio(in.pair(i).rejected); });
    }
    if (uses(options, Lengths::mean_chosen)) {
      mean_chosen_length_ =
          std::accumulate(in.chosen_lengths, in.chosen_lengths + rows, 0.0) / double(rows);
    }
  }

  template <typename Storage>
  PreferenceInputs<Storage> complete(PreferenceInputs<Storage> in) const {
    in.mean_chosen_length = &mean_chosen_length_;
    in.ranked_pairs = {policy_.order(), ref_.order(),     policy_.order(),
                       ref_.order(),    policy_.places(), policy_.places()};
    in.ranked_ratios = {chosen_.order(),   chosen_.order(),  rejected_.order(),
                        rejected_.order(), chosen_.places(), rejected_.places()};
    return in;
  }

 private:
  Ranking policy_, ref_, chosen_, rejected_;
  double mean_chosen_length_ = 0.0;
};

}  // namespace selm
