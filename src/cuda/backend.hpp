#pragma once

#include <c10/core/Device.h>

#include "cpu/kernels.hpp"
#include "selm/core/row_statistics.hpp"
#include "selm/core/unpaired.hpp"

/// @file
/// The CUDA kernels behind LibTorch's storage types, on the current stream of `device`. Without
/// CUDA in the build each raises NotImplementedError.

namespace selm::cuda_backend {

template <typename Storage>
void preference(const c10::Device& device, const PreferenceOptions& options,
                const ExplorationOptions& exploration, const PreferenceInputs<Storage>& in,
                const PreferenceOutputs<Storage>& out, std::int64_t batch);

template <typename Storage>
void unpaired(const c10::Device& device, const UnpairedLoss<double>& loss,
              const UnpairedInputs<Storage>& in, const UnpairedOutputs<Storage>& out,
              std::int64_t batch);

template <typename Storage, typename Term>
void logratio_term(const c10::Device& device, const Term& term, const Storage* policy,
                   const Storage* ref, Storage* value, Storage* grad, std::int64_t count);

template <typename Storage>
void token_logps(const c10::Device& device, const RowView<const Storage>& logits,
                 const std::int64_t* targets, std::int64_t rows, std::int64_t vocab,
                 std::int64_t ignore_index,
                 const LogitTransform<accumulation_t<Storage>>& transform,
                 accumulation_t<Storage>* logps, accumulation_t<Storage>* summary);

template <typename Storage, typename Gradient>
void token_logps_with_grad(const c10::Device& device, const RowView<const Storage>& logits,
                           const std::int64_t* targets, std::int64_t rows, std::int64_t vocab,
                           std::int64_t ignore_index,
                           const LogitTransform<accumulation_t<Storage>>& transform,
                           accumulation_t<Storage> scale, accumulation_t<Storage>* logps,
                           accumulation_t<Storage>* summary, const RowStatisticsOutputs& statistics,
                           const RowView<Gradient>& d_logits);

template <typename Storage, typename Gradient>
void token_logps_backward(const c10::Device& device, const RowView<const Storage>& logits,
                          const std::int64_t* targets, std::int64_t rows, std::int64_t first,
                          std::int64_t width, std::int64_t ignore_index,
                          const LogitTransform<accumulation_t<Storage>>& transform,
                          const accumulation_t<Storage>* summary,
                          const accumulation_t<Storage>* grad, const RowView<Gradient>& d_logits);

/// Raises NotImplementedError where the current stream of `device` is recorded into a CUDA graph,
/// for an operator that waits for a number: that would break the recording.
void refuse_capture(const char* op, const c10::Device& device);

}  // namespace selm::cuda_backend
