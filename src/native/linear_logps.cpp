#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <utility>
#include <vector>

#include "autocast.hpp"
#include "cuda/backend.hpp"
#include "native/hidden_away.hpp"
#include "native/linear_head.hpp"
#include "private_ops.hpp"
#include "rows.hpp"
#include "targets.hpp"

// Log-probabilities from hidden states. Rows that carry no loss are dropped before the matrix
// products; the others are computed by groups of the vocabulary or by tiles of rows.

namespace selm::ops {
namespace {

/// Rows that carry loss, and where they stand among all.
struct Scored {
  ScoredRows rows;
  at::Tensor positions;
  std::int64_t all;

  static Scored make(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                     const OptionalTensor& bias, c10::ArrayRef<double> transform,
                     std::int64_t ignore_index, std::optional<std::int64_t> workspace_bytes) {
    constexpr std::int64_t default_workspace = std::int64_t{1} << 30;
    const std::int64_t budget = workspace_bytes.value_or(default_workspace);
    const std::int64_t row_bytes =
        weight.size(0) * static_cast<std::int64_t>(c10::elementSize(accumulation_type(hidden)));
    TORCH_CHECK_VALUE(budget >= row_bytes,
                      "selm::linear_logps: expected 'workspace_bytes' to hold at least one row of ",
                      weight.size(0), " logits (", row_bytes, " bytes), got ", budget);
    const at::Tensor targets =
        checked_targets("linear_logps", "labels", labels, weight.size(0), ignore_index).view({-1});
    if (hidden.is_cuda()) {
      cuda_backend::refuse_capture("linear_logps", hidden.device());
    }
    Scored scored;
    scored.positions = targets.ne(ignore_index).nonzero().squeeze(1);
    scored.all = labels.numel();
    scored.rows = {scored.gather(hidden.reshape({scored.all, hidden.size(-1)})),
                   scored.gather(targets),
                   weight,
                   bias,
                   {transform[0], transform[1], transform[2]},
                   ignore_index,
                   std::max(budget, 2 * row_bytes)};
    return scored;
  }

  /// `values` in their places among all rows, the others 0.
  at::Tensor spread(const at::Tensor& values) const {
    if (are_all()) {
      return values.contiguous();
    }
    std::vector<std::int64_t> sizes = values.sizes().vec();
    sizes[0] = all;
    return at::zeros(sizes, values.options()).index_copy_(0, positions, values);
  }

  /// Those of the rows that carry loss, contiguous; no copy where none is left out.
  at::Tensor gather(const at::Tensor& values) const {
    return are_all() ? values.contiguous() : values.index_select(0, positions);
  }

 private:
  bool are_all() const { return positions.numel() == all; }
};

bool goes_by_groups(const at::Tensor& hidden) {
  return hidden.is_cpu() && accumulation_type(hidden) == at::kFloat;
}

/// The outputs' type.
at::TensorOptions result_options(const at::Tensor& hidden) {
  return hidden.options().dtype(accumulation_type(hidden)).requires_grad(false);
}

std::vector<at::Tensor> linear_logps(const at::Tensor& hidden, const at::Tensor& weight,
                                     const at::Tensor& labels, const OptionalTensor& bias,
                                     c10::ArrayRef<double> transform, std::int64_t ignore_index,
                                     std::array<bool, 4> outputs,
                                     std::optional<std::int64_t> workspace_bytes,
                                     std::int64_t for_backward, bool) {
  const WithoutAutocast exact;
  const Scored scored =
      Scored::make(hidden, weight, labels, bias, transform, ignore_index, workspace_bytes);
  const auto wanted = static_cast<ForBackward>(for_backward);
  const std::int64_t count = scored.rows.count();
  const at::TensorOptions options = result_options(hidden);
  HeadOutputs out{at::empty({count}, options), at::empty({count, 3}, options), {}, {}};
  out.hidden_grad =
      at::empty({wanted == ForBackward::hidden_grad ? count : 0, hidden.size(-1)}, options);
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    if (outputs[k]) {
      out.statistics[k] = at::empty({count}, options.dtype(k == 3 ? at::kBool : at::kFloat));
    }
  }
  at::Tensor kept = HiddenAway::make(0, options);
  if (count > 0) {
    kept = goes_by_groups(hidden) ? forward_by_groups(scored.rows, wanted, out)
                                  : forward_by_tiles(scored.rows, wanted, out);
  }
  std::vector<at::Tensor> results{
      scored.spread(out.logps).view(labels.sizes()), scored.spread(out.summary),
      wanted == ForBackward::hidden_grad ? scored.spread(out.hidden_grad) : out.hidden_grad,
      wanted == ForBackward::logit_grads ? kept : kept.narrow(0, 0, 0)};
  for (const at::Tensor& statistic : out.statistics) {
    results.push_back(statistic.defined() ? scored.spread(statistic).view(labels.sizes())
                                          : at::empty({0}, options.dtype(at::kFloat)));
  }
  return results;
}

using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

ThreeTensors linear_logps_backward(const OptionalTensor& grad, const OptionalTensor& entropy_grad,
                                   const at::Tensor& hidden, const at::Tensor& weight,
                                   const at::Tensor& labels, const OptionalTensor& bias,
                                   const at::Tensor& summary, const at::Tensor& entropy,
                                   const at::Tensor& kept, c10::ArrayRef<double> transform,
                                   std::int64_t ignore_index,
                                   std::optional<std::int64_t> workspace_bytes,
                                   std::array<bool, 3> needed) {
  const WithoutAutocast exact;
  Scored scored =
      Scored::make(hidden, weight, labels, bias, transform, ignore_index, workspace_bytes);
  const std::int64_t count = scored.rows.count();
  const at::TensorOptions options = result_options(hidden);
  HeadUpstreamGradients upstream;
  upstream.logps = grad ? scored.gather(grad->reshape({-1})) : at::zeros({count}, options);
  if (entropy_grad) {
    upstream.entropy = scored.gather(entropy_grad->reshape({-1}));
    upstream.entropy_values = scored.gather(entropy.reshape({-1}));
  }
  upstream.summary = scored.gather(summary);
  upstream.kept = kept;
  HeadGradients out{needed[0], {}, {}, {}};
  if (needed[1]) {
    out.weight =
        at::empty(weight.sizes(), weight.options().memory_format(at::MemoryFormat::Contiguous));
  }
  if (needed[2]) {
    out.bias = at::zeros({weight.size(0)}, options);
  }
  if (count == 0) {
    out.hidden = at::empty({0, hidden.size(-1)}, hidden.options());
    if (needed[1]) {
      out.weight.zero_();
    }
  } else if (goes_by_groups(hidden)) {
    backward_by_groups(std::move(scored.rows), upstream, out);
  } else {
    backward_by_tiles(scored.rows, upstream, out);
  }
  const auto none = [&] { return at::empty({0}, weight.options()); };
  return {
      needed[0] ? scored.spread(out.hidden.to(hidden.scalar_type())).view(hidden.sizes()) : none(),
      needed[1] ? out.weight : none(), needed[2] ? out.bias.to(weight.scalar_type()) : none()};
}

std::vector<at::Tensor> linear_logps_meta(const at::Tensor& hidden, const at::Tensor&,
                                          const at::Tensor& labels, const OptionalTensor&,
                                          c10::ArrayRef<double>, std::int64_t,
                                          std::array<bool, 4> outputs, std::optional<std::int64_t>,
                                          std::int64_t for_backward, bool) {
  const at::TensorOptions options = result_options(hidden);
  const auto wanted = static_cast<ForBackward>(for_backward);
  const c10::SymInt all = labels.sym_numel();
  std::vector<at::Tensor> out{
      at::empty_symint(labels.sym_sizes(), options), at::empty_symint({all, 3}, options),
      at::empty_symint(
          {wanted == ForBackward::hidden_grad ? all : c10::SymInt(0), hidden.sym_size(-1)},
          options),
      at::empty({wanted == ForBackward::logit_grads ? 1 : 0}, options.dtype(at::kByte))};
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    const auto type = options.dtype(k == 3 ? at::kBool : at::kFloat);
    out.push_back(outputs[k] ? at::empty_symint(labels.sym_sizes(), type)
                             : at::empty({0}, options.dtype(at::kFloat)));
  }
  return out;
}

ThreeTensors linear_logps_backward_meta(const OptionalTensor&, const OptionalTensor&,
                                        const at::Tensor& hidden, const at::Tensor& weight,
                                        const at::Tensor&, const OptionalTensor&, const at::Tensor&,
                                        const at::Tensor&, const at::Tensor&, c10::ArrayRef<double>,
                                        std::int64_t, std::optional<std::int64_t>,
                                        std::array<bool, 3> needed) {
  const auto none = [&] { return at::empty({0}, weight.options()); };
  return {needed[0] ? at::empty_symint(hidden.sym_sizes(), hidden.options()) : none(),
          needed[1] ? at::empty_symint(weight.sym_sizes(), weight.options()) : none(),
          needed[2] ? at::empty_symint({weight.sym_size(0)}, weight.options()) : none()};
}

}  // namespace

#define SELM_REGISTER(key)                                   \
  TORCH_LIBRARY_IMPL(selm, key, m) {                         \
    m.impl("_linear_logps", linear_logps);                   \
    m.impl("_linear_logps_backward", linear_logps_backward); \
  }
SELM_REGISTER(CPU)
SELM_REGISTER(CUDA)

TORCH_LIBRARY_IMPL(selm, Meta, m) {
  m.impl("_linear_logps", linear_logps_meta);
  m.impl("_linear_logps_backward", linear_logps_backward_meta);
}

}  // namespace selm::ops
