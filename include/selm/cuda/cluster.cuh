#pragma once

#include <cuda_runtime.h>

#include "selm/cuda/reduce.cuh"

/// @file
/// Several blocks that share a row, on architectures with thread-block clusters (sm_90 and later).

namespace selm::cuda {

/// Blocks that a cluster may have on every device with clusters.
inline constexpr int largest_cluster = 8;

namespace detail {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
static __device__ int cluster_blocks() {
  return static_cast<int>(__clusterSizeInBlocks());
}
static __device__ int cluster_rank() {
  return static_cast<int>(__clusterRelativeBlockRank());
}
static __device__ void cluster_sync() {
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}
template <typename Value>
static __device__ const Value& in_block(const Value& shared, int rank) {
  return *static_cast<const Value*>(
      __cluster_map_shared_rank(&shared, static_cast<unsigned>(rank)));
}
#else
static __device__ int cluster_blocks() {
  return 1;
}
static __device__ int cluster_rank() {
  return 0;
}
static __device__ void cluster_sync() {}
template <typename Value>
static __device__ const Value& in_block(const Value& shared, int) {
  return shared;
}
#endif

}  // namespace detail

/// The threads of the running cluster, or of the running block where it has no other one; `threads`
/// of each block, in one dimension.
template <int threads>
class ClusterBlock {
 public:
  __device__ ClusterBlock() : blocks_(detail::cluster_blocks()), rank_(detail::cluster_rank()) {}

  __device__ int blocks() const { return blocks_; }
  __device__ RowThread thread() const {
    return {rank_ * threads + static_cast<int>(threadIdx.x), blocks_ * threads};
  }

  /// The merged value of all threads, given to every thread: each block is reduced, then the
  /// blocks' results as a binary tree. `Value{}` is the neutral element.
  template <typename Value, typename Merge>
  __device__ Value reduce(Value value, const Merge& merge) const {
    value = CudaBlock<threads>{}.reduce(value, merge);
    if (blocks_ == 1) {
      return value;
    }
    __shared__ detail::Words<Value> partial;
    if (threadIdx.x == 0) {
      partial = detail::to_words(value);
    }
    detail::cluster_sync();
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    value = lane < blocks_ ? detail::from_words(detail::in_block(partial, lane)) : Value{};
    detail::cluster_sync();  // all have read it: it may be written again, and its block may end
    return detail::reduce_and_share<largest_cluster>(value, merge);
  }

 private:
  int blocks_;
  int rank_;
};

}  // namespace selm::cuda
