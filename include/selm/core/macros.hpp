#pragma once

/// @file
/// The one macro that the formulas need: they are written once and compiled for host and device.

#if __cplusplus < 201703L
#error "selm: these headers need C++17 or later; compile with -std=c++17."
#endif

// g++ and clang define the second one as 0 without -ffinite-math-only.
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#error "selm: the promised accuracy does not survive -ffast-math; compile without it."
#endif

#if defined(__CUDACC__)
#define SELM_HOST_DEVICE __host__ __device__
#else
#define SELM_HOST_DEVICE
#endif
