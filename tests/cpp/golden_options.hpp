#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "golden.hpp"
#include "selm/core/options.hpp"

// What the rows of the golden tables say about a call.

namespace selm::test {

/// The columns that a table lacks are those of options that its losses do not have.
inline PreferenceOptions options_of(const GoldenRow& row) {
  PreferenceOptions options;
  options.loss_type = row.text("loss_type");
  options.beta = row.number("beta");
  options.label_smoothing = row.number("label_smoothing");
  options.simpo_gamma = row.optional_number("simpo_gamma");
  if (row.has("f_divergence_type")) {
    options.f_divergence_type = row.text("f_divergence_type");
    options.f_alpha_divergence_coef = row.optional_number("f_alpha_divergence_coef");
    options.discopop_tau = row.optional_number("discopop_tau");
    options.dpop_lambda = row.optional_number("dpop_lambda");
    options.length_margin = row.optional_number("length_margin");
  }
  return options;
}

inline ExplorationOptions exploration_of(const GoldenRow& row) {
  return {row.number("alpha"), row.text("exploration"), row.optional_number("logratio_clip")};
}

inline std::optional<std::int64_t> length_of(const GoldenRow& row, const std::string& response) {
  const std::optional<double> length = row.optional_number(response + "_length");
  return length ? std::optional(static_cast<std::int64_t>(*length)) : std::nullopt;
}

}  // namespace selm::test
