#pragma once

#include <string>

/// @file
/// What a caller chooses. Ranges are checked in one place, `selm/host/options.hpp`.

namespace selm {

/// Options of a pairwise preference loss.
struct PreferenceOptions {
  std::string loss_type = "sigmoid";  ///< name of a functor of `PairLosses`
  double beta = 0.1;                  ///< inverse temperature of the implicit reward, > 0
  double label_smoothing = 0.0;       ///< probability that a label is flipped
};

/// Options of the optimistic term added to a preference loss.
struct ExplorationOptions {
  double alpha = 0.0;         ///< strength; 0 switches the term off, < 0 is pessimism
  std::string kind = "selm";  ///< name of an exploration term
};

}  // namespace selm
