#pragma once

#include <type_traits>

#include "selm/core/macros.hpp"
#include "selm/core/math.hpp"

/// @file
/// What a preference loss sees of one (chosen, rejected) pair, and what it returns.

namespace selm {

/// Log-probabilities of one response given its prompt, each summed over the response's tokens.
template <typename T>
struct SequenceLogps {
  T policy;  ///< log pi(y | x), in nats
  T ref;     ///< log pi_ref(y | x), in nats
  T length;  ///< number of tokens of the response; read by losses that say so
};

/// The two responses that a preference compares.
template <typename T>
struct PairInputs {
  SequenceLogps<T> chosen;
  SequenceLogps<T> rejected;
};

/// A pair's loss and its derivatives with respect to the two policy log-probabilities.
template <typename T>
struct PairGrad {
  T value;
  T d_chosen;
  T d_rejected;
};

/// rho(y) = log pi(y|x) - log pi_ref(y|x).
template <typename T>
SELM_HOST_DEVICE T logratio(const SequenceLogps<T>& response) {
  return response.policy - response.ref;
}

/// rho(chosen) - rho(rejected). Policy minus reference comes first: both numbers are close, so
/// these subtractions are almost always exact, which the other order of the four terms is not.
template <typename T>
SELM_HOST_DEVICE T logratio_diff(const PairInputs<T>& pair) {
  return logratio(pair.chosen) - logratio(pair.rejected);
}

/// rho(y) / |y|: the log-ratio per token.
template <typename T>
SELM_HOST_DEVICE T average_logratio(const SequenceLogps<T>& response) {
  return logratio(response) / response.length;
}

/// Applies a loss to one pair. A loss of the log-ratio difference alone is written as a scalar
/// function `ValueAndGrad<T> operator()(T logratio_diff)`; any other as
/// `PairGrad<T> operator()(const PairInputs<T>&)`.
template <typename Loss, typename T>
SELM_HOST_DEVICE PairGrad<T> evaluate_pair(const Loss& loss, const PairInputs<T>& pair) {
  if constexpr (std::is_invocable_v<const Loss&, T>) {
    const ValueAndGrad<T> f = loss(logratio_diff(pair));
    return {f.value, f.grad, -f.grad};
  } else {
    return loss(pair);
  }
}

}  // namespace selm
