#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <array>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

/// @file
/// Calls of the private operators through the dispatcher, so that each reaches its autograd, device
/// or meta kernel.

namespace selm::ops {

using OptionalTensor = std::optional<at::Tensor>;

/// One dispatcher look-up per operator and process.
#define SELM_PRIVATE_OP(name, Signature)                                                        \
  inline const c10::TypedOperatorHandle<Signature>& name##_op() {                               \
    static const auto op =                                                                      \
        c10::Dispatcher::singleton().findSchemaOrThrow("selm::_" #name, "").typed<Signature>(); \
    return op;                                                                                  \
  }

using PreferenceLossSignature = std::vector<at::Tensor>(
    c10::string_view, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
    const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
    const OptionalTensor&, const std::vector<std::string>&, c10::ArrayRef<double>);
SELM_PRIVATE_OP(preference_loss, PreferenceLossSignature)

using PreferenceLossBackwardSignature = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor&, c10::string_view, const at::Tensor&, const at::Tensor&,
    const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
    const OptionalTensor&, const OptionalTensor&, const std::vector<std::string>&,
    c10::ArrayRef<double>);
SELM_PRIVATE_OP(preference_loss_backward, PreferenceLossBackwardSignature)

using UnpairedLossSignature = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, double, double,
    double);
SELM_PRIVATE_OP(unpaired_loss, UnpairedLossSignature)

using LogratioTermSignature = std::tuple<at::Tensor, at::Tensor>(c10::string_view,
                                                                 const at::Tensor&,
                                                                 const OptionalTensor&,
                                                                 c10::string_view, double, double,
                                                                 double);
SELM_PRIVATE_OP(logratio_term, LogratioTermSignature)

using TokenLogpsSignature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&,
                                                               double, std::int64_t);
SELM_PRIVATE_OP(token_logps, TokenLogpsSignature)

using TokenLogpsBackwardSignature = at::Tensor(const at::Tensor&, const at::Tensor&,
                                               const at::Tensor&, const at::Tensor&, double,
                                               std::int64_t);
SELM_PRIVATE_OP(token_logps_backward, TokenLogpsBackwardSignature)

using SequenceLogpsSignature = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&,
                                                                  const at::Tensor&, std::int64_t,
                                                                  bool);
SELM_PRIVATE_OP(sequence_logps, SequenceLogpsSignature)

using SequenceLogpsBackwardSignature = at::Tensor(const at::Tensor&, const at::Tensor&,
                                                  const at::Tensor&, const at::Tensor&,
                                                  std::int64_t, bool);
SELM_PRIVATE_OP(sequence_logps_backward, SequenceLogpsBackwardSignature)

using LinearLogpsSignature = std::vector<at::Tensor>(const at::Tensor&, const at::Tensor&,
                                                     const at::Tensor&, const OptionalTensor&,
                                                     c10::ArrayRef<double>, std::int64_t,
                                                     std::array<bool, 4>,
                                                     std::optional<std::int64_t>, std::int64_t,
                                                     bool);
SELM_PRIVATE_OP(linear_logps, LinearLogpsSignature)

using LinearLogpsBackwardSignature = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const OptionalTensor&, const OptionalTensor&, const at::Tensor&, const at::Tensor&,
    const at::Tensor&, const OptionalTensor&, const at::Tensor&, const at::Tensor&,
    const at::Tensor&, c10::ArrayRef<double>, std::int64_t, std::optional<std::int64_t>,
    std::array<bool, 3>);
SELM_PRIVATE_OP(linear_logps_backward, LinearLogpsBackwardSignature)

#undef SELM_PRIVATE_OP

}  // namespace selm::ops
