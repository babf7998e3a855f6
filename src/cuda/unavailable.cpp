#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include "cuda/backend.hpp"
#include "selm/core/divergence.hpp"

// Stands in for backend.cpp in a build without CUDA.

namespace selm::cuda_backend {
namespace {

[[noreturn]] void raise(const c10::Device& device) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "selm: got a tensor on ", device,
                              ", but this libselm_torch was built without CUDA "
                              "(SELM_WITH_CUDA=OFF)");
}

}  // namespace

template <typename Storage>
void preference(const c10::Device& device, const PreferenceOptions&, const ExplorationOptions&,
                const PreferenceInputs<Storage>&, const PreferenceOutputs<Storage>&, std::int64_t) {
  raise(device);
}

template <typename Storage>
void unpaired(const c10::Device& device, const UnpairedLoss<double>&,
              const UnpairedInputs<Storage>&, const UnpairedOutputs<Storage>&, std::int64_t) {
  raise(device);
}

template <typename Storage, typename Term>
void logratio_term(const c10::Device& device, const Term&, const Storage*, const Storage*, Storage*,
                   Storage*, std::int64_t) {
  raise(device);
}

template <typename Storage>
void token_logps(const c10::Device& device, const RowView<const Storage>&, const std::int64_t*,
                 std::int64_t, std::int64_t, std::int64_t,
                 const LogitTransform<accumulation_t<Storage>>&, accumulation_t<Storage>*,
                 accumulation_t<Storage>*) {
  raise(device);
}

template <typename Storage, typename Gradient>
void token_logps_with_grad(const c10::Device& device, const RowView<const Storage>&,
                           const std::int64_t*, std::int64_t, std::int64_t, std::int64_t,
                           const LogitTransform<accumulation_t<Storage>>&, accumulation_t<Storage>,
                           accumulation_t<Storage>*, accumulation_t<Storage>*,
                           const RowStatisticsOutputs&, const RowView<Gradient>&) {
  raise(device);
}

template <typename Storage, typename Gradient>
void token_logps_backward(const c10::Device& device, const RowView<const Storage>&,
                          const std::int64_t*, std::int64_t, std::int64_t, std::int64_t,
                          std::int64_t, const LogitTransform<accumulation_t<Storage>>&,
                          const accumulation_t<Storage>*, const accumulation_t<Storage>*,
                          const RowView<Gradient>&) {
  raise(device);
}

void refuse_capture(const char*, const c10::Device& device) {
  raise(device);
}

#include "cuda/instantiations.inc"

}  // namespace selm::cuda_backend
