#pragma once

#include <ATen/Parallel.h>

/// @file
/// at::parallel_for. It is a template of a header, and has one thread in code that is compiled
/// without OpenMP, whatever torch has.

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "selm::torch: compile with OpenMP, as torch is; kernels would have one thread."
#endif
