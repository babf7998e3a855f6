#pragma once

#include <string_view>

#include "selm/core/options.hpp"
#include "selm/core/preference_loss.hpp"

/// @file
/// The one list of pairwise losses. Parsing, validation and every back end's dispatch follow it.

namespace selm {

template <typename... Types>
struct TypeList {};

/// Pair arithmetic is double on every back end: a batch holds few pairs, and float(0.1) alone would
/// cost 10 ulp at large margins.
using PairLosses = TypeList<SigmoidLoss<double>, HingeLoss<double>, IpoLoss<double>>;

namespace detail {

template <typename Visitor, typename... Losses>
bool visit_loss(const PreferenceOptions& options, Visitor&& visitor, TypeList<Losses...>) {
  const auto visit_if_named = [&](auto* type) {
    using Loss = std::remove_pointer_t<decltype(type)>;
    if (std::string_view(Loss::name) != options.loss_type) {
      return false;
    }
    visitor(Loss::from(options));
    return true;
  };
  return (visit_if_named(static_cast<Losses*>(nullptr)) || ...);
}

}  // namespace detail

/// Calls `visitor(loss)` with the functor that `options` name. False when there is no such loss.
template <typename Visitor>
bool visit_loss(const PreferenceOptions& options, Visitor&& visitor) {
  return detail::visit_loss(options, visitor, PairLosses{});
}

}  // namespace selm
