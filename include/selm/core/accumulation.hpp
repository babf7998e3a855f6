#pragma once

/// @file
/// Half precision is for storage: sums and log-probabilities have a wider type.

namespace selm {

/// float for float, half and bfloat16 storage, double for double.
template <typename Storage>
struct Accumulation {
  using type = float;
};
/// double for double.
template <>
struct Accumulation<double> {
  using type = double;
};
/// The type in which values of type `Storage` are added and log-probabilities are returned.
template <typename Storage>
using accumulation_t = typename Accumulation<Storage>::type;

}  // namespace selm
