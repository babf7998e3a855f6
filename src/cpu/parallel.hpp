#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

/// @file
/// at::parallel_for. It is a template of a header, and has one thread in code that is compiled
/// without OpenMP, whatever torch has.

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "selm::torch: compile with OpenMP, as torch is; kernels would have one thread."
#endif

namespace selm::cpu {

/// How many items of `cost` elementary operations each a thread must have: below some ten
/// thousand, waking the threads takes longer than the work.
inline std::int64_t grain(std::int64_t cost) {
  constexpr std::int64_t worthwhile = std::int64_t{1} << 15;
  return std::max<std::int64_t>(worthwhile / std::max<std::int64_t>(cost, 1), 1);
}

}  // namespace selm::cpu
