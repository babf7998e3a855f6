#include <cmath>
#include <cstdio>

#include "selm/selm.hpp"

int main() {
  const auto one = [](double value) { return selm::Array1<double>::Constant(1, value); };
  const auto loss = selm::selm_loss(one(-10.0), one(-12.0), selm::Array1<double>(one(-9.0)),
                                    one(-11.0), one(-11.5), selm::Array1<double>(one(-9.5)),
                                    {1e-3, "selm"}, {"sigmoid", 0.1});
  std::printf("%.10f\n", loss.losses[0]);
  try {
    selm::implicit_rewards(one(-1.0), one(-1.0), -0.1);
  } catch (const selm::Error& error) {
    std::printf("%s\n", error.what());
    return std::fabs(loss.losses[0] - 0.6210070478) < 1e-10 ? 0 : 1;
  }
  return 1;
}
