#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "selm/core/divergence.hpp"
#include "selm/core/exploration.hpp"
#include "selm/core/preference.hpp"
#include "selm/core/ranked_batch.hpp"
#include "selm/core/reward.hpp"
#include "selm/cuda/launch.hpp"
#include "selm/cuda/pair_kernels.cuh"
#include "selm/cuda/token_grad_kernels.cuh"
#include "selm/cuda/token_logp_kernels.cuh"

namespace selm::cuda {
namespace {

template <typename... Pointers>
bool any_null(const Pointers*... pointers) {
  return ((pointers == nullptr) || ...);
}

bool is_complete(const RankedPairs& rows) {
  return !any_null(rows.policy_chosen, rows.ref_chosen, rows.policy_rejected, rows.ref_rejected,
                   rows.pair_of_chosen, rows.pair_of_rejected);
}

/// Whether everything is there that the losses read beside the log-probabilities.
template <typename Storage>
bool has_what_losses_read(const PreferenceOptions& options, const PreferenceInputs<Storage>& in) {
  const auto lacks = [&](bool used, bool given) { return used && !given; };
  return !lacks(uses(options, Lengths::chosen), in.chosen_lengths != nullptr) &&
         !lacks(uses(options, Lengths::both), !any_null(in.chosen_lengths, in.rejected_lengths)) &&
         !lacks(uses(options, Lengths::mean_chosen), in.mean_chosen_length != nullptr) &&
         !lacks(uses(options, Pairing::ranked_pairs), is_complete(in.ranked_pairs)) &&
         !lacks(uses(options, Pairing::ranked_ratios), is_complete(in.ranked_ratios));
}

/// Whether everything else is there that `Preference::evaluate_row` touches.
template <typename Storage>
bool are_complete(const PreferenceInputs<Storage>& in, const PreferenceOutputs<Storage>& out,
                  bool explores) {
  const bool has_response = in.policy_response != nullptr;
  if (explores && !has_response) {
    return false;
  }
  if (has_response && any_null(in.ref_response, out.response_rewards, out.d_response)) {
    return false;
  }
  if ((in.ref_chosen == nullptr) != (in.ref_rejected == nullptr)) {
    return false;
  }
  return !any_null(in.policy_chosen, in.policy_rejected, out.losses, out.dpo_losses,
                   out.exploration, out.chosen_rewards, out.rejected_rewards, out.d_chosen,
                   out.d_rejected);
}

template <typename Storage>
bool are_valid(const TokenRows<Storage>& rows) {
  return rows.count >= 0 && rows.vocab > 0 && rows.logits.inner > 0 &&
         !any_null(rows.logits.data, rows.targets);
}

}  // namespace

template <typename Storage>
cudaError_t preference(const PreferenceOptions& options, const ExplorationOptions& exploration,
                       const PreferenceInputs<Storage>& in, const PreferenceOutputs<Storage>& out,
                       std::int64_t batch, cudaStream_t stream) {
  const bool explores = exploration.alpha != 0.0;
  if (batch < 0 || !are_known(options) || !are_known(exploration)) {
    return cudaErrorInvalidValue;
  }
  if (batch > 0 && !(has_what_losses_read(options, in) && are_complete(in, out, explores))) {
    return cudaErrorInvalidValue;
  }
  return launch_preference(make_preference(options, exploration), in, out, batch, stream);
}

template <typename Storage>
cudaError_t unpaired(const UnpairedLoss<double>& loss, const UnpairedInputs<Storage>& in,
                     const UnpairedOutputs<Storage>& out, std::int64_t batch, cudaStream_t stream) {
  if (batch < 0 || (batch > 0 && any_null(in.policy, in.ref, in.desirable, out.losses, out.rewards,
                                          out.d_policy))) {
    return cudaErrorInvalidValue;
  }
  return launch_unpaired(loss, in, out, batch, stream);
}

template <typename Storage, typename Term>
cudaError_t logratio_term(const Term& term, const Storage* policy, const Storage* ref,
                          Storage* value, Storage* grad, std::int64_t count, cudaStream_t stream) {
  if (count < 0 || (count > 0 && any_null(policy, value, grad))) {
    return cudaErrorInvalidValue;
  }
  return launch_logratio_term(term, policy, ref, value, grad, count, stream);
}

template <typename Storage>
cudaError_t token_logps(const RowView<const Storage>& logits, const std::int64_t* targets,
                        std::int64_t rows, std::int64_t vocab, std::int64_t ignore_index,
                        const LogitTransform<accumulation_t<Storage>>& transform,
                        accumulation_t<Storage>* logps, accumulation_t<Storage>* summary,
                        const RowStatisticsOutputs& statistics, cudaStream_t stream) {
  if (rows == 0) {
    return cudaSuccess;
  }
  const TokenRows<Storage> all{logits, targets, rows, vocab, ignore_index, transform};
  if (!are_valid(all) || any_null(logps)) {
    return cudaErrorInvalidValue;
  }
  return launch_token_logps(all, {logps, summary, statistics}, stream);
}

template <typename Storage, typename Gradient>
cudaError_t token_logps_with_grad(const RowView<const Storage>& logits, const std::int64_t* targets,
                                  std::int64_t rows, std::int64_t vocab, std::int64_t ignore_index,
                                  const LogitTransform<accumulation_t<Storage>>& transform,
                                  accumulation_t<Storage> scale, accumulation_t<Storage>* logps,
                                  accumulation_t<Storage>* summary,
                                  const RowStatisticsOutputs& statistics,
                                  const RowView<Gradient>& d_logits, cudaStream_t stream) {
  if (rows == 0) {
    return cudaSuccess;
  }
  const TokenRows<Storage> all{logits, targets, rows, vocab, ignore_index, transform};
  if (!are_valid(all) || any_null(logps) || (d_logits.data != nullptr && d_logits.inner <= 0)) {
    return cudaErrorInvalidValue;
  }
  const TokenGradients<Gradient, accumulation_t<Storage>> gradients{d_logits, scale};
  return launch_token_logps_with_grad(all, {logps, summary, statistics}, gradients, stream);
}

template <typename Storage, typename Gradient>
cudaError_t token_logps_backward(const RowView<const Storage>& logits, const std::int64_t* targets,
                                 std::int64_t rows, std::int64_t first, std::int64_t width,
                                 std::int64_t ignore_index,
                                 const LogitTransform<accumulation_t<Storage>>& transform,
                                 const accumulation_t<Storage>* summary,
                                 const accumulation_t<Storage>* grad,
                                 const RowView<Gradient>& d_logits, cudaStream_t stream) {
  if (rows == 0) {
    return cudaSuccess;
  }
  const TokenRows<Storage> all{logits, targets, rows, width, ignore_index, transform, first};
  if (!are_valid(all) || first < 0 || d_logits.inner <= 0 || any_null(summary, d_logits.data)) {
    return cudaErrorInvalidValue;
  }
  return launch_token_logps_backward(all, summary, grad, d_logits, stream);
}

#define SELM_INSTANTIATE_TERM(Storage, Term)                                                \
  template cudaError_t logratio_term(const Term&, const Storage*, const Storage*, Storage*, \
                                     Storage*, std::int64_t, cudaStream_t)

#define SELM_INSTANTIATE_PAIR(Storage)                                                            \
  template cudaError_t preference(const PreferenceOptions&, const ExplorationOptions&,            \
                                  const PreferenceInputs<Storage>&,                               \
                                  const PreferenceOutputs<Storage>&, std::int64_t, cudaStream_t); \
  template cudaError_t unpaired(const UnpairedLoss<double>&, const UnpairedInputs<Storage>&,      \
                                const UnpairedOutputs<Storage>&, std::int64_t, cudaStream_t);     \
  SELM_INSTANTIATE_TERM(Storage, ImplicitReward<double>);                                         \
  SELM_INSTANTIATE_TERM(Storage, ExplorationTerm<double>);                                        \
  SELM_INSTANTIATE_TERM(Storage, KlEstimate<double>)

#define SELM_INSTANTIATE_TOKEN(Storage)                                                       \
  template cudaError_t token_logps<Storage>(                                                  \
      const RowView<const Storage>&, const std::int64_t*, std::int64_t, std::int64_t,         \
      std::int64_t, const LogitTransform<accumulation_t<Storage>>&, accumulation_t<Storage>*, \
      accumulation_t<Storage>*, const RowStatisticsOutputs&, cudaStream_t)

#define SELM_INSTANTIATE_BACKWARD(Storage, Gradient)                                            \
  template cudaError_t token_logps_backward<Storage, Gradient>(                                 \
      const RowView<const Storage>&, const std::int64_t*, std::int64_t, std::int64_t,           \
      std::int64_t, std::int64_t, const LogitTransform<accumulation_t<Storage>>&,               \
      const accumulation_t<Storage>*, const accumulation_t<Storage>*, const RowView<Gradient>&, \
      cudaStream_t)

#define SELM_INSTANTIATE_WITH_GRAD(Storage, Gradient)                                        \
  template cudaError_t token_logps_with_grad<Storage, Gradient>(                             \
      const RowView<const Storage>&, const std::int64_t*, std::int64_t, std::int64_t,        \
      std::int64_t, const LogitTransform<accumulation_t<Storage>>&, accumulation_t<Storage>, \
      accumulation_t<Storage>*, accumulation_t<Storage>*, const RowStatisticsOutputs&,       \
      const RowView<Gradient>&, cudaStream_t)

SELM_INSTANTIATE_PAIR(float);
SELM_INSTANTIATE_PAIR(double);
SELM_INSTANTIATE_TOKEN(float);
SELM_INSTANTIATE_TOKEN(double);
SELM_INSTANTIATE_TOKEN(__half);
SELM_INSTANTIATE_TOKEN(__nv_bfloat16);
SELM_INSTANTIATE_BACKWARD(float, float);
SELM_INSTANTIATE_BACKWARD(float, __half);
SELM_INSTANTIATE_BACKWARD(float, __nv_bfloat16);
SELM_INSTANTIATE_BACKWARD(double, double);
SELM_INSTANTIATE_BACKWARD(__half, __half);
SELM_INSTANTIATE_BACKWARD(__nv_bfloat16, __nv_bfloat16);
SELM_INSTANTIATE_WITH_GRAD(float, float);
SELM_INSTANTIATE_WITH_GRAD(float, __half);
SELM_INSTANTIATE_WITH_GRAD(float, __nv_bfloat16);
SELM_INSTANTIATE_WITH_GRAD(double, double);

}  // namespace selm::cuda
