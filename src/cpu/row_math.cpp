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

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// The passes are written once, with the compiler's vector types, and compiled in one namespace per
// instruction set. Function attributes rather than per-file flags keep wide instructions out of
// inline functions that other files share.

namespace selm::cpu {
namespace {

constexpr std::int64_t ahead = 512;  // values that a pass over memory fetches early
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr float log2_e = 1.44269504f;

namespace baseline {
#define SELM_TARGET
#define SELM_LANES 4
#define SELM_INSTRUCTION_SET "baseline"
#include "cpu/row_passes.inc"
}  // namespace baseline

#if defined(__x86_64__)
namespace avx2 {
#define SELM_TARGET __attribute__((target("avx2,fma,prfchw")))
#define SELM_LANES 8
#define SELM_INSTRUCTION_SET "avx2"
#include "cpu/row_passes.inc"
}  // namespace avx2

namespace avx512 {
#define SELM_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma,prfchw")))
#define SELM_LANES 16
#define SELM_INSTRUCTION_SET "avx512"
#include "cpu/row_passes.inc"
}  // namespace avx512
#endif

/// What this machine can run, the fastest first.
std::vector<const RowMath*> supported_row_math() {
  std::vector<const RowMath*> supported;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("fma");
  if (fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    supported.push_back(&avx512::table);
  }
  if (fma && __builtin_cpu_supports("avx2")) {
    supported.push_back(&avx2::table);
  }
#endif
  supported.push_back(&baseline::table);
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
  return &row_math() == &avx512::table && __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

const RowMath& row_math() {
  static const RowMath& chosen = chosen_row_math();
  return chosen;
}

}  // namespace selm::cpu
