#pragma once

#include <cstdint>

#include "selm/core/log_sum_exp.hpp"
#include "selm/core/row_statistics.hpp"
#include "selm/core/token_logp.hpp"

/// @file
/// Vectorised float32 passes over a block of raw logits, in one of this machine's instruction sets.
/// They compute what selm/core/token_logp.hpp and row_statistics.hpp define, for a
/// transform without softcap, 16 values at a time.

namespace selm::cpu {

struct RowMath {
  const char* instruction_set;  ///< "avx512", "avx2" or "baseline"

  /// Sum of exp(scale * (s[i] - max)) over a block, max being the block's largest value. Lanes are
  /// summed in float, so blocks are kept to a few thousand values and merged by the caller in
  /// double.
  LogSumExp<float> (*log_sum_exp)(const float* s, std::int64_t count, float scale);

  /// out[i] = factor * softmax[i]. `out` may be `s`.
  void (*scaled_softmax)(const float* s, std::int64_t count, const TokenLogp<float>& row,
                         float scale, float factor, float* out);

  /// Statistics of a block that begins at vocabulary index `first`.
  RowStatistics<float> (*statistics)(const float* s, std::int64_t count, std::int64_t first,
                                     const TokenLogp<float>& row, float scale);
};

/// Chosen once, at the first call: the fastest that this machine has, or the one that the
/// environment variable SELM_CPU_INSTRUCTION_SET names. Raises c10::ValueError for any other name.
const RowMath& row_math();

}  // namespace selm::cpu
