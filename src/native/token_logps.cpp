#include <ATen/Dispatch.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "backend.hpp"
#include "private_ops.hpp"
#include "rows.hpp"
#include "targets.hpp"

// Device kernels of the operators that take logits.

namespace selm::ops {
namespace {

/// log-probabilities and summary of every row of `logits`.
std::tuple<at::Tensor, at::Tensor> forward_rows(const at::Tensor& logits, const at::Tensor& targets,
                                                double temperature, std::int64_t ignore_index) {
  const auto options = logits.options().dtype(accumulation_type(logits));
  at::Tensor logps = at::empty(targets.sizes(), options);
  at::Tensor summary = at::empty({targets.numel(), 3}, options);
  const at::Tensor rows = with_contiguous_rows(logits);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, rows.scalar_type(), "selm::token_logps", [&] {
        using Acc = accumulation_t<scalar_t>;
        backend::token_logps<scalar_t>(
            rows.device(), row_view(rows.const_data_ptr<scalar_t>(), rows),
            targets.const_data_ptr<std::int64_t>(), targets.numel(), rows.size(-1), ignore_index,
            LogitTransform<Acc>::make(temperature, 1.0, 0.0), logps.mutable_data_ptr<Acc>(),
            summary.mutable_data_ptr<Acc>());
      });
  return {logps, summary};
}

/// Writes the gradient of every row of `logits` into `d_logits`, a view of the same shape.
void backward_rows(const at::Tensor& grad, const at::Tensor& logits, const at::Tensor& targets,
                   const at::Tensor& summary, double temperature, std::int64_t ignore_index,
                   const at::Tensor& d_logits) {
  const at::Tensor rows = with_contiguous_rows(logits);
  const at::Tensor upstream = grad.contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, rows.scalar_type(), "selm::token_logps_backward", [&] {
        using Acc = accumulation_t<scalar_t>;
        backend::token_logps_backward<scalar_t>(
            rows.device(), row_view(rows.const_data_ptr<scalar_t>(), rows),
            targets.const_data_ptr<std::int64_t>(), targets.numel(), rows.size(-1), ignore_index,
            LogitTransform<Acc>::make(temperature, 1.0, 0.0), summary.const_data_ptr<Acc>(),
            upstream.const_data_ptr<Acc>(),
            row_view(d_logits.mutable_data_ptr<scalar_t>(), d_logits));
      });
}

std::tuple<at::Tensor, at::Tensor> token_logps(const at::Tensor& logits, const at::Tensor& index,
                                               double temperature, std::int64_t ignore_index) {
  const at::Tensor targets =
      checked_targets("selective_log_softmax", "index", index, logits.size(-1), ignore_index);
  return forward_rows(logits, targets, temperature, ignore_index);
}

at::Tensor token_logps_backward(const at::Tensor& grad, const at::Tensor& logits,
                                const at::Tensor& index, const at::Tensor& summary,
                                double temperature, std::int64_t ignore_index) {
  at::Tensor d_logits = at::empty(logits.sizes(), logits.options());
  backward_rows(grad, logits, index.to(at::kLong).contiguous(), summary, temperature, ignore_index,
                d_logits);
  return d_logits;
}

/// Views that pair position t of the logits with label t + 1.
struct Shifted {
  at::Tensor logits;
  at::Tensor labels;
};

std::int64_t predicted_positions(const at::Tensor& labels) {
  return std::max<std::int64_t>(labels.size(1) - 1, 0);
}

Shifted shift(const at::Tensor& logits, const at::Tensor& labels) {
  const std::int64_t positions = predicted_positions(labels);
  return {logits.narrow(1, 0, positions), labels.narrow(1, labels.size(1) - positions, positions)};
}

/// Scored tokens per sequence, at least 1 so that an empty sequence averages to 0.
at::Tensor scored_tokens(const at::Tensor& targets, std::int64_t ignore_index) {
  return targets.ne(ignore_index).sum(1).clamp_min(1);
}

std::tuple<at::Tensor, at::Tensor> sequence_logps(const at::Tensor& logits,
                                                  const at::Tensor& labels,
                                                  std::int64_t ignore_index,
                                                  bool average_log_prob) {
  const Shifted shifted = shift(logits, labels);
  const at::Tensor targets =
      checked_targets("sequence_logps", "labels", shifted.labels, logits.size(-1), ignore_index,
                      labels.size(1) - shifted.labels.size(1));
  const auto [logps, summary] = forward_rows(shifted.logits, targets, 1.0, ignore_index);
  at::Tensor sums = logps.sum({1}, false, at::kDouble);  // one rounding, at the end
  if (average_log_prob) {
    sums = sums / scored_tokens(targets, ignore_index);
  }
  return {sums.to(logps.scalar_type()), summary};
}

at::Tensor sequence_logps_backward(const at::Tensor& grad, const at::Tensor& logits,
                                   const at::Tensor& labels, const at::Tensor& summary,
                                   std::int64_t ignore_index, bool average_log_prob) {
  const Shifted shifted = shift(logits, labels);
  const at::Tensor targets = shifted.labels.to(at::kLong).contiguous();
  const at::Tensor per_sequence =
      average_log_prob ? grad / scored_tokens(targets, ignore_index) : grad;
  at::Tensor d_logits = at::empty(logits.sizes(), logits.options());
  const std::int64_t positions = predicted_positions(labels);
  d_logits.narrow(1, positions, logits.size(1) - positions).zero_();
  backward_rows(per_sequence.unsqueeze(1).expand({-1, positions}), shifted.logits, targets, summary,
                1.0, ignore_index, d_logits.narrow(1, 0, positions));
  return d_logits;
}

std::tuple<at::Tensor, at::Tensor> meta_outputs(const at::Tensor& logits, c10::SymIntArrayRef shape,
                                                const c10::SymInt& rows) {
  const auto options = logits.options().dtype(accumulation_type(logits));
  return {at::empty_symint(shape, options), at::empty_symint({rows, 3}, options)};
}

std::tuple<at::Tensor, at::Tensor> token_logps_meta(const at::Tensor& logits,
                                                    const at::Tensor& index, double, std::int64_t) {
  return meta_outputs(logits, index.sym_sizes(), index.sym_numel());
}

at::Tensor token_logps_backward_meta(const at::Tensor&, const at::Tensor& logits, const at::Tensor&,
                                     const at::Tensor&, double, std::int64_t) {
  return at::empty_symint(logits.sym_sizes(), logits.options());
}

std::tuple<at::Tensor, at::Tensor> sequence_logps_meta(const at::Tensor& logits,
                                                       const at::Tensor& labels, std::int64_t,
                                                       bool) {
  const c10::SymInt positions = (labels.sym_size(1) - 1).max(0);
  return meta_outputs(logits, {labels.sym_size(0)}, labels.sym_size(0) * positions);
}

at::Tensor sequence_logps_backward_meta(const at::Tensor&, const at::Tensor& logits,
                                        const at::Tensor&, const at::Tensor&, std::int64_t, bool) {
  return at::empty_symint(logits.sym_sizes(), logits.options());
}

}  // namespace

#define SELM_REGISTER(key)                                       \
  TORCH_LIBRARY_IMPL(selm, key, m) {                             \
    m.impl("_token_logps", token_logps);                         \
    m.impl("_token_logps_backward", token_logps_backward);       \
    m.impl("_sequence_logps", sequence_logps);                   \
    m.impl("_sequence_logps_backward", sequence_logps_backward); \
  }
SELM_REGISTER(CPU)
SELM_REGISTER(CUDA)

TORCH_LIBRARY_IMPL(selm, Meta, m) {
  m.impl("_token_logps", token_logps_meta);
  m.impl("_token_logps_backward", token_logps_backward_meta);
  m.impl("_sequence_logps", sequence_logps_meta);
  m.impl("_sequence_logps_backward", sequence_logps_backward_meta);
}

}  // namespace selm::ops
