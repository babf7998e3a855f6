#pragma once

#include <ATen/core/Tensor.h>

#include "cpu/kernels.hpp"
#include "cuda/backend.hpp"

/// @file
/// Where the device is chosen, but for linear_logps: each function runs its CPU or its CUDA kernel.
/// Storage is one of float, double, c10::Half and c10::BFloat16 (float and double alone for the
/// losses and `logratio_term`).

namespace selm::backend {

template <typename Storage>
void preference(const at::Device& device, const PreferenceOptions& options,
                const ExplorationOptions& exploration, const PreferenceInputs<Storage>& in,
                const PreferenceOutputs<Storage>& out, std::int64_t batch) {
  if (device.is_cuda()) {
    cuda_backend::preference(device, options, exploration, in, out, batch);
  } else {
    evaluate_batch(options, exploration, in, out, batch);
  }
}

template <typename Storage>
void unpaired(const at::Device& device, const UnpairedLoss<double>& loss,
              const UnpairedInputs<Storage>& in, const UnpairedOutputs<Storage>& out,
              std::int64_t batch) {
  if (device.is_cuda()) {
    cuda_backend::unpaired(device, loss, in, out, batch);
    return;
  }
  for (std::int64_t i = 0; i < batch; ++i) {
    evaluate_unpaired_row(loss, i, in, out);
  }
}

template <typename Storage, typename Term>
void logratio_term(const at::Device& device, const Term& term, const Storage* policy,
                   const Storage* ref, Storage* value, Storage* grad, std::int64_t count) {
  if (device.is_cuda()) {
    cuda_backend::logratio_term(device, term, policy, ref, value, grad, count);
  } else {
    cpu::logratio_term(term, policy, ref, value, grad, count);
  }
}

template <typename Storage>
void token_logps(const at::Device& device, const RowView<const Storage>& logits,
                 const std::int64_t* targets, std::int64_t rows, std::int64_t vocab,
                 std::int64_t ignore_index,
                 const LogitTransform<accumulation_t<Storage>>& transform,
                 accumulation_t<Storage>* logps, accumulation_t<Storage>* summary) {
  if (device.is_cuda()) {
    cuda_backend::token_logps(device, logits, targets, rows, vocab, ignore_index, transform, logps,
                              summary);
  } else {
    cpu::token_logps(logits, targets, rows, vocab, ignore_index, transform, logps, summary);
  }
}

template <typename Storage>
void token_logps_backward(const at::Device& device, const RowView<const Storage>& logits,
                          const std::int64_t* targets, std::int64_t rows, std::int64_t vocab,
                          std::int64_t ignore_index,
                          const LogitTransform<accumulation_t<Storage>>& transform,
                          const accumulation_t<Storage>* summary,
                          const accumulation_t<Storage>* grad, const RowView<Storage>& d_logits) {
  if (device.is_cuda()) {
    cuda_backend::token_logps_backward(device, logits, targets, rows, 0, vocab, ignore_index,
                                       transform, summary, grad, d_logits);
  } else {
    cpu::token_logps_backward(logits, targets, rows, vocab, ignore_index, transform, summary, grad,
                              d_logits);
  }
}

}  // namespace selm::backend
