#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>

#include "selm/core/divergence.hpp"
#include "selm/core/exploration.hpp"
#include "selm/core/options.hpp"
#include "selm/host/error.hpp"

/// @file
/// The one check of what callers choose, shared by the Eigen functions and the LibTorch operators.
/// `operation` is the public function's name, without "selm::".

namespace selm {

namespace detail {

template <typename Names>
Error unknown_name(std::string_view operation, std::string_view argument, const Names& legal,
                   std::string_view got) {
  return Error(ErrorCode::value, operation, argument,
               fmt::format("to be one of '{}'", fmt::join(legal, "', '")),
               fmt::format("'{}'", got));
}

template <typename Entry, std::size_t size>
std::array<const char*, size> names_of(const std::array<Entry, size>& entries) {
  std::array<const char*, size> names{};
  for (std::size_t i = 0; i < size; ++i) {
    names[i] = entries[i].name;
  }
  return names;
}

/// An option must be given where `user` reads it, and only there: nothing is ignored silently.
inline void validate_use(std::string_view operation, std::string_view argument, bool given,
                         bool used, std::string_view user) {
  if (used && !given) {
    throw Error(ErrorCode::value, operation, argument, fmt::format("to be given for {}", user),
                "none");
  }
  if (given && !used) {
    throw Error(ErrorCode::value, operation, argument,
                fmt::format("to be left out: {} does not use it", user), "a value");
  }
}

}  // namespace detail

/// Throws unless `value` is finite.
inline void validate_finite(std::string_view operation, std::string_view argument, double value) {
  if (!std::isfinite(value)) {
    throw Error(ErrorCode::value, operation, argument, "to be a finite number",
                fmt::format("{}", value));
  }
}

/// Throws unless `value` is finite and >= 0.
inline void validate_non_negative(std::string_view operation, std::string_view argument,
                                  double value) {
  if (!(std::isfinite(value) && value >= 0.0)) {
    throw Error(ErrorCode::value, operation, argument, "to be a finite number >= 0",
                fmt::format("{}", value));
  }
}

/// Throws unless `value` is finite and > 0.
inline void validate_positive(std::string_view operation, std::string_view argument, double value) {
  if (!(std::isfinite(value) && value > 0.0)) {
    throw Error(ErrorCode::value, operation, argument, "to be a finite number > 0",
                fmt::format("{}", value));
  }
}

/// Throws unless `factor`, by which logits are scaled in type T, is a normal number of that type:
/// beyond its range it is 0 or infinite, and the logits NaN. `formula` says how it follows from
/// `value`, the argument.
template <typename T>
void validate_factor(std::string_view operation, std::string_view argument, double value,
                     std::string_view formula, double factor) {
  if (!std::isnormal(static_cast<T>(factor))) {
    const char* type = sizeof(T) == sizeof(float) ? "float32" : "float64";
    throw Error(ErrorCode::value, operation, argument,
                fmt::format("to keep {} within the range of {}", formula, type),
                fmt::format("{}, which makes it {:g}", value, factor));
  }
}

/// Throws unless logits of type T can be divided by `temperature`.
template <typename T>
void validate_temperature(std::string_view operation, double temperature) {
  validate_positive(operation, "temperature", temperature);
  validate_factor<T>(operation, "temperature", temperature, "1 / temperature", 1.0 / temperature);
}

/// Throws unless beta is finite and > 0, and large enough for IPO's target 1 / (2 beta).
inline void validate_beta(std::string_view operation, double beta) {
  validate_positive(operation, "beta", beta);
  if (!std::isfinite(0.5 / beta)) {
    throw Error(ErrorCode::value, operation, "beta",
                "to be large enough that 1 / (2 beta) is finite", fmt::format("{}", beta));
  }
}

/// Throws unless the kind exists and alpha is finite. The kind is called 'kind' by
/// `exploration_bonus` and 'exploration' by `selm_loss`: `kind_argument` is that name.
inline void validate(std::string_view operation, const ExplorationOptions& options,
                     std::string_view kind_argument) {
  if (options.logratio_clip) {
    validate_positive(operation, "logratio_clip", *options.logratio_clip);
  }
  if (find_exploration(options.kind) == nullptr) {
    throw detail::unknown_name(operation, kind_argument, detail::names_of(exploration_names),
                               options.kind);
  }
  validate_finite(operation, "alpha", options.alpha);
}

/// For `exploration_bonus`, where beta and ref_logps exist only for the sake of the term: throws
/// unless they are given exactly when the kind uses them. `options` are valid.
inline void validate_reference_use(std::string_view operation, const ExplorationOptions& options,
                                   bool has_beta, bool has_ref_logps) {
  const bool used = find_exploration(options.kind)->uses_reference;
  const std::string user = fmt::format("kind '{}'", options.kind);
  detail::validate_use(operation, "beta", has_beta, used, user);
  detail::validate_use(operation, "ref_logps", has_ref_logps,
                       used || options.logratio_clip.has_value(),
                       options.logratio_clip ? "logratio_clip" : user);
}

/// For `selm_loss`: throws unless the response's log-probabilities come together, and come where
/// alpha is not 0. `options` are valid.
inline void validate_response_use(std::string_view operation, const ExplorationOptions& options,
                                  bool has_policy_response, bool has_ref_response) {
  const bool used = options.alpha != 0.0 || has_policy_response || has_ref_response;
  const std::string user =
      options.alpha != 0.0 ? fmt::format("alpha {}", options.alpha) : "the response's reward";
  detail::validate_use(operation, "policy_response_logps", has_policy_response, used, user);
  detail::validate_use(operation, "ref_response_logps", has_ref_response, used, user);
}

/// The KL estimator of that name; throws when there is none.
inline KlEstimator parse_kl_estimator(std::string_view operation, std::string_view kind) {
  const KlEstimatorName* entry = find_kl_estimator(kind);
  if (entry == nullptr) {
    throw detail::unknown_name(operation, "kind", detail::names_of(kl_estimator_names), kind);
  }
  return entry->kind;
}

}  // namespace selm
