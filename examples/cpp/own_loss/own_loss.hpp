#pragma once

#include <cmath>

#include "selm/core/math.hpp"

// A loss of one's own: one functor, for host and device. It sees the log-ratio difference of a pair
// and returns value and derivative; a loss that needs more takes `PairInputs` and returns
// `PairGrad`, as in selm/core/pair.hpp.

/// Cauchy's loss of the distance between the implicit reward margin and a target: log(1 + (beta *
/// logratio_diff - target)^2). Far from the target its gradient fades: outliers count little.
struct CauchyLoss {
  double beta;
  double target;

  SELM_HOST_DEVICE selm::ValueAndGrad<double> operator()(double logratio_diff) const {
    const double error = beta * logratio_diff - target;
    return {std::log1p(error * error), 2.0 * error / (1.0 + error * error) * beta};
  }
};
