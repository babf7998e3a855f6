#include "cpu/row_math.hpp"

#include <c10/util/Exception.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

// The bodies below are written once with the compiler's vector types (16 floats: one AVX-512
// register, two of AVX2, four of SSE or NEON) and inlined into one copy per instruction set.
// Function attributes rather than per-file flags keep wide instructions out of inline functions
// that other files share.

#define SELM_INLINE inline __attribute__((always_inline))

namespace selm::cpu {
namespace {

constexpr int lanes = 16;
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

using Floats = float __attribute__((vector_size(4 * lanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * lanes)));

SELM_INLINE void load(const float* from, std::int64_t count, float padding, Floats& to) {
  if (count >= lanes) {
    std::memcpy(&to, from, sizeof(to));
    return;
  }
  to = Floats{} + padding;
  std::memcpy(&to, from, static_cast<std::size_t>(count) * sizeof(float));
}

SELM_INLINE void store(const Floats& from, std::int64_t count, float* to) {
  const std::int64_t stored = count < lanes ? count : lanes;
  std::memcpy(to, &from, static_cast<std::size_t>(stored) * sizeof(float));
}

/// exp(x) for x <= 0 to about 1 ulp; 0 below the smallest normal number; NaN stays NaN.
/// x = n log 2 + r with |r| <= log(2) / 2, then a Taylor polynomial of degree 7 (its remainder is
/// 5e-9 relative), times 2^n made from its exponent bits.
SELM_INLINE void exp_nonpositive(Floats& x) {
  constexpr float smallest = -87.33654f;
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  const Ints underflows = x < smallest;
  const Floats clamped = underflows ? Floats{} + smallest : x;
  const Floats shifted = clamped * 1.44269504f + magic;
  const Floats n = shifted - magic;
  const Floats r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;  // log 2 in two parts
  Floats p = Floats{} + 1.9841270e-4f;
  p = p * r + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // A product rather than an addition to p's exponent bits: NaN times anything is NaN.
  const Ints power_of_two = ((Ints)shifted - (Ints)(Floats{} + magic) + 127) << 23;
  x = underflows ? Floats{} : p * (Floats)power_of_two;
}

SELM_INLINE float horizontal_sum(const Floats& x) {
  float parts[lanes];
  std::memcpy(parts, &x, sizeof(x));
  for (int width = lanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      parts[i] += parts[i + width];
    }
  }
  return parts[0];
}

SELM_INLINE float block_max(const float* s, std::int64_t count) {
  Floats largest = Floats{} + minus_infinity;
  for (std::int64_t i = 0; i < count; i += lanes) {
    Floats x;
    load(s + i, count - i, minus_infinity, x);
    largest = x > largest ? x : largest;
  }
  float max = minus_infinity;
  for (int i = 0; i < lanes; ++i) {
    max = largest[i] > max ? largest[i] : max;
  }
  return max;
}

SELM_INLINE LogSumExp<float> log_sum_exp_body(const float* s, std::int64_t count, float scale) {
  const float max = block_max(s, count);
  if (max == minus_infinity) {  // nothing but masked tokens, or NaN
    float sum = 0.0f;
    for (std::int64_t i = 0; i < count; ++i) {
      sum += s[i] == minus_infinity ? 0.0f : s[i];
    }
    return {max, sum};
  }
  Floats sum{};
  for (std::int64_t i = 0; i < count; i += lanes) {
    Floats x;
    load(s + i, count - i, minus_infinity, x);
    x = (x - max) * scale;
    exp_nonpositive(x);
    sum += x;
  }
  return {max, horizontal_sum(sum)};
}

SELM_INLINE void scaled_softmax_body(const float* s, std::int64_t count,
                                     const TokenLogp<float>& row, float scale, float factor,
                                     float* out) {
  for (std::int64_t i = 0; i < count; i += lanes) {
    Floats x;
    load(s + i, count - i, minus_infinity, x);
    x = (x - row.max) * scale - row.log_sum;
    exp_nonpositive(x);
    store(x * factor, count - i, out + i);
  }
}

SELM_INLINE RowStatistics<float> statistics_body(const float* s, std::int64_t count,
                                                 std::int64_t first, const TokenLogp<float>& row,
                                                 float scale) {
  Floats mean_exponent{}, sum_sq_probs{}, sum_raw{};
  for (std::int64_t i = 0; i < count; i += lanes) {
    Floats raw;
    load(s + i, count - i, 0.0f, raw);
    sum_raw += raw;
    Floats x;
    load(s + i, count - i, minus_infinity, x);
    const Floats exponent = (x - row.max) * scale;
    Floats prob = exponent - row.log_sum;
    exp_nonpositive(prob);
    const Ints vanishes = prob == 0.0f;
    mean_exponent += vanishes ? Floats{} : prob * exponent;
    sum_sq_probs += prob * prob;
  }
  RowStatistics<float> block;
  block.mean_exponent = horizontal_sum(mean_exponent);
  block.sum_sq_probs = horizontal_sum(sum_sq_probs);
  block.sum_logits = scale * horizontal_sum(sum_raw);
  block.best = block_max(s, count);
  for (std::int64_t i = 0; i < count; ++i) {
    if (s[i] == block.best) {
      block.best_index = first + i;
      break;
    }
  }
  return block;
}

#define SELM_ROW_MATH(Level, label, attributes)                                                   \
  struct Level {                                                                                  \
    attributes static LogSumExp<float> log_sum_exp(const float* s, std::int64_t count,            \
                                                   float scale) {                                 \
      return log_sum_exp_body(s, count, scale);                                                   \
    }                                                                                             \
    attributes static void scaled_softmax(const float* s, std::int64_t count,                     \
                                          const TokenLogp<float>& row, float scale, float factor, \
                                          float* out) {                                           \
      scaled_softmax_body(s, count, row, scale, factor, out);                                     \
    }                                                                                             \
    attributes static RowStatistics<float> statistics(const float* s, std::int64_t count,         \
                                                      std::int64_t first,                         \
                                                      const TokenLogp<float>& row, float scale) { \
      return statistics_body(s, count, first, row, scale);                                        \
    }                                                                                             \
    static constexpr RowMath table{label, log_sum_exp, scaled_softmax, statistics};               \
  }

SELM_ROW_MATH(Baseline, "baseline", );
#if defined(__x86_64__)
SELM_ROW_MATH(Avx2, "avx2", __attribute__((target("avx2,fma"))));
SELM_ROW_MATH(Avx512, "avx512", __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma"))));
#endif

/// What this machine can run, the fastest first.
std::vector<const RowMath*> supported_row_math() {
  std::vector<const RowMath*> supported;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("fma");
  if (fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    supported.push_back(&Avx512::table);
  }
  if (fma && __builtin_cpu_supports("avx2")) {
    supported.push_back(&Avx2::table);
  }
#endif
  supported.push_back(&Baseline::table);
  return supported;
}

const RowMath& chosen_row_math() {
  constexpr const char* variable = "SELM_CPU_INSTRUCTION_SET";
  const std::vector<const RowMath*> supported = supported_row_math();
  const char* const asked = std::getenv(variable);
  if (asked == nullptr) {
    return *supported.front();
  }
  std::string names;
  for (const RowMath* const math : supported) {
    if (std::string_view(asked) == math->instruction_set) {
      return *math;
    }
    names += (names.empty() ? "'" : "', '") + std::string(math->instruction_set);
  }
  TORCH_CHECK_VALUE(false, "selm: expected the environment variable '", variable,
                    "' to be one of this machine's ", names, "', got '", asked, "'");
}

}  // namespace

const RowMath& row_math() {
  static const RowMath& chosen = chosen_row_math();
  return chosen;
}

}  // namespace selm::cpu
