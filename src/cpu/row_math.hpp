#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <type_traits>

#include "selm/core/log_sum_exp.hpp"
#include "selm/core/row_part.hpp"
#include "selm/core/token_logp.hpp"

/// @file
/// Vectorised float32 passes over a block of logits, in one of this machine's instruction sets.
/// They compute what selm/core/token_logp.hpp and row_part.hpp define, 64 bytes
/// at a time. `scale` is that of a transform without softcap.

namespace selm::cpu {

/// A factor of a probability p: constant + of_log_prob * log p.
struct ProbFactor {
  float constant;
  float of_log_prob;
};

/// Memory that will be read after a pass: as arithmetic and memory keep each other waiting
/// otherwise, the pass fetches it on its way.
struct UpcomingValues {
  const char* data;
  std::int64_t value_bytes;

  static UpcomingValues none(const void* in_cache) {
    return {static_cast<const char*>(in_cache), 0};
  }
};

/// Passes that read a block of logits as float or as c10::BFloat16. Blocks that begin at a multiple
/// of 64 bytes take a third less time than others.
template <typename Storage>
struct LogitMath {
  /// Sum of exp(scale * (s[i] - max)) over a block, max being the block's largest value, or for
  /// speed `origin`, the largest value of earlier blocks (-inf: none), where that is not far below.
  /// Lanes are summed in float, so blocks are kept to a few thousand values and merged by the
  /// caller in double.
  LogSumExp<float> (*log_sum_exp)(const Storage* s, std::int64_t count, float scale, float origin,
                                  UpcomingValues next);

  /// out[i] = softmax[i] * factor; 0 where softmax[i] is. `out` may be `s`.
  void (*scaled_softmax)(const Storage* s, std::int64_t count, const TokenLogp<float>& row,
                         float scale, float factor, Storage* out);
};

/// Passes that write a block as float, or as c10::BFloat16 rounded to the nearest, ties to even.
/// `slope` holds a factor per value, and is null where all are 1.
template <typename Out>
struct BlockMath {
  /// out[i] = exp(scale * (s[i] - max)) * slope[i]. Returns what `log_sum_exp` returns without
  /// an origin, to the bit. `out` may be `s`.
  LogSumExp<float> (*exponentials)(const float* s, std::int64_t count, float scale,
                                   const float* slope, Out* out);

  /// out[i] = block[i] * factor. `out` may be `block`.
  void (*multiply)(const Out* block, std::int64_t count, float factor, Out* out);

  /// out[i] = p * factor(p) * slope[i] for p = softmax[i]; 0 where p is. `out` may be `s`.
  void (*softmax)(const float* s, std::int64_t count, const TokenLogp<float>& row, float scale,
                  ProbFactor factor, const float* slope, Out* out);
};

struct RowMath {
  const char* instruction_set;  ///< "avx512", "avx2" or "baseline"

  /// The statistics of a block that begins at vocabulary index `first`.
  RowPart<float> (*statistics)(const float* s, std::int64_t count, std::int64_t first, float scale);

  /// s[i] = z(s[i]) and slope[i] = dz/ds of a transform with softcap.
  void (*softcap)(float* s, std::int64_t count, const LogitTransform<float>& transform,
                  float* slope);

  LogitMath<float> from_float;
  LogitMath<c10::BFloat16> from_bfloat16;
  BlockMath<float> to_float;
  BlockMath<c10::BFloat16> to_bfloat16;

  template <typename Storage>
  const LogitMath<Storage>& from() const {
    if constexpr (std::is_same_v<Storage, float>) {
      return from_float;
    } else {
      return from_bfloat16;
    }
  }

  template <typename Out>
  const BlockMath<Out>& to() const {
    if constexpr (std::is_same_v<Out, float>) {
      return to_float;
    } else {
      return to_bfloat16;
    }
  }
};

/// Chosen once, at the first call: the fastest that this machine has, or the one that the
/// environment variable SELM_CPU_INSTRUCTION_SET names. Raises c10::ValueError for any other name.
const RowMath& row_math();

/// Whether the chosen instruction set is AVX-512 and the machine has its products of bfloat16
/// pairs.
bool multiplies_bfloat16();

}  // namespace selm::cpu
