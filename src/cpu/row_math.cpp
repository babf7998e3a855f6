#include "cpu/row_math.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
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
constexpr std::int64_t ahead = 512;  // values that a pass over memory fetches early
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

using Floats = float __attribute__((vector_size(4 * lanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * lanes)));
using Shorts = std::int16_t __attribute__((vector_size(2 * lanes)));

/// Copies `count` values, at most a vector of them: the size of a whole vector is known when this
/// is compiled, and its copy one instruction.
template <typename Vector, typename Value>
SELM_INLINE void read(const Value* from, std::int64_t count, Vector& to) {
  if (count >= lanes) {
    std::memcpy(&to, from, sizeof(to));
  } else {
    std::memcpy(&to, from, static_cast<std::size_t>(count) * sizeof(Value));
  }
}

template <typename Vector, typename Value>
SELM_INLINE void write(const Vector& from, std::int64_t count, Value* to) {
  if (count >= lanes) {
    std::memcpy(to, &from, sizeof(from));
  } else {
    std::memcpy(to, &from, static_cast<std::size_t>(count) * sizeof(Value));
  }
}

SELM_INLINE void load(const float* from, std::int64_t count, float padding, Floats& to) {
  to = Floats{} + padding;
  read(from, count, to);
}

SELM_INLINE void load(const float* from, std::int64_t count, Floats& to) {
  load(from, count, 0.0f, to);
}

SELM_INLINE void load(const c10::BFloat16* from, std::int64_t count, Floats& to) {
  Shorts narrow{};
  read(from, count, narrow);
  to = (Floats)(__builtin_convertvector(narrow, Ints) << 16);
}

SELM_INLINE void store(const Floats& from, std::int64_t count, float* to) {
  write(from, count, to);
}

/// To nearest, ties to even; a NaN stays a NaN.
SELM_INLINE void store(const Floats& from, std::int64_t count, c10::BFloat16* to) {
  const Ints bits = (Ints)from;
  const Ints rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Shorts narrow = __builtin_convertvector(from == from ? rounded : 0x7fc0 + Ints{}, Shorts);
  write(narrow, count, to);
}

/// exp(x) for x <= 0 to about 1 ulp; 0 below the smallest normal number; NaN stays NaN.
/// x = n log 2 + r with |r| <= log(2) / 2, then 1 + r + the polynomial of degree 6 whose largest
/// relative error is smallest (3e-9, by Remez's algorithm), times 2^n made from its exponent bits.
SELM_INLINE void exp_nonpositive(Floats& x) {
  constexpr float smallest = -87.33654f;
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  const Ints underflows = x < smallest;
  const Floats clamped = underflows ? Floats{} + smallest : x;
  const Floats shifted = clamped * 1.44269504f + magic;
  const Floats n = shifted - magic;
  const Floats r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;  // log 2 in two parts
  Floats p = Floats{} + 1.38145402e-3f;
  p = p * r + 8.36874511e-3f;
  p = p * r + 4.16683908e-2f;
  p = p * r + 1.66665204e-1f;
  p = p * r + 0.499999934f;
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

SELM_INLINE void multiply_by(const float* slope, std::int64_t count, Floats& x) {
  if (slope != nullptr) {
    Floats factor;
    load(slope, count, factor);
    x *= factor;
  }
}

/// (s - max) scale; in a block of nothing but masked tokens and NaN, s itself.
SELM_INLINE void relative_to(float max, float scale, Floats& x) {
  x = max == minus_infinity ? x : (x - max) * scale;
}

/// `out` is written unless it is null. Value i of what comes `next` is fetched while i is at work.
template <typename Out>
SELM_INLINE LogSumExp<float> exponentials_body(const float* s, std::int64_t count, float scale,
                                               const float* slope, Out* out, UpcomingValues next) {
  const float max = block_max(s, count);
  Floats sum{};
  for (std::int64_t i = 0; i < count; i += lanes) {
    __builtin_prefetch(next.data + i * next.value_bytes);
    Floats x;
    load(s + i, count - i, minus_infinity, x);
    relative_to(max, scale, x);
    exp_nonpositive(x);
    sum += x;
    if (out != nullptr) {
      multiply_by(slope == nullptr ? slope : slope + i, count - i, x);
      store(x, count - i, out + i);
    }
  }
  return {max, horizontal_sum(sum)};
}

/// Both blocks come from memory, or from the cache of a core that has used them last: they are
/// fetched early. Addresses beyond them do no harm.
template <typename Out>
SELM_INLINE void multiply_body(const Out* block, std::int64_t count, float factor, Out* out) {
  for (std::int64_t i = 0; i < count; i += lanes) {
    __builtin_prefetch(block + i + ahead);
    __builtin_prefetch(out + i + ahead, 1);
    Floats x;
    load(block + i, count - i, x);
    store(x * factor, count - i, out + i);
  }
}

template <typename Out>
SELM_INLINE void softmax_body(const float* s, std::int64_t count, const TokenLogp<float>& row,
                              float scale, ProbFactor factor, const float* slope, Out* out) {
  for (std::int64_t i = 0; i < count; i += lanes) {
    Floats log_prob;
    load(s + i, count - i, minus_infinity, log_prob);
    log_prob = (log_prob - row.max) * scale - row.log_sum;
    Floats prob = log_prob;
    exp_nonpositive(prob);
    const Ints vanishes = prob == 0.0f;
    Floats x = vanishes ? Floats{} : prob * (factor.constant + factor.of_log_prob * log_prob);
    multiply_by(slope == nullptr ? slope : slope + i, count - i, x);
    store(x, count - i, out + i);
  }
}

SELM_INLINE RowPart<float> statistics_body(const float* s, std::int64_t count, std::int64_t first,
                                           float scale) {
  const float max = block_max(s, count);
  Floats sum{}, weighted_exponent{}, sum_sq{}, sum_raw{};
  for (std::int64_t i = 0; i < count; i += lanes) {
    Floats raw;
    load(s + i, count - i, raw);
    sum_raw += raw;
    Floats exponent;
    load(s + i, count - i, minus_infinity, exponent);
    relative_to(max, scale, exponent);
    Floats weight = exponent;
    exp_nonpositive(weight);
    const Ints vanishes = weight == 0.0f;
    sum += weight;
    weighted_exponent += vanishes ? Floats{} : weight * exponent;
    sum_sq += weight * weight;
  }
  RowPart<float> part;
  part.exponentials = {max, horizontal_sum(sum)};
  part.weighted_exponent = horizontal_sum(weighted_exponent);
  part.sum_sq = horizontal_sum(sum_sq);
  part.sum_logits = scale * horizontal_sum(sum_raw);
  const float* const best = std::find(s, s + count, max);
  if (best != s + count) {
    part.best_index = first + (best - s);
  }
  return part;
}

/// tanh(x) = (1 - q) / (1 + q) with q = exp(-2 |x|); below 0.3, where 1 - q loses digits, its
/// Taylor polynomial to x^9 (remainder 2e-8 relative).
SELM_INLINE void softcap_body(float* s, std::int64_t count, const LogitTransform<float>& transform,
                              float* slope) {
  for (std::int64_t i = 0; i < count; i += lanes) {
    Floats raw;
    load(s + i, count - i, raw);
    const Floats x = raw * transform.inner;
    const Floats size = x < 0.0f ? -x : x;
    Floats q = size * -2.0f;
    exp_nonpositive(q);
    const Floats square = x * x;
    Floats series = Floats{} + 2.1869489e-2f;
    series = series * square - 5.3968254e-2f;
    series = series * square + 1.3333334e-1f;
    series = series * square - 3.3333334e-1f;
    series = series * square + 1.0f;
    const Floats quotient = (1.0f - q) / (1.0f + q);
    const Floats tanh = size < 0.3f ? series * x : x < 0.0f ? -quotient : quotient;
    const Ints infinite = size == -minus_infinity;  // masked, or the row is NaN
    const Floats secant = 1.0f + q;
    store(infinite ? raw : tanh * transform.outer, count - i, s + i);
    store(4.0f * q / (secant * secant) * transform.scale, count - i, slope + i);
  }
}

SELM_INLINE void widen_body(const c10::BFloat16* from, std::int64_t count, float* to) {
  for (std::int64_t i = 0; i < count; i += lanes) {
    Floats x;
    load(from + i, count - i, x);
    store(x, count - i, to + i);
  }
}

#define SELM_ROW_MATH(Level, label, attributes)                                                  \
  struct Level {                                                                                 \
    attributes static void widen(const c10::BFloat16* from, std::int64_t count, float* to) {     \
      widen_body(from, count, to);                                                               \
    }                                                                                            \
    attributes static LogSumExp<float> log_sum_exp(const float* s, std::int64_t count,           \
                                                   float scale, UpcomingValues next) {           \
      return exponentials_body<float>(s, count, scale, nullptr, nullptr, next);                  \
    }                                                                                            \
    attributes static RowPart<float> statistics(const float* s, std::int64_t count,              \
                                                std::int64_t first, float scale) {               \
      return statistics_body(s, count, first, scale);                                            \
    }                                                                                            \
    attributes static void softcap(float* s, std::int64_t count,                                 \
                                   const LogitTransform<float>& transform, float* slope) {       \
      softcap_body(s, count, transform, slope);                                                  \
    }                                                                                            \
    template <typename Out>                                                                      \
    attributes static LogSumExp<float> exponentials(const float* s, std::int64_t count,          \
                                                    float scale, const float* slope, Out* out) { \
      return exponentials_body(s, count, scale, slope, out, UpcomingValues::none(s));            \
    }                                                                                            \
    template <typename Out>                                                                      \
    attributes static void multiply(const Out* block, std::int64_t count, float factor,          \
                                    Out* out) {                                                  \
      multiply_body(block, count, factor, out);                                                  \
    }                                                                                            \
    template <typename Out>                                                                      \
    attributes static void softmax(const float* s, std::int64_t count,                           \
                                   const TokenLogp<float>& row, float scale, ProbFactor factor,  \
                                   const float* slope, Out* out) {                               \
      softmax_body(s, count, row, scale, factor, slope, out);                                    \
    }                                                                                            \
    template <typename Out>                                                                      \
    static constexpr BlockMath<Out> to{exponentials<Out>, multiply<Out>, softmax<Out>};          \
    static constexpr RowMath table{label,   widen,     log_sum_exp,      statistics,             \
                                   softcap, to<float>, to<c10::BFloat16>};                       \
  }

SELM_ROW_MATH(Baseline, "baseline", );
#if defined(__x86_64__)
SELM_ROW_MATH(Avx2, "avx2", __attribute__((target("avx2,fma,prfchw"))));
SELM_ROW_MATH(Avx512, "avx512",
              __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma,prfchw"))));
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

bool multiplies_bfloat16() {
#if defined(__x86_64__)
  return row_math().log_sum_exp == Avx512::table.log_sum_exp &&
         __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

const RowMath& row_math() {
  static const RowMath& chosen = chosen_row_math();
  return chosen;
}

}  // namespace selm::cpu
