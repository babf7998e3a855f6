#include "cuda/backend.hpp"

#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <type_traits>

#include "selm/core/divergence.hpp"
#include "selm/cuda/launch.hpp"

// From LibTorch's types to selm::cuda: the device, its current stream, and the toolkit's half
// types.

namespace selm::cuda_backend {
namespace {

/// The CUDA toolkit's type with the layout of c10's.
template <typename Storage>
using device_type = std::conditional_t<
    std::is_same_v<Storage, c10::Half>, __half,
    std::conditional_t<std::is_same_v<Storage, c10::BFloat16>, __nv_bfloat16, Storage>>;

template <typename Storage>
RowView<const device_type<Storage>> device_rows(const RowView<const Storage>& rows) {
  return {reinterpret_cast<const device_type<Storage>*>(rows.data), rows.inner, rows.outer_stride,
          rows.inner_stride};
}

template <typename Storage>
RowView<device_type<Storage>> device_rows(const RowView<Storage>& rows) {
  return {reinterpret_cast<device_type<Storage>*>(rows.data), rows.inner, rows.outer_stride,
          rows.inner_stride};
}

/// Runs `launch(stream)` on `device` and raises when the launch failed; the caller's device is
/// restored.
template <typename Launch>
void on_stream(const char* op, const c10::Device& device, Launch launch) {
  const c10::cuda::CUDAGuard guard(device);
  const cudaError_t status = launch(c10::cuda::getCurrentCUDAStream().stream());
  TORCH_CHECK_NOT_IMPLEMENTED(
      status != cudaErrorNoKernelImageForDevice, "selm::", op,
      ": the kernels were compiled for the architectures " SELM_CUDA_ARCHITECTURES
      ", none of which runs on ",
      device, "; rebuild with CMAKE_CUDA_ARCHITECTURES set for it");
  TORCH_CHECK(status == cudaSuccess, "selm::", op, ": CUDA error: ", cudaGetErrorString(status));
}

}  // namespace

template <typename Storage>
void preference(const c10::Device& device, const PreferenceOptions& options,
                const ExplorationOptions& exploration, const PreferenceInputs<Storage>& in,
                const PreferenceOutputs<Storage>& out, std::int64_t batch) {
  on_stream("preference_loss", device, [&](cudaStream_t stream) {
    return cuda::preference(options, exploration, in, out, batch, stream);
  });
}

template <typename Storage>
void unpaired(const c10::Device& device, const UnpairedLoss<double>& loss,
              const UnpairedInputs<Storage>& in, const UnpairedOutputs<Storage>& out,
              std::int64_t batch) {
  on_stream("unpaired_loss", device,
            [&](cudaStream_t stream) { return cuda::unpaired(loss, in, out, batch, stream); });
}

template <typename Storage, typename Term>
void logratio_term(const c10::Device& device, const Term& term, const Storage* policy,
                   const Storage* ref, Storage* value, Storage* grad, std::int64_t count) {
  on_stream("logratio_term", device, [&](cudaStream_t stream) {
    return cuda::logratio_term(term, policy, ref, value, grad, count, stream);
  });
}

template <typename Storage>
void token_logps(const c10::Device& device, const RowView<const Storage>& logits,
                 const std::int64_t* targets, std::int64_t rows, std::int64_t vocab,
                 std::int64_t ignore_index,
                 const LogitTransform<accumulation_t<Storage>>& transform,
                 accumulation_t<Storage>* logps, accumulation_t<Storage>* summary) {
  on_stream("token_logps", device, [&](cudaStream_t stream) {
    return cuda::token_logps<device_type<Storage>>(device_rows(logits), targets, rows, vocab,
                                                   ignore_index, transform, logps, summary,
                                                   RowStatisticsOutputs{}, stream);
  });
}

template <typename Storage, typename Gradient>
void token_logps_with_grad(const c10::Device& device, const RowView<const Storage>& logits,
                           const std::int64_t* targets, std::int64_t rows, std::int64_t vocab,
                           std::int64_t ignore_index,
                           const LogitTransform<accumulation_t<Storage>>& transform,
                           accumulation_t<Storage> scale, accumulation_t<Storage>* logps,
                           accumulation_t<Storage>* summary, const RowStatisticsOutputs& statistics,
                           const RowView<Gradient>& d_logits) {
  on_stream("token_logps_with_grad", device, [&](cudaStream_t stream) {
    return cuda::token_logps_with_grad(device_rows(logits), targets, rows, vocab, ignore_index,
                                       transform, scale, logps, summary, statistics,
                                       device_rows(d_logits), stream);
  });
}

template <typename Storage, typename Gradient>
void token_logps_backward(const c10::Device& device, const RowView<const Storage>& logits,
                          const std::int64_t* targets, std::int64_t rows, std::int64_t first,
                          std::int64_t width, std::int64_t ignore_index,
                          const LogitTransform<accumulation_t<Storage>>& transform,
                          const accumulation_t<Storage>* summary,
                          const accumulation_t<Storage>* grad, const RowView<Gradient>& d_logits) {
  on_stream("token_logps_backward", device, [&](cudaStream_t stream) {
    return cuda::token_logps_backward(device_rows(logits), targets, rows, first, width,
                                      ignore_index, transform, summary, grad, device_rows(d_logits),
                                      stream);
  });
}

void refuse_capture(const char* op, const c10::Device& device) {
  const c10::cuda::CUDAGuard guard(device);
  TORCH_CHECK_NOT_IMPLEMENTED(
      c10::cuda::currentStreamCaptureStatusMayInitCtx() == c10::cuda::CaptureStatus::None,
      "selm::", op,
      ": cannot be recorded into a CUDA graph: the number of rows to compute is read back");
}

#include "cuda/instantiations.inc"

}  // namespace selm::cuda_backend
