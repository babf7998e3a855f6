#pragma once

#include <cstddef>
#include <string_view>
#include <type_traits>
#include <utility>

#include "selm/core/likelihood_losses.hpp"
#include "selm/core/margin_losses.hpp"
#include "selm/core/response_losses.hpp"

/// @file
/// The one list of pairwise losses. Parsing, validation and every back end's dispatch follow it.
///
/// A loss is a functor: `ValueAndGrad<T> operator()(T logratio_diff)` if it is one of the log-ratio
/// difference alone, else `PairGrad<T> operator()(const PairInputs<T>&)`. Beside it stand `traits`
/// and `from(parameters)`. To add one: write it, append it here, add its golden rows, document it.

namespace selm {

/// A list of types, as a value.
template <typename... Types>
struct TypeList {};

/// Pair arithmetic is double on every back end: a batch holds few pairs, and float(0.1) alone would
/// cost 10 ulp at large margins.
using PairLosses =
    TypeList<SigmoidLoss<double>, HingeLoss<double>, IpoLoss<double>, ExoPairLoss<double>,
             NcaPairLoss<double>, RobustLoss<double>, BcoPairLoss<double>, SppoHardLoss<double>,
             AotLoss<double>, AotUnpairedLoss<double>, ApoZeroLoss<double>, ApoDownLoss<double>,
             DiscoPopLoss<double>, SftLoss<double>, SigmoidNormLoss<double>, DpopLoss<double>,
             RDpoLoss<double>, NllLoss<double>, SimpoLoss<double>, OrpoLoss<double>>;

namespace detail {

template <typename... Losses>
constexpr int count_of(TypeList<Losses...>) {
  return static_cast<int>(sizeof...(Losses));
}

template <typename Visitor, typename... Losses, std::size_t... indices>
SELM_HOST_DEVICE void visit_loss(int index, Visitor&& visitor, TypeList<Losses...>,
                                 std::index_sequence<indices...>) {
  const auto visit_if = [&](int candidate, auto* type) {
    if (candidate == index) {
      visitor(type);
    }
  };
  (visit_if(static_cast<int>(indices), static_cast<Losses*>(nullptr)), ...);
}

template <typename Visitor, typename... Losses>
SELM_HOST_DEVICE void visit_loss(int index, Visitor&& visitor, TypeList<Losses...> list) {
  visit_loss(index, visitor, list, std::index_sequence_for<Losses...>{});
}

template <typename... Losses>
int index_of_loss(std::string_view name, TypeList<Losses...>) {
  const std::string_view names[] = {Losses::traits.name...};
  for (int i = 0; i < static_cast<int>(sizeof...(Losses)); ++i) {
    if (names[i] == name) {
      return i;
    }
  }
  return -1;
}

template <typename... Losses>
const LossTraits* traits_of_loss(int index, TypeList<Losses...>) {
  static constexpr LossTraits all[] = {Losses::traits...};
  return index < 0 ? nullptr : &all[index];
}

}  // namespace detail

/// How many losses the list has.
inline constexpr int loss_count = detail::count_of(PairLosses{});

/// Calls `visitor(type)` with a null pointer to the functor that is `index`-th in the list.
template <typename Visitor>
SELM_HOST_DEVICE void visit_loss(int index, Visitor&& visitor) {
  detail::visit_loss(index, visitor, PairLosses{});
}

/// The place of a loss in the list, or -1.
inline int index_of_loss(std::string_view name) {
  return detail::index_of_loss(name, PairLosses{});
}

/// What is known about the loss of that name, or nullptr.
inline const LossTraits* find_loss(std::string_view name) {
  return detail::traits_of_loss(index_of_loss(name), PairLosses{});
}

}  // namespace selm
