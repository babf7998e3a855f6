#pragma once

/// @file
/// Types that rows of logits are stored in, and the type that their sums and log-probabilities
/// have.

struct __half;
struct __nv_bfloat16;

namespace selm::cuda {

/// float for float, half and bfloat16 storage, double for double.
template <typename Storage>
struct Accumulation {
  using type = float;
};
template <>
struct Accumulation<double> {
  using type = double;
};
template <typename Storage>
using accumulation_t = typename Accumulation<Storage>::type;

}  // namespace selm::cuda
