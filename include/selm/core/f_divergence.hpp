#pragma once

#include <array>
#include <cmath>
#include <string_view>

#include "selm/core/math.hpp"
#include "selm/core/names.hpp"
#include "selm/core/pair.hpp"

/// @file
/// f-DPO (arXiv 2309.16240): a policy regularised by another f-divergence has the implicit reward
/// beta * f'(pi / pi_ref) in place of beta * rho. The link is f' as a function of the log-ratio
/// rho.

namespace selm {

/// Which divergence ties the policy to the reference; the formulas are those of `LogratioLink`.
enum class FDivergence { reverse_kl, forward_kl, js_divergence, alpha_divergence };

/// A name that callers use, and what it stands for.
struct FDivergenceName {
  const char* name;
  FDivergence kind;
};

/// Every divergence.
inline constexpr std::array<FDivergenceName, 4> f_divergence_names{{
    {"reverse_kl", FDivergence::reverse_kl},
    {"forward_kl", FDivergence::forward_kl},
    {"js_divergence", FDivergence::js_divergence},
    {"alpha_divergence", FDivergence::alpha_divergence},
}};

/// The entry of a divergence's name, or nullptr.
inline const FDivergenceName* find_f_divergence(std::string_view name) {
  return find_entry(f_divergence_names, name);
}

/// rho (reverse KL); 1 - exp(-rho) (forward KL); log 2 + log sigmoid(rho) (Jensen-Shannon);
/// (exp((a - 1) rho) - 1) / (a - 1) (alpha divergence), which is rho in the limit a = 1.
template <typename T>
struct LogratioLink {
  FDivergence kind;
  T alpha;  ///< a, of the alpha divergence alone

  SELM_HOST_DEVICE ValueAndGrad<T> operator()(T rho) const {
    if (kind == FDivergence::js_divergence) {
      // -log((1 + exp(-rho)) / 2): the sum of log 2 and log sigmoid has no digits near rho = 0.
      const T half = std::expm1(-std::fabs(rho)) / T(2);
      return {(rho < T(0) ? rho : T(0)) - std::log1p(half), sigmoid(-rho)};
    }
    if (kind == FDivergence::reverse_kl || power() == T(0)) {
      return {rho, T(1)};
    }
    return {std::expm1(power() * rho) / power(), std::exp(power() * rho)};
  }

  /// Factor of rho in the exponential; forward KL is the alpha divergence with a = 0.
  SELM_HOST_DEVICE T power() const {
    return kind == FDivergence::forward_kl ? T(-1) : alpha - T(1);
  }
};

namespace detail {

/// A constant, because device code may not call the traits' functions.
template <typename Loss>
inline constexpr bool averages_over_tokens = Loss::traits.averages();

}  // namespace detail

/// A loss of the linked scores: the loss sees them as log-ratios, and the chain rule is applied.
template <typename Loss, typename T>
SELM_HOST_DEVICE PairGrad<T> evaluate_linked_pair(const Loss& loss, const LogratioLink<T>& link,
                                                  const PairInputs<T>& pair) {
  if (link.kind == FDivergence::reverse_kl) {
    return evaluate_pair(loss, pair);
  }
  ValueAndGrad<T> chosen = link(logratio(pair.chosen));
  ValueAndGrad<T> rejected = link(logratio(pair.rejected));
  if (chosen.value == rejected.value && std::isinf(chosen.value)) {
    // Both exponentials overflow: the larger one decides about the difference of scores.
    const T lengths =
        detail::averages_over_tokens<Loss> ? pair.chosen.length / pair.rejected.length : T(1);
    const T exponents = link.power() * logratio_diff(pair) - std::log(lengths);
    chosen.value = exponents <= T(0) ? T(0) : chosen.value;
    rejected.value = exponents >= T(0) ? T(0) : rejected.value;
  }
  const PairGrad<T> f =
      evaluate_pair(loss, PairInputs<T>{{chosen.value, T(0), pair.chosen.length},
                                        {rejected.value, T(0), pair.rejected.length}});
  return {f.value, vanishing_product(f.d_chosen, chosen.grad),
          vanishing_product(f.d_rejected, rejected.grad)};
}

}  // namespace selm
