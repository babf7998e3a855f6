#pragma once

#include <pybind11/pybind11.h>

/// @file
/// The parts of the module `_numpy`.

namespace selm::python {

/// Rewards, exploration and divergence.
void bind_rewards(pybind11::module_& m);

/// Per-token log-probabilities and rewards by prompt.
void bind_token_level(pybind11::module_& m);

}  // namespace selm::python
