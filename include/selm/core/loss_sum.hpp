#pragma once

#include <cstdint>
#include <type_traits>

#include "selm/core/f_divergence.hpp"
#include "selm/core/loss_list.hpp"
#include "selm/core/options.hpp"
#include "selm/core/pair_rows.hpp"

/// @file
/// The losses that a caller named, as one function of a row of the batch.

namespace selm {

/// A weighted sum of at most `capacity` losses of `PairLosses`, chosen at run time: kernels are not
/// multiplied by losses, and the arithmetic of a few pairs costs nothing.
struct LossSum {
  static constexpr int capacity = 8;

  /// One summand.
  struct Term {
    int loss;  ///< its place in `PairLosses`
    double weight;
  };

  LossParameters<double> parameters;
  LogratioLink<double> link;
  int count;
  Term terms[capacity];
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
      pair.chosen.length = *in.mean_chosen_length;
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

/// From valid options; see selm/host/options.hpp. Losses that do not exist are left out.
inline LossSum make_loss_sum(const PreferenceOptions& options) {
  const FDivergenceName* divergence = find_f_divergence(options.f_divergence_type);
  LossSum sum{{options.beta, options.label_smoothing, options.discopop_tau.value_or(0.05),
               options.dpop_lambda.value_or(50.0), options.length_margin.value_or(0.0),
               options.simpo_gamma.value_or(0.5)},
              {divergence == nullptr ? FDivergence::reverse_kl : divergence->kind,
               options.f_alpha_divergence_coef.value_or(0.5)},
              0,
              {}};
  for (const WeightedLoss& term : options.loss_type.terms()) {
    const int index = index_of_loss(term.name);
    if (index >= 0 && sum.count < LossSum::capacity) {
      sum.terms[sum.count++] = {index, term.weight};
    }
  }
  return sum;
}

}  // namespace selm
