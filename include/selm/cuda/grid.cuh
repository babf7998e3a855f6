#pragma once

#include <cstdint>

namespace selm::cuda {

/// Blocks along x for this much work: as many as asked for, up to what a grid can hold. Kernels
/// loop over the rest.
inline unsigned grid_of(std::int64_t blocks) {
  constexpr std::int64_t largest = 2147483647;
  return static_cast<unsigned>(blocks < largest ? blocks : largest);
}

}  // namespace selm::cuda
