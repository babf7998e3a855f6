#pragma once

#include <cstdint>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "selm/core/f_divergence.hpp"
#include "selm/core/loss_list.hpp"
#include "selm/core/options.hpp"
#include "selm/core/pair_rows.hpp"

/// @file
/// The losses that a caller named, as one function of a row of the batch.

namespace selm {

/// A weighted sum of losses of `PairLosses`, each at most once, chosen at run time: kernels are not
/// multiplied by losses, and the arithmetic of a few pairs costs nothing.
struct LossSum {
  /// One summand.
  struct Term {
    int loss;  ///< its place in `PairLosses`
    double weight;
  };

  LossParameters<double> parameters;
  LogratioLink<double> link;
  int count;
  Term terms[loss_count];

  /// Adds a summand; the weights of a loss that is there already add up.
  void add(int loss, double weight) {
    for (int k = 0; k < count; ++k) {
      if (terms[k].loss == loss) {
        terms[k].weight += weight;
        return;
      }
    }
    terms[count++] = {loss, weight};
  }
};

namespace detail {

/// A loss with its link, which only a loss of the linked scores has.
template <typename Loss>
struct LinkedLoss {
  Loss loss;
  LogratioLink<double> link;

  SELM_HOST_DEVICE PairGrad<double> operator()(const PairInputs<double>& pair) const {
    if constexpr (Loss::traits.takes_f_divergence) {
      return evaluate_linked_pair(loss, link, pair);
    } else {
      return evaluate_pair(loss, pair);
    }
  }
};

/// The value of the i-th pair, and the derivatives for row i's responses in the pairs that they
/// came to stand in: every row pulls what is its own, so nothing is written twice.
template <typename Loss, typename Storage>
SELM_HOST_DEVICE PairGrad<double> evaluate_ranked(const Loss& loss, const RankedPairs& rows,
                                                  const PreferenceInputs<Storage>& in,
                                                  std::int64_t i) {
  if (rows.pair_of_chosen == nullptr) {
    constexpr double nan = quiet_nan<double>;
    return {nan, nan, nan};
  }
  const std::int64_t chosen = rows.pair_of_chosen[i], rejected = rows.pair_of_rejected[i];
  return {loss(in.pair(rows, i)).value,
          in.upstream_of(chosen) * loss(in.pair(rows, chosen)).d_chosen,
          in.upstream_of(rejected) * loss(in.pair(rows, rejected)).d_rejected};
}

template <typename Storage>
SELM_HOST_DEVICE PairGrad<double> times_upstream(const PairGrad<double>& f,
                                                 const PreferenceInputs<Storage>& in,
                                                 std::int64_t i) {
  const double upstream = in.upstream_of(i);
  return {f.value, upstream * f.d_chosen, upstream * f.d_rejected};
}

template <typename Loss, typename Storage>
SELM_HOST_DEVICE PairGrad<double> evaluate_term(const LinkedLoss<Loss>& loss,
                                                const PreferenceInputs<Storage>& in,
                                                std::int64_t i) {
  if constexpr (Loss::traits.pairing == Pairing::ranked_pairs) {
    return evaluate_ranked(loss, in.ranked_pairs, in, i);
  } else if constexpr (Loss::traits.pairing == Pairing::ranked_ratios) {
    return evaluate_ranked(loss, in.ranked_ratios, in, i);
  } else {
    PairInputs<double> pair = in.pair(i);
    if constexpr (Loss::traits.lengths == Lengths::mean_chosen) {
      pair.chosen.length = in.mean_length();
    }
    return times_upstream(loss(pair), in, i);
  }
}

}  // namespace detail

/// A pair functor of the caller's own, on row i.
template <typename Loss, typename Storage>
SELM_HOST_DEVICE PairGrad<double> evaluate_loss(const Loss& loss,
                                                const PreferenceInputs<Storage>& in,
                                                std::int64_t i) {
  return detail::times_upstream(evaluate_pair(loss, in.pair(i)), in, i);
}

/// The named losses, on row i. A weight of 0 switches a loss off, also where it is infinite.
template <typename Storage>
SELM_HOST_DEVICE PairGrad<double> evaluate_loss(const LossSum& sum,
                                                const PreferenceInputs<Storage>& in,
                                                std::int64_t i) {
  PairGrad<double> total{0.0, 0.0, 0.0};
  for (int k = 0; k < sum.count; ++k) {
    visit_loss(sum.terms[k].loss, [&](auto* type) {
      using Loss = std::remove_pointer_t<decltype(type)>;
      const detail::LinkedLoss<Loss> loss{Loss::from(sum.parameters), sum.link};
      const PairGrad<double> f = detail::evaluate_term(loss, in, i);
      const double weight = sum.terms[k].weight;
      total.value += vanishing_product(weight, f.value);
      total.d_chosen += vanishing_product(weight, f.d_chosen);
      total.d_rejected += vanishing_product(weight, f.d_rejected);
    });
  }
  return total;
}

/// Whether `property(traits)` holds for one of the losses.
template <typename Property>
bool any_loss(const PreferenceOptions& options, Property&& property) {
  for (const WeightedLoss& term : options.loss_type.terms()) {
    const LossTraits* traits = find_loss(term.name);
    if (traits != nullptr && property(*traits)) {
      return true;
    }
  }
  return false;
}

/// Whether there is a loss, and every loss and the f-divergence are known by their names. Ranges
/// are not looked at: selm/host/loss_options.hpp checks them.
inline bool are_known(const PreferenceOptions& options) {
  for (const WeightedLoss& term : options.loss_type.terms()) {
    if (find_loss(term.name) == nullptr) {
      return false;
    }
  }
  return !options.loss_type.terms().empty() &&
         find_f_divergence(options.f_divergence_type) != nullptr;
}

/// The losses that the options name. Throws std::invalid_argument unless `are_known(options)`.
inline LossSum make_loss_sum(const PreferenceOptions& options) {
  if (!are_known(options)) {
    throw std::invalid_argument("selm: no loss, or an unknown name of a loss or an f-divergence");
  }
  LossSum sum{{options.beta, options.label_smoothing, options.discopop_tau.value_or(0.05),
               options.dpop_lambda.value_or(50.0), options.length_margin.value_or(0.0),
               options.simpo_gamma.value_or(0.5)},
              {find_f_divergence(options.f_divergence_type)->kind,
               options.f_alpha_divergence_coef.value_or(0.5)},
              0,
              {}};
  for (const WeightedLoss& term : options.loss_type.terms()) {
    sum.add(index_of_loss(term.name), term.weight);
  }
  return sum;
}

}  // namespace selm
