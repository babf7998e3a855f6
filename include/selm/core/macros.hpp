#pragma once

/// @file
/// The one macro that the formulas need: they are written once and compiled for host and device.

#if defined(__FAST_MATH__)
#error "selm: the promised accuracy does not survive -ffast-math; compile without it."
#endif

#if defined(__CUDACC__)
#define SELM_HOST_DEVICE __host__ __device__
#else
#define SELM_HOST_DEVICE
#endif
