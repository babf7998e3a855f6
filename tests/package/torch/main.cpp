#include <torch/torch.h>

#include <cmath>
#include <cstdio>

#include "selm/torch/ops.hpp"

int main() {
  const auto one = [](double value) { return torch::full({1}, value, torch::kFloat64); };
  const torch::Tensor response = one(-9.0).requires_grad_();
  const selm::ops::SelmLoss loss =
      selm::ops::selm_loss(one(-10.0), one(-12.0), response, one(-11.0), one(-11.5), one(-9.5),
                           {1e-3, "selm"}, {"sigmoid", 0.1});
  loss.losses.sum().backward();
  const double value = loss.losses.item<double>();
  const double slope = response.grad().item<double>();
  std::printf("%.10f %.10f\n", value, slope);
  return std::fabs(value - 0.6210070478) < 1e-10 && std::fabs(slope - 1e-4) < 1e-15 ? 0 : 1;
}
