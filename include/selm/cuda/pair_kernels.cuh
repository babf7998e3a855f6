#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "selm/core/preference.hpp"
#include "selm/core/unpaired.hpp"
#include "selm/cuda/grid.cuh"

/// @file
/// Kernels over log-probabilities of whole responses, one thread per pair or response. They are
/// templates on the functor: include this file in a `.cu` to run a loss of your own. Functions are
/// static, so that two libraries never share a kernel.

namespace selm::cuda {

namespace detail {

constexpr int pair_threads = 128;

inline __device__ std::int64_t first_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

inline __device__ std::int64_t index_stride() {
  return static_cast<std::int64_t>(gridDim.x) * blockDim.x;
}

template <typename Loss, typename Storage>
static __global__ void preference_kernel(Preference<Loss> preference, PreferenceInputs<Storage> in,
                                         PreferenceOutputs<Storage> out, std::int64_t batch) {
  for (std::int64_t i = first_index(); i < batch; i += index_stride()) {
    preference.evaluate_row(i, in, out);
  }
}

template <typename Storage>
static __global__ void unpaired_kernel(UnpairedLoss<double> loss, UnpairedInputs<Storage> in,
                                       UnpairedOutputs<Storage> out, std::int64_t batch) {
  for (std::int64_t i = first_index(); i < batch; i += index_stride()) {
    evaluate_unpaired_row(loss, i, in, out);
  }
}

template <typename Term, typename Storage>
static __global__ void logratio_term_kernel(Term term, const Storage* policy, const Storage* ref,
                                            Storage* value, Storage* grad, std::int64_t count) {
  for (std::int64_t i = first_index(); i < count; i += index_stride()) {
    const double ref_logp = ref == nullptr ? 0.0 : static_cast<double>(ref[i]);
    const ValueAndGrad<double> f = term(static_cast<double>(policy[i]), ref_logp);
    value[i] = static_cast<Storage>(f.value);
    grad[i] = static_cast<Storage>(f.grad);
  }
}

inline unsigned pair_grid(std::int64_t count) {
  return grid_of((count + pair_threads - 1) / pair_threads);
}

}  // namespace detail

/// Evaluates `preference` on each of `batch` pairs. `Loss` is `LossSum`, or a functor as in
/// selm/core/loss_list.hpp, of which only the call is used; the pointers are to device
/// memory. Returns the launch's status; does not synchronise.
template <typename Loss, typename Storage>
static cudaError_t launch_preference(const Preference<Loss>& preference,
                                     const PreferenceInputs<Storage>& in,
                                     const PreferenceOutputs<Storage>& out, std::int64_t batch,
                                     cudaStream_t stream) {
  if (batch == 0) {
    return cudaSuccess;
  }
  detail::preference_kernel<<<detail::pair_grid(batch), detail::pair_threads, 0, stream>>>(
      preference, in, out, batch);
  return cudaGetLastError();
}

/// Evaluates `loss` on each of `batch` responses.
template <typename Storage>
static cudaError_t launch_unpaired(const UnpairedLoss<double>& loss,
                                   const UnpairedInputs<Storage>& in,
                                   const UnpairedOutputs<Storage>& out, std::int64_t batch,
                                   cudaStream_t stream) {
  if (batch == 0) {
    return cudaSuccess;
  }
  detail::unpaired_kernel<<<detail::pair_grid(batch), detail::pair_threads, 0, stream>>>(
      loss, in, out, batch);
  return cudaGetLastError();
}

/// value[i], grad[i] = term(policy[i], ref[i]) in double; a null `ref` stands for zeros.
template <typename Term, typename Storage>
static cudaError_t launch_logratio_term(const Term& term, const Storage* policy, const Storage* ref,
                                        Storage* value, Storage* grad, std::int64_t count,
                                        cudaStream_t stream) {
  if (count == 0) {
    return cudaSuccess;
  }
  detail::logratio_term_kernel<<<detail::pair_grid(count), detail::pair_threads, 0, stream>>>(
      term, policy, ref, value, grad, count);
  return cudaGetLastError();
}

}  // namespace selm::cuda
