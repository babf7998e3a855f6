#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

/// @file
/// What a caller chooses. Ranges are checked in one place, `selm/host/options.hpp`.

namespace selm {

/// One summand of a loss.
struct WeightedLoss {
  std::string name;  ///< of a functor of `PairLosses`
  double weight = 1.0;
};

/// A loss by its name, or a weighted sum of several: "sigmoid", {{"sigmoid", 1.0}, {"sft", 0.2}}.
class LossType {
 public:
  LossType(const char* name) : terms_(1, WeightedLoss{name, 1.0}) {}
  LossType(std::string name) : terms_(1, WeightedLoss{std::move(name), 1.0}) {}
  LossType(std::vector<WeightedLoss> terms) : terms_(std::move(terms)) {}

  const std::vector<WeightedLoss>& terms() const { return terms_; }

 private:
  std::vector<WeightedLoss> terms_;
};

/// Options of a pairwise preference loss. Those that are optional belong to single losses and must
/// be left out for every other.
struct PreferenceOptions {
  LossType loss_type = "sigmoid";
  double beta = 0.1;             ///< inverse temperature of the implicit reward, > 0
  double label_smoothing = 0.0;  ///< probability that a label is flipped

  /// Link between log-ratios and scores: "reverse_kl", "forward_kl", "js_divergence" or
  /// "alpha_divergence".
  std::string f_divergence_type = "reverse_kl";
  std::optional<double> f_alpha_divergence_coef = {};  ///< alpha_divergence; 0.5 if left out

  std::optional<double> discopop_tau = {};   ///< "discopop": its temperature, 0.05 if left out
  std::optional<double> dpop_lambda = {};    ///< "dpop": weight of the penalty, 50 if left out
  std::optional<double> length_margin = {};  ///< "r_dpo": margin per token of length difference
  std::optional<double> simpo_gamma = {};    ///< "simpo": the target margin, 0.5 if left out
};

/// Options of the optimistic term added to a preference loss.
struct ExplorationOptions {
  double alpha = 0.0;         ///< strength; 0 switches the term off, < 0 is pessimism
  std::string kind = "selm";  ///< name of an exploration term
  /// Beyond this absolute log-ratio the term is constant; no limit if left out.
  std::optional<double> logratio_clip = {};
};

}  // namespace selm
