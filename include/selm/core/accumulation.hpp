#pragma once

/// @file
/// Half precision is for storage: sums and log-probabilities have a wider type.

namespace selm {

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

}  // namespace selm
