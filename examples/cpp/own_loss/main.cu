#include <cstdio>
#include <cstdlib>
#include <vector>

#include "own_loss.hpp"
#include "selm/core/preference.hpp"
#include "selm/cuda/pair_kernels.cuh"

// The same functor on the host and, where there is one, on a GPU, with SELM's exploration term.

namespace {

using Own = selm::Preference<CauchyLoss>;

constexpr int batch = 1000;
constexpr int input_count = 6;   // policy and reference of chosen, rejected and response
constexpr int output_count = 9;  // see selm::PreferenceOutputs

selm::PreferenceInputs<double> inputs(const double* data) {
  const auto array = [&](int k) { return data + k * batch; };
  return {array(0), array(1), array(2), array(3), array(4), array(5), nullptr, nullptr};
}

selm::PreferenceOutputs<double> outputs(double* data) {
  const auto array = [&](int k) { return data + k * batch; };
  return {array(0), array(1), array(2), array(3), array(4), array(5), array(6), array(7), array(8)};
}

/// Log-probabilities of made-up responses.
std::vector<double> make_inputs() {
  std::vector<double> logps(input_count * batch);
  std::srand(1);
  for (double& logp : logps) {
    logp = -40.0 * std::rand() / RAND_MAX;
  }
  return logps;
}

std::vector<double> on_the_host(const Own& own, const std::vector<double>& logps) {
  std::vector<double> results(output_count * batch);
  for (int i = 0; i < batch; ++i) {
    own.evaluate_row(i, inputs(logps.data()), outputs(results.data()));
  }
  return results;
}

void require(cudaError_t status) {
  if (status != cudaSuccess) {
    std::fprintf(stderr, "own_loss: %s\n", cudaGetErrorString(status));
    std::exit(1);
  }
}

std::vector<double> on_the_device(const Own& own, const std::vector<double>& logps) {
  std::vector<double> results(output_count * batch);
  double *device_logps = nullptr, *device_results = nullptr;
  require(cudaMalloc(&device_logps, logps.size() * sizeof(double)));
  require(cudaMalloc(&device_results, results.size() * sizeof(double)));
  require(cudaMemcpy(device_logps, logps.data(), logps.size() * sizeof(double),
                     cudaMemcpyHostToDevice));
  require(selm::cuda::launch_preference(own, inputs(device_logps), outputs(device_results), batch,
                                        nullptr));
  require(cudaMemcpy(results.data(), device_results, results.size() * sizeof(double),
                     cudaMemcpyDeviceToHost));
  require(cudaFree(device_logps));
  require(cudaFree(device_results));
  return results;
}

/// Largest difference between the derivatives for the chosen responses and central differences.
double gradient_error(const Own& own, const std::vector<double>& logps,
                      const std::vector<double>& results) {
  constexpr double step = 1e-5;
  std::vector<double> above = logps, below = logps;
  for (int i = 0; i < batch; ++i) {
    above[i] += step;
    below[i] -= step;
  }
  const std::vector<double> up = on_the_host(own, above), down = on_the_host(own, below);
  double largest = 0.0;
  for (int i = 0; i < batch; ++i) {
    const double slope = (up[i] - down[i]) / (2.0 * step);
    largest = std::fmax(largest, std::fabs(slope - results[6 * batch + i]));
  }
  return largest;
}

}  // namespace

int main() {
  constexpr double alpha = 1e-3, beta = 0.1;
  const Own own{{beta, 1.0}, {selm::ExplorationKind::selm, alpha, beta}, {beta}};
  const std::vector<double> logps = make_inputs();
  const std::vector<double> host = on_the_host(own, logps);
  std::printf("loss of pair 0: %.6f\n", host[0]);

  const double error = gradient_error(own, logps, host);
  std::printf("gradient against central differences: %.1e\n", error);
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no GPU here: the kernel is compiled, but was not run\n");
    return error < 1e-7 ? 0 : 1;
  }
  const std::vector<double> device = on_the_device(own, logps);
  double difference = 0.0;
  for (std::size_t i = 0; i < host.size(); ++i) {
    difference = std::fmax(difference, std::fabs(host[i] - device[i]));
  }
  std::printf("GPU against host: %.1e\n", difference);
  return error < 1e-7 && difference < 1e-12 ? 0 : 1;
}
