#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "selm/cuda/row_pass.hpp"

/// @file
/// Reduction of any monoid over a block, in a fixed order: the same input gives the same bits.

namespace selm::cuda {

/// Threads of a warp.
inline constexpr int warp_size = 32;

namespace detail {

/// A value cut into what one warp shuffle moves. Unlike the value it may lie in shared memory,
/// which cannot run a constructor.
template <typename Value>
struct Words {
  static_assert(std::is_trivially_copyable_v<Value> && sizeof(Value) % sizeof(unsigned) == 0);
  static constexpr int count = sizeof(Value) / sizeof(unsigned);

  unsigned words[count];
};

template <typename Value>
static __device__ Words<Value> to_words(const Value& value) {
  Words<Value> words;
  std::memcpy(&words, &value, sizeof(Value));
  return words;
}

template <typename Value>
static __device__ Value from_words(const Words<Value>& words) {
  Value value;
  std::memcpy(&value, &words, sizeof(Value));
  return value;
}

/// Lane i merges with lane i + width / 2, then i + width / 4, ...: lane 0 ends with all `width`.
template <int width, typename Value, typename Merge>
static __device__ Value reduce_lanes(Value value, const Merge& merge) {
  for (int distance = width / 2; distance > 0; distance /= 2) {
    Words<Value> words = to_words(value);
    for (unsigned& word : words.words) {
      word = __shfl_down_sync(0xffffffffu, word, distance);
    }
    value = merge(value, from_words(words));
  }
  return value;
}

/// The same, given to all lanes.
template <int width, typename Value, typename Merge>
static __device__ Value reduce_and_share(Value value, const Merge& merge) {
  Words<Value> words = to_words(reduce_lanes<width>(value, merge));
  for (unsigned& word : words.words) {
    word = __shfl_sync(0xffffffffu, word, 0);
  }
  return from_words(words);
}

}  // namespace detail

/// The threads of the running block, `threads` of them in one dimension.
template <int threads>
struct CudaBlock {
  static constexpr int warps = threads / warp_size;
  static_assert(threads % warp_size == 0 && warps <= warp_size && (warps & (warps - 1)) == 0);

  __device__ RowThread thread() const { return {static_cast<int>(threadIdx.x), threads}; }

  /// The merged value of all threads, given to every thread: each warp is reduced, then the warps'
  /// results, both as a binary tree. `Value{}` is the neutral element.
  template <typename Value, typename Merge>
  __device__ Value reduce(Value value, const Merge& merge) const {
    __shared__ detail::Words<Value> partials[warps];
    const int lane = thread().index % warp_size;
    const int warp = thread().index / warp_size;

    value = detail::reduce_lanes<warp_size>(value, merge);
    __syncthreads();  // an earlier reduction's partials have been read
    if (lane == 0) {
      partials[warp] = detail::to_words(value);
    }
    __syncthreads();
    value = lane < warps ? detail::from_words(partials[lane]) : Value{};
    return detail::reduce_and_share<warps>(value, merge);
  }
};

}  // namespace selm::cuda
