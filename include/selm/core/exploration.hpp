#pragma once

#include <array>
#include <cmath>
#include <stdexcept>
#include <string_view>

#include "selm/core/math.hpp"
#include "selm/core/names.hpp"
#include "selm/core/options.hpp"

/// @file
/// Exploration terms: functions of one response's log-probabilities that are ADDED to the loss. For
/// alpha > 0 their derivative is positive, so a gradient step lowers the likelihood of the response
/// that the reference policy produced and moves the policy towards what it has not tried.

namespace selm {

/// SELM (arXiv 2405.19332, eq. 4.2): alpha * beta * (log pi(y|x) - log pi_ref(y|x)) for y drawn
/// from the current reference policy. The reference part is constant in the policy.
template <typename T>
struct SelmTerm {
  T alpha;
  T beta;

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T policy_logp, T ref_logp) const {
    const T strength = alpha * beta;
    return {strength * (policy_logp - ref_logp), strength};
  }
};

/// XPO (arXiv 2405.21046, algorithm 1): alpha * log pi(y|x). The same gradient as SELM's at
/// alpha_xpo = alpha_selm * beta: SELM's 1e-3 passed here is a 100-fold overdose at beta 0.01.
template <typename T>
struct XpoTerm {
  T alpha;

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T policy_logp) const {
    return {alpha * policy_logp, alpha};
  }
};

/// POPO (arXiv 2502.00666): alpha * (sigmoid(beta * rho) - 1/2) / beta, which is bounded. Its alpha
/// is a scale of its own: the slope at rho = 0 is alpha / 4, SELM's at alpha_selm = alpha / (4
/// beta).
template <typename T>
struct PopoTerm {
  T alpha;
  T beta;

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T policy_logp, T ref_logp) const {
    const T reward = beta * (policy_logp - ref_logp);
    return {alpha * std::tanh(reward / T(2)) / (T(2) * beta), alpha * sigmoid_slope(reward)};
  }
};

/// Which term; `none` is 0 whatever the inputs.
enum class ExplorationKind { none, selm, xpo, popo };

/// A name that callers use, and what it stands for.
struct ExplorationName {
  const char* name;
  ExplorationKind kind;
  bool uses_reference;  ///< whether the term reads beta and the reference log-probability
};

/// Every exploration term.
inline constexpr std::array<ExplorationName, 3> exploration_names{{
    {"selm", ExplorationKind::selm, true},
    {"xpo", ExplorationKind::xpo, false},
    {"popo", ExplorationKind::popo, true},
}};

/// The entry of a kind's name, or nullptr.
inline const ExplorationName* find_exploration(std::string_view name) {
  return find_entry(exploration_names, name);
}

/// Any exploration term, chosen at run time: kernels multiply by losses, not by losses times terms.
/// Where the log-ratio rho leaves [-logratio_clip, logratio_clip] the term has its value at the end
/// of that range and derivative 0: a brake for terms that are unbounded below.
template <typename T>
struct ExplorationTerm {
  ExplorationKind kind;
  T alpha;
  T beta;
  T logratio_clip = -minus_infinity<T>;

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T policy_logp, T ref_logp) const {
    const T rho = policy_logp - ref_logp;
    if (kind != ExplorationKind::none && std::fabs(rho) > logratio_clip) {
      // Terms of rho alone are taken at reference 0, so that the end of the range is met exactly.
      const T ref = kind == ExplorationKind::xpo ? ref_logp : T(0);
      return {unclipped(ref + std::copysign(logratio_clip, rho), ref).value, T(0)};
    }
    return unclipped(policy_logp, ref_logp);
  }

 private:
  SELM_HOST_DEVICE ValueAndGrad<T> unclipped(T policy_logp, T ref_logp) const {
    switch (kind) {
      case ExplorationKind::selm:
        return SelmTerm<T>{alpha, beta}(policy_logp, ref_logp);
      case ExplorationKind::xpo:
        return XpoTerm<T>{alpha}(policy_logp);
      case ExplorationKind::popo:
        return PopoTerm<T>{alpha, beta}(policy_logp, ref_logp);
      case ExplorationKind::none:
        break;
    }
    return {T(0), T(0)};
  }
};

/// Whether the term is switched off, or known by its name.
inline bool are_known(const ExplorationOptions& options) {
  return options.alpha == 0.0 || find_exploration(options.kind) != nullptr;
}

/// The term that `options` describe. alpha = 0 selects `none`, so that it is exactly zero even
/// where the response's log-probability is infinite. Throws std::invalid_argument unless
/// `are_known(options)`.
inline ExplorationTerm<double> make_exploration(const ExplorationOptions& options, double beta) {
  const double clip = options.logratio_clip.value_or(-minus_infinity<double>);
  if (options.alpha == 0.0) {
    return {ExplorationKind::none, 0.0, beta, clip};
  }
  if (!are_known(options)) {
    throw std::invalid_argument("selm: unknown name of an exploration term");
  }
  return {find_exploration(options.kind)->kind, options.alpha, beta, clip};
}

}  // namespace selm
