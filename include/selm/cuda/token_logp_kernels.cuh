#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "selm/cuda/grid.cuh"
#include "selm/cuda/reduce.cuh"
#include "selm/cuda/token_rows.hpp"

/// @file
/// Token log-probabilities from rows of logits: one block per row. Functions are static, so that
/// two libraries never share a kernel.

namespace selm::cuda {

namespace detail {

constexpr int row_threads = 256;

/// `transform`, without the softcap that it does not have: the compiler then drops that branch.
template <bool softcap, typename T>
static __device__ LogitTransform<T> specialise(const LogitTransform<T>& transform) {
  return softcap ? transform : LogitTransform<T>{transform.scale, T(0), T(0)};
}

template <bool softcap, typename Storage, typename T>
static __global__ void __launch_bounds__(row_threads)
    token_logps_kernel(TokenRows<Storage> rows, TokenLogpOutputs<T> out) {
  const CudaBlock<row_threads> block;
  const LogitTransform<T> transform = specialise<softcap>(rows.transform);
  for (std::int64_t row = blockIdx.x; row < rows.count; row += gridDim.x) {
    score_row(block, rows, transform, row, out);
  }
}

template <bool softcap, typename Storage, typename Gradient, typename T>
static __global__ void __launch_bounds__(row_threads)
    token_logps_backward_kernel(TokenRows<Storage> rows, const T* summary, const T* grad,
                                RowView<Gradient> d_logits) {
  const CudaBlock<row_threads> block;
  const LogitTransform<T> transform = specialise<softcap>(rows.transform);
  for (std::int64_t row = blockIdx.x; row < rows.count; row += gridDim.x) {
    differentiate_row(block, rows, transform, row, summary, grad, d_logits);
  }
}

}  // namespace detail

/// Queues the forward pass over `rows`.
template <typename Storage>
static cudaError_t launch_token_logps(const TokenRows<Storage>& rows,
                                      const TokenLogpOutputs<accumulation_t<Storage>>& out,
                                      cudaStream_t stream) {
  using T = accumulation_t<Storage>;
  if (rows.count == 0) {
    return cudaSuccess;
  }
  const auto kernel = rows.transform.has_softcap() ? detail::token_logps_kernel<true, Storage, T>
                                                   : detail::token_logps_kernel<false, Storage, T>;
  kernel<<<grid_of(rows.count), detail::row_threads, 0, stream>>>(rows, out);
  return cudaGetLastError();
}

/// Queues the backward pass over `rows`.
template <typename Storage, typename Gradient>
static cudaError_t launch_token_logps_backward(const TokenRows<Storage>& rows,
                                               const accumulation_t<Storage>* summary,
                                               const accumulation_t<Storage>* grad,
                                               const RowView<Gradient>& d_logits,
                                               cudaStream_t stream) {
  using T = accumulation_t<Storage>;
  if (rows.count == 0) {
    return cudaSuccess;
  }
  const auto kernel = rows.transform.has_softcap()
                          ? detail::token_logps_backward_kernel<true, Storage, Gradient, T>
                          : detail::token_logps_backward_kernel<false, Storage, Gradient, T>;
  kernel<<<grid_of(rows.count), detail::row_threads, 0, stream>>>(rows, summary, grad, d_logits);
  return cudaGetLastError();
}

}  // namespace selm::cuda
