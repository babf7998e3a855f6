#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "selm/cuda/cluster.cuh"
#include "selm/cuda/grid.cuh"
#include "selm/cuda/token_logp_kernels.cuh"
#include "selm/cuda/token_rows.hpp"

/// @file
/// Token log-probabilities and their gradients from one read of the logits: a block or a cluster of
/// blocks per row. Functions are static, so that two libraries never share a kernel.

namespace selm::cuda {

namespace detail {

constexpr int shared_row_threads = 512;

/// Of which a multiprocessor has registers for two; double takes twice as many.
template <typename T>
constexpr int resident_blocks = sizeof(T) == sizeof(double) ? 1 : 2;

template <bool softcap, typename Storage, typename Gradient, typename T>
static __global__ void __launch_bounds__(shared_row_threads, resident_blocks<T>)
    token_logps_with_grad_kernel(TokenRows<Storage> rows, TokenLogpOutputs<T> out,
                                 TokenGradients<Gradient, T> gradients, bool stashes) {
  extern __shared__ uint4 stash_memory[];
  const ClusterBlock<shared_row_threads> block;
  const LogitTransform<T> transform = specialise<softcap>(rows.transform);
  const StashMemory stash{stashes ? reinterpret_cast<unsigned char*>(stash_memory) : nullptr,
                          shared_row_threads};
  const std::int64_t clusters = gridDim.x / block.blocks();
  for (std::int64_t row = blockIdx.x / block.blocks(); row < rows.count; row += clusters) {
    score_and_differentiate_row(block, rows, transform, row, stash, out, gradients);
  }
}

/// Sets `kernel` up for the current device and finds how it divides rows of `vocab` logits there. A
/// kernel that was compiled for an older architecture than the device's knows of no clusters. What
/// is set does not depend on the rows: another thread may be about to launch the kernel.
template <typename Storage, typename Kernel>
static cudaError_t split_on_device(Kernel kernel, std::int64_t vocab, RowSplit& split) {
  constexpr int system_bytes = 1024;  // of shared memory, per block
  int device = 0, shared_bytes = 0, has_clusters = 0;
  cudaFuncAttributes attributes{};
  for (const cudaError_t status :
       {cudaGetDevice(&device), cudaFuncGetAttributes(&attributes, kernel),
        cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        cudaDeviceGetAttribute(&has_clusters, cudaDevAttrClusterLaunch, device)}) {
    if (status != cudaSuccess) {
      return status;
    }
  }
  const auto own_bytes = static_cast<int>(attributes.sharedSizeBytes);
  const int stash_bytes = shared_bytes - own_bytes;
  const bool clusters = has_clusters != 0 && attributes.ptxVersion >= 90;
  split = split_row<Storage>(vocab, shared_row_threads, stash_bytes, system_bytes + own_bytes,
                             clusters ? largest_cluster : 1);
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  return status != cudaSuccess
             ? status
             : cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    stash_bytes);
}

/// A launch of clusters; `cluster` has to outlive it.
inline cudaLaunchConfig_t configuration(std::int64_t rows, const RowSplit& split,
                                        cudaLaunchAttribute& cluster, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(split.blocks);
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {blocks, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid_of(rows * blocks) / blocks * blocks);
  config.blockDim = dim3(shared_row_threads);
  config.dynamicSmemBytes = static_cast<std::size_t>(split.stash_bytes);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = blocks > 1 ? 1 : 0;
  return config;
}

}  // namespace detail

/// Queues the forward pass over `rows`, and their gradients.
template <typename Storage, typename Gradient>
static cudaError_t launch_token_logps_with_grad(
    const TokenRows<Storage>& rows, const TokenLogpOutputs<accumulation_t<Storage>>& out,
    const TokenGradients<Gradient, accumulation_t<Storage>>& gradients, cudaStream_t stream) {
  using T = accumulation_t<Storage>;
  if (rows.count == 0) {
    return cudaSuccess;
  }
  const auto kernel = rows.transform.has_softcap()
                          ? detail::token_logps_with_grad_kernel<true, Storage, Gradient, T>
                          : detail::token_logps_with_grad_kernel<false, Storage, Gradient, T>;
  RowSplit split{};
  cudaError_t status = detail::split_on_device<Storage>(kernel, rows.vocab, split);
  if (status != cudaSuccess) {
    return status;
  }
  cudaLaunchAttribute cluster{};
  cudaLaunchConfig_t config = detail::configuration(rows.count, split, cluster, stream);
  int fitting = 1;
  if (split.blocks > 1) {
    status = cudaOccupancyMaxActiveClusters(&fitting, kernel, &config);
  }
  if (status != cudaSuccess) {
    return status;
  }
  if (fitting == 0) {  // a part of a device may lack neighbouring multiprocessors
    split = {1, 0};
    config = detail::configuration(rows.count, split, cluster, stream);
  }
  return cudaLaunchKernelEx(&config, kernel, rows, out, gradients, split.stash_bytes > 0);
}

}  // namespace selm::cuda
