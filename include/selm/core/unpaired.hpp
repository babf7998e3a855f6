#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "selm/core/math.hpp"
#include "selm/core/names.hpp"
#include "selm/core/reward.hpp"

/// @file
/// Losses of single responses that are labelled desirable or undesirable.

namespace selm {

/// A name that callers use, and whether that loss subtracts a baseline.
struct UnpairedLossName {
  const char* name;
  bool uses_baseline;
};

/// Every loss of single responses.
inline constexpr std::array<UnpairedLossName, 2> unpaired_loss_names{{
    {"kto", true},
    {"apo_zero_unpaired", false},
}};

/// The entry of a loss's name, or nullptr.
inline const UnpairedLossName* find_unpaired_loss(std::string_view name) {
  return find_entry(unpaired_loss_names, name);
}

/// KTO (arXiv 2402.01306, eq. 8): w * (1 - sigmoid(beta * (rho - kl))) for a desirable response, w
/// * (1 - sigmoid(beta * (kl - rho))) for an undesirable one, where the baseline kl is constant.
/// APO- zero on single responses (arXiv 2408.06266, eq. 7) is the same with kl = 0.
template <typename T>
struct UnpairedLoss {
  T beta;
  T desirable_weight;
  T undesirable_weight;

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T policy_logp, T ref_logp, T kl,
                                              bool desirable) const {
    const T margin = beta * ((policy_logp - ref_logp) - kl);
    const T weight = desirable ? desirable_weight : -undesirable_weight;
    const T value =
        desirable ? desirable_weight * sigmoid(-margin) : undesirable_weight * sigmoid(margin);
    return {value, -weight * beta * sigmoid_slope(margin)};
  }
};

/// Arrays of `batch` values each; `kl` is one number, null for 0.
template <typename Storage>
struct UnpairedInputs {
  const Storage* policy;
  const Storage* ref;
  const bool* desirable;
  const Storage* kl;
};

/// Arrays of `batch` values each; `d_policy` is the derivative of `losses`.
template <typename Storage>
struct UnpairedOutputs {
  Storage* losses;
  Storage* rewards;
  Storage* d_policy;
};

/// One row of a batch, in double, rounded once. Every back end is a loop over it.
template <typename Storage>
SELM_HOST_DEVICE void evaluate_unpaired_row(const UnpairedLoss<double>& loss, std::int64_t i,
                                            const UnpairedInputs<Storage>& in,
                                            const UnpairedOutputs<Storage>& out) {
  const double policy = in.policy[i], ref = in.ref[i];
  const double kl = in.kl == nullptr ? 0.0 : static_cast<double>(*in.kl);
  const ValueAndGrad<double> f = loss(policy, ref, kl, in.desirable[i]);
  out.losses[i] = static_cast<Storage>(f.value);
  out.rewards[i] = static_cast<Storage>(ImplicitReward<double>{loss.beta}(policy, ref).value);
  out.d_policy[i] = static_cast<Storage>(f.grad);
}

}  // namespace selm
