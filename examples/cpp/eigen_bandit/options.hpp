#pragma once

#include <cstdint>

namespace bandit {

struct Options {
  int bandits = 2000;      ///< independent repetitions
  int rounds = 200;        ///< pairs that each learner sees
  std::uint64_t seed = 1;  ///< the same seed prints the same table
};

/// The options on the command line. Throws std::invalid_argument for what it does not understand.
Options parse_options(int argc, char** argv);

inline constexpr const char* usage = "usage: eigen_bandit [--bandits N] [--rounds N] [--seed N]";

}  // namespace bandit
