#include <cmath>
#include <cstdio>

#include "selm/core/exploration.hpp"
#include "selm/core/loss_list.hpp"
#include "selm/core/preference.hpp"
#include "selm/core/token_logp.hpp"
#include "selm/version.hpp"

#if defined(EIGEN_WORLD_VERSION) || defined(FMT_VERSION) || defined(TORCH_VERSION)
#error "selm::core stands on the standard library alone"
#endif

int main() {
  const selm::SigmoidLoss<double> loss{0.1, 0.0};
  const selm::PairGrad<double> pair = selm::evaluate_pair(
      loss, selm::PairInputs<double>{{-10.0, -11.0, 8.0}, {-12.0, -11.5, 10.0}});
  const selm::ValueAndGrad<double> term = selm::SelmTerm<double>{1e-3, 0.1}(-9.0, -9.5);
  std::printf("selm %s: %.10f %.10f\n", SELM_VERSION, pair.value, pair.value + term.value);
  const bool correct = std::fabs(pair.value - 0.6209570478) < 1e-10 &&
                       std::fabs(pair.value + term.value - 0.6210070478) < 1e-10;
  return correct ? 0 : 1;
}
