#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "selm/core/f_divergence.hpp"
#include "selm/core/loss_sum.hpp"
#include "selm/core/ranked_batch.hpp"
#include "selm/core/unpaired.hpp"
#include "selm/host/options.hpp"

/// @file
/// The checks of a preference loss's options: ranges, and that every option has a loss that uses
/// it.

namespace selm {

namespace detail {

template <typename... Losses>
std::vector<std::string_view> loss_names(TypeList<Losses...>, bool averaging_rewards) {
  std::vector<std::string_view> names;
  const LossTraits all[] = {Losses::traits...};
  for (const LossTraits& loss : all) {
    if (loss.averages_rewards() == averaging_rewards) {
      names.push_back(loss.name);
    }
  }
  return names;
}

inline std::string loss_user(const WeightedLoss& loss) {
  return fmt::format("loss_type '{}'", loss.name);
}

/// "loss_type 'a'", or "loss_type ['a', 'b']".
inline std::string loss_user(const PreferenceOptions& options) {
  const std::vector<WeightedLoss>& terms = options.loss_type.terms();
  if (terms.size() == 1) {
    return loss_user(terms.front());
  }
  std::vector<std::string> names;
  names.reserve(terms.size());
  for (const WeightedLoss& term : terms) {
    names.push_back(fmt::format("'{}'", term.name));
  }
  return fmt::format("loss_type [{}]", fmt::join(names, ", "));
}

inline void validate_label_smoothing(std::string_view operation, const LossTraits& loss,
                                     double label_smoothing) {
  const SmoothingRange range = loss.smoothing;
  if (range.contains(label_smoothing)) {
    return;
  }
  const std::string expected =
      range.is_defined()
          ? fmt::format("to be in {}{}, {}{} for loss_type '{}'", range.low_is_open ? '(' : '[',
                        range.low, range.high, range.high_is_open ? ')' : ']', loss.name)
          : fmt::format("to be 0: loss_type '{}' does not define label smoothing", loss.name);
  throw Error(ErrorCode::value, operation, "label_smoothing", expected,
              fmt::format("{}", label_smoothing));
}

/// A link other than reverse KL: a loss without a reference has no score that it could replace, but
/// beside it there must be a loss that has.
inline void validate_link(std::string_view operation, const PreferenceOptions& options) {
  const auto require = [&](bool holds, std::string_view why) {
    if (!holds) {
      throw Error(ErrorCode::value, operation, "f_divergence_type",
                  fmt::format("to be 'reverse_kl': {}", why),
                  fmt::format("'{}'", options.f_divergence_type));
    }
  };
  for (const WeightedLoss& term : options.loss_type.terms()) {
    const LossTraits& loss = *find_loss(term.name);
    require(loss.takes_f_divergence || !loss.uses_reference,
            fmt::format("{} is defined for no other", loss_user(term)));
  }
  require(any_loss(options, [](const LossTraits& loss) { return loss.takes_f_divergence; }),
          fmt::format("{} does not use it", loss_user(options)));
}

inline void validate_f_divergence(std::string_view operation, const PreferenceOptions& options) {
  const FDivergenceName* divergence = find_f_divergence(options.f_divergence_type);
  if (divergence == nullptr) {
    throw unknown_name(operation, "f_divergence_type", names_of(f_divergence_names),
                       options.f_divergence_type);
  }
  if (divergence->kind != FDivergence::reverse_kl) {
    validate_link(operation, options);
  }
  const std::optional<double>& coefficient = options.f_alpha_divergence_coef;
  if (coefficient && divergence->kind != FDivergence::alpha_divergence) {
    validate_use(operation, "f_alpha_divergence_coef", true, false,
                 fmt::format("f_divergence_type '{}'", options.f_divergence_type));
  }
  if (coefficient) {
    validate_finite(operation, "f_alpha_divergence_coef", *coefficient);
  }
}

/// An option of single losses: where it is given one of them must be there, and where it has no
/// default and one of them is there, it must be given.
inline bool validate_loss_option(std::string_view operation, const PreferenceOptions& options,
                                 std::string_view argument, const std::optional<double>& value,
                                 LossOption option, bool has_default) {
  const bool used =
      any_loss(options, [&](const LossTraits& loss) { return loss.option == option; });
  if (value.has_value() != used && !(has_default && used)) {
    validate_use(operation, argument, value.has_value(), used, loss_user(options));
  }
  return value.has_value();
}

inline void validate_loss_options(std::string_view operation, const PreferenceOptions& options) {
  const auto given = [&](std::string_view argument, const std::optional<double>& value,
                         LossOption option, bool has_default = true) {
    return validate_loss_option(operation, options, argument, value, option, has_default);
  };
  if (given("discopop_tau", options.discopop_tau, LossOption::discopop_tau)) {
    validate_positive(operation, "discopop_tau", *options.discopop_tau);
  }
  if (given("dpop_lambda", options.dpop_lambda, LossOption::dpop_lambda)) {
    validate_non_negative(operation, "dpop_lambda", *options.dpop_lambda);
  }
  if (given("length_margin", options.length_margin, LossOption::length_margin, false)) {
    validate_finite(operation, "length_margin", *options.length_margin);
  }
  if (given("simpo_gamma", options.simpo_gamma, LossOption::simpo_gamma)) {
    validate_finite(operation, "simpo_gamma", *options.simpo_gamma);
  }
}

}  // namespace detail

/// Throws unless every loss is one of `legal`, and its weight a finite number.
template <typename Names>
void validate_loss_type(std::string_view operation, const PreferenceOptions& options,
                        const Names& legal) {
  const std::vector<WeightedLoss>& terms = options.loss_type.terms();
  if (terms.empty()) {
    throw Error(ErrorCode::value, operation, "loss_type", "to name at least one loss", "none");
  }
  for (const WeightedLoss& term : terms) {
    if (std::find(legal.begin(), legal.end(), term.name) == legal.end()) {
      throw detail::unknown_name(operation, "loss_type", legal, term.name);
    }
    if (!std::isfinite(term.weight)) {
      throw Error(ErrorCode::value, operation, "loss_weights", "to hold finite numbers",
                  fmt::format("{}", term.weight));
    }
  }
}

/// Throws unless the options lie in the ranges of the losses that they name, every option has a
/// loss that uses it, and the lengths are given exactly when a loss uses them. The losses are
/// known.
inline void validate(std::string_view operation, const PreferenceOptions& options,
                     bool has_chosen_lengths, bool has_rejected_lengths) {
  validate_beta(operation, options.beta);
  for (const WeightedLoss& term : options.loss_type.terms()) {
    detail::validate_label_smoothing(operation, *find_loss(term.name), options.label_smoothing);
  }
  detail::validate_f_divergence(operation, options);
  detail::validate_loss_options(operation, options);
  const std::string user = detail::loss_user(options);
  detail::validate_use(
      operation, "chosen_lengths", has_chosen_lengths,
      any_loss(options, [](const LossTraits& loss) { return loss.uses_chosen_lengths(); }), user);
  detail::validate_use(
      operation, "rejected_lengths", has_rejected_lengths,
      any_loss(options, [](const LossTraits& loss) { return loss.uses_rejected_lengths(); }), user);
}

/// The losses that `dpo_loss` and `selm_loss` know.
inline std::vector<std::string_view> dpo_loss_names() {
  return detail::loss_names(PairLosses{}, false);
}

/// The losses of CPO.
inline constexpr std::array<std::string_view, 3> cpo_loss_names{"sigmoid", "hinge", "ipo"};

/// For `selm_loss`: throws where the exploration term is not defined beside the loss. Its
/// derivation is reverse KL (arXiv 2405.19332, eq. 4.1).
inline void validate_together(std::string_view operation, const PreferenceOptions& options,
                              const ExplorationOptions& exploration) {
  if (exploration.alpha != 0.0 && options.f_divergence_type != "reverse_kl") {
    throw Error(ErrorCode::value, operation, "f_divergence_type",
                fmt::format("to be 'reverse_kl' with alpha {}: the exploration term is derived "
                            "for reverse KL",
                            exploration.alpha),
                fmt::format("'{}'", options.f_divergence_type));
  }
}

/// The unpaired loss of that name; throws when there is none, and unless the baseline is given
/// exactly where it is used and the weights are finite and >= 0.
inline UnpairedLoss<double> validate_unpaired(std::string_view operation,
                                              std::string_view loss_type, double beta,
                                              double desirable_weight, double undesirable_weight,
                                              bool has_kl) {
  const UnpairedLossName* loss = find_unpaired_loss(loss_type);
  if (loss == nullptr) {
    throw detail::unknown_name(operation, "loss_type", detail::names_of(unpaired_loss_names),
                               loss_type);
  }
  validate_beta(operation, beta);
  validate_non_negative(operation, "desirable_weight", desirable_weight);
  validate_non_negative(operation, "undesirable_weight", undesirable_weight);
  detail::validate_use(operation, "kl", has_kl, loss->uses_baseline,
                       fmt::format("loss_type '{}'", loss_type));
  return {beta, desirable_weight, undesirable_weight};
}

}  // namespace selm
