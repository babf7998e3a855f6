#include <ATen/Dispatch.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "backend.hpp"
#include "native/head.hpp"
#include "native/linear_head.hpp"
#include "rows.hpp"

// linear_logps by tiles of rows, each with its whole vocabulary.

namespace selm::ops {
namespace {

/// Calls `visit(first row, number of rows)` for tiles whose logits fit the workspace.
template <typename Visit>
void for_each_tile(const ScoredRows& rows, Visit visit) {
  const auto bytes = static_cast<std::int64_t>(c10::elementSize(accumulation_type(rows.hidden)));
  const std::int64_t step =
      std::max<std::int64_t>(rows.workspace_bytes / (rows.vocab() * bytes), 1);
  for (std::int64_t first = 0; first < rows.count(); first += step) {
    visit(first, std::min(step, rows.count() - first));
  }
}

/// Turns a tile of logits into d logp / d logits times `grad` (ones if undefined), in place.
void differentiate(const ScoredRows& rows, const at::Tensor& logits, const at::Tensor& labels,
                   const at::Tensor& summary, const at::Tensor& grad) {
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "selm::linear_logps_backward", [&] {
    backend::token_logps_backward<scalar_t>(
        logits.device(), row_view(logits.const_data_ptr<scalar_t>(), logits),
        labels.const_data_ptr<std::int64_t>(), labels.numel(), logits.size(1), rows.ignore_index,
        rows.logit_transform<scalar_t>(), summary.const_data_ptr<scalar_t>(),
        grad.defined() ? grad.const_data_ptr<scalar_t>() : nullptr,
        row_view(logits.mutable_data_ptr<scalar_t>(), logits));
  });
}

/// d entropy / d logits times `grad`: -p (log p + entropy) dz/ds, of raw logits s.
at::Tensor entropy_gradient(const ScoredRows& rows, const at::Tensor& s, const at::Tensor& grad) {
  const auto [scale, inner, outer] = rows.logit_transform<double>();
  const bool capped = inner != 0.0;
  const at::Tensor tanh = capped ? at::tanh(s * inner) : at::Tensor();
  const at::Tensor log_prob = (capped ? tanh * outer : s * scale).log_softmax(1);
  const at::Tensor prob = log_prob.exp();
  // p log p of a token without probability is 0.
  const at::Tensor weighted = (prob * log_prob).masked_fill_(prob.eq(0.0), 0.0);
  at::Tensor gradient = weighted.sub(prob * weighted.sum(1, true)).mul_(grad.neg().unsqueeze(1));
  return capped ? gradient.mul_((1.0 - tanh * tanh).mul_(scale)) : gradient.mul_(scale);
}

/// (rows, 1): no d logp / d logits times `grad` (ones if undefined) is larger. That of the target
/// is the sum of the others, and a softcap only shrinks them. Undefined where the head does not
/// ask.
at::Tensor derivative_bound(const ScoredRows& rows, const Head& head, const at::Tensor& summary,
                            const at::Tensor& grad) {
  if (!head.scales_gradients()) {
    return {};
  }
  const at::Tensor unit = summary.narrow(1, 2, 1) * (rows.transform[1] / rows.transform[0]);
  return grad.defined() ? unit * grad.abs().unsqueeze(1) : unit;
}

}  // namespace

at::Tensor forward_by_tiles(const ScoredRows& rows, ForBackward wanted, const HeadOutputs& out) {
  const Head head(rows.weight, rows.bias);
  for_each_tile(rows, [&](std::int64_t first, std::int64_t count) {
    const at::Tensor logits = head.logits(rows.hidden.narrow(0, first, count));
    const at::Tensor labels = rows.labels.narrow(0, first, count);
    const at::Tensor summary = out.summary.narrow(0, first, count);
    AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "selm::linear_logps", [&] {
      backend::token_logps<scalar_t>(
          logits.device(), row_view(logits.const_data_ptr<scalar_t>(), logits),
          labels.const_data_ptr<std::int64_t>(), count, logits.size(1), rows.ignore_index,
          rows.logit_transform<scalar_t>(),
          out.logps.narrow(0, first, count).mutable_data_ptr<scalar_t>(),
          summary.mutable_data_ptr<scalar_t>(), out.statistics_pointers(first));
    });
    if (wanted == ForBackward::hidden_grad) {
      differentiate(rows, logits, labels, summary, {});
      out.hidden_grad.narrow(0, first, count)
          .copy_(head.d_hidden(logits, derivative_bound(rows, head, summary, {})));
    }
  });
  return at::empty({wanted == ForBackward::logit_grads ? 1 : 0},
                   rows.hidden.options().dtype(at::kByte));
}

void backward_by_tiles(const ScoredRows& rows, const HeadUpstreamGradients& upstream,
                       HeadGradients& out) {
  const Head head(rows.weight, rows.bias);
  const bool narrow =
      out.weight.defined() && out.weight.scalar_type() != upstream.summary.scalar_type();
  at::Tensor weight_sum =
      narrow ? at::zeros(out.weight.sizes(), upstream.summary.options()) : out.weight;
  if (out.weight.defined() && !narrow) {
    weight_sum.zero_();
  }
  for_each_tile(rows, [&](std::int64_t first, std::int64_t count) {
    const at::Tensor hidden = rows.hidden.narrow(0, first, count);
    const at::Tensor logits = head.logits(hidden);
    const at::Tensor summary = upstream.summary.narrow(0, first, count);
    const at::Tensor grad = upstream.logps.narrow(0, first, count);
    at::Tensor bound = derivative_bound(rows, head, summary, grad);
    at::Tensor by_entropy;
    if (upstream.entropy.defined()) {
      by_entropy = entropy_gradient(
          rows, logits, upstream.entropy.narrow(0, first, count).to(logits.scalar_type()));
    }
    differentiate(rows, logits, rows.labels.narrow(0, first, count), summary, grad);
    if (by_entropy.defined()) {
      logits.add_(by_entropy);
      bound = bound.defined() ? bound + by_entropy.abs().amax(1, true) : bound;
    }
    if (out.hidden.defined()) {
      out.hidden.narrow(0, first, count).copy_(head.d_hidden(logits, bound));
    }
    if (out.weight.defined()) {
      head.add_d_weight(logits, bound, hidden, weight_sum);
    }
    if (out.bias.defined()) {
      out.bias.add_(logits.sum(0));
    }
  });
  if (narrow) {
    out.weight.copy_(weight_sum);
  }
}

}  // namespace selm::ops
