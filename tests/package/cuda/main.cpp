#include <cstdio>

#include "selm/cuda/launch.hpp"

// What needs no device: an empty batch succeeds, and an unknown loss is refused before any launch.
int main() {
  const selm::PreferenceInputs<float> in{};
  const selm::PreferenceOutputs<float> out{};
  const selm::ExplorationOptions exploration;
  const cudaError_t empty =
      selm::cuda::preference({"sigmoid", 0.1}, exploration, in, out, 0, nullptr);
  const cudaError_t unknown =
      selm::cuda::preference({"no such loss", 0.1}, exploration, in, out, 1, nullptr);
  std::printf("%s, %s\n", cudaGetErrorName(empty), cudaGetErrorName(unknown));
  return empty == cudaSuccess && unknown == cudaErrorInvalidValue ? 0 : 1;
}
