#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "autocast.hpp"
#include "backend.hpp"
#include "native/head.hpp"
#include "private_ops.hpp"
#include "rows.hpp"
#include "targets.hpp"

// Log-probabilities from hidden states. Rows that carry no loss are dropped before the matrix
// products, and the logits of the rest exist one tile of rows at a time.

namespace selm::ops {
namespace {

std::int64_t default_workspace(const at::Tensor& hidden) {
  return hidden.is_cuda() ? std::int64_t{1} << 30 : std::int64_t{1} << 28;
}

/// The rows that carry loss, in tiles whose logits fit the workspace.
class Tiles {
 public:
  Tiles(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
        std::int64_t ignore_index, std::optional<std::int64_t> workspace_bytes)
      : hidden_(hidden.reshape({labels.numel(), hidden.size(-1)})) {
    const std::int64_t row_bytes =
        weight.size(0) * static_cast<std::int64_t>(c10::elementSize(accumulation_type(hidden)));
    const std::int64_t budget = workspace_bytes.value_or(default_workspace(hidden));
    TORCH_CHECK_VALUE(budget >= row_bytes,
                      "selm::linear_logps: expected 'workspace_bytes' to hold at least one row of ",
                      weight.size(0), " logits (", row_bytes, " bytes), got ", budget);
    tile_rows_ = budget / row_bytes;
    labels_ =
        checked_targets("linear_logps", "labels", labels, weight.size(0), ignore_index).view({-1});
    if (hidden.is_cuda()) {
      cuda_backend::refuse_capture("linear_logps", hidden.device());
    }
    scored_ = labels_.ne(ignore_index).nonzero().squeeze(1);
  }

  struct Tile {
    at::Tensor rows;    ///< (n,) positions among all rows
    at::Tensor hidden;  ///< (n, hidden)
    at::Tensor labels;  ///< (n,)
  };

  template <typename Visit>
  void for_each(Visit visit) const {
    for (std::int64_t first = 0; first < scored_.numel(); first += tile_rows_) {
      const at::Tensor rows =
          scored_.narrow(0, first, std::min(tile_rows_, scored_.numel() - first));
      visit(Tile{rows, hidden_.index_select(0, rows), labels_.index_select(0, rows)});
    }
  }

  std::int64_t all_rows() const { return labels_.numel(); }

 private:
  at::Tensor hidden_;
  at::Tensor labels_;
  at::Tensor scored_;
  std::int64_t tile_rows_;
};

template <typename Acc>
LogitTransform<Acc> make_transform(c10::ArrayRef<double> transform) {
  return LogitTransform<Acc>::make(transform[0], transform[1], transform[2]);
}

/// Turns a tile of logits into d logp / d logits times `grad` (ones if undefined), in place.
void differentiate(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& summary,
                   const at::Tensor& grad, c10::ArrayRef<double> transform,
                   std::int64_t ignore_index) {
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "selm::linear_logps_backward", [&] {
    backend::token_logps_backward<scalar_t>(
        logits.device(), row_view(logits.const_data_ptr<scalar_t>(), logits),
        labels.const_data_ptr<std::int64_t>(), labels.numel(), logits.size(1), ignore_index,
        make_transform<scalar_t>(transform), summary.const_data_ptr<scalar_t>(),
        grad.defined() ? grad.const_data_ptr<scalar_t>() : nullptr,
        row_view(logits.mutable_data_ptr<scalar_t>(), logits));
  });
}

/// (rows, 1): no d logp / d logits times `grad` (ones if undefined) is larger. That of the target
/// is the sum of the others, and a softcap only shrinks them. Undefined where the head does not
/// ask.
at::Tensor derivative_bound(const Head& head, const at::Tensor& summary, const at::Tensor& grad,
                            c10::ArrayRef<double> transform) {
  if (!head.scales_gradients()) {
    return {};
  }
  const at::Tensor unit = summary.narrow(1, 2, 1) * (transform[1] / transform[0]);
  return grad.defined() ? unit * grad.abs().unsqueeze(1) : unit;
}

/// The four optional outputs, for `count` rows. Those not asked for are empty.
struct Statistics {
  std::array<at::Tensor, 4> values;

  Statistics(const std::array<bool, 4>& asked, std::int64_t count,
             const at::TensorOptions& options) {
    for (std::size_t k = 0; k < values.size(); ++k) {
      values[k] = at::zeros({asked[k] ? count : 0}, options.dtype(k == 3 ? at::kBool : at::kFloat));
    }
  }

  RowStatisticsOutputs pointers(const std::array<bool, 4>& asked) const {
    const auto number = [&](std::size_t k) {
      return asked[k] ? values[k].mutable_data_ptr<float>() : nullptr;
    };
    return {number(0), number(1), number(2),
            asked[3] ? values[3].mutable_data_ptr<bool>() : nullptr};
  }

  void scatter(const std::array<bool, 4>& asked, const at::Tensor& rows, const Statistics& tile) {
    for (std::size_t k = 0; k < values.size(); ++k) {
      if (asked[k]) {
        values[k].index_copy_(0, rows, tile.values[k]);
      }
    }
  }
};

/// Sizes that an output of the forward operator has, for real and meta tensors alike.
at::TensorOptions result_options(const at::Tensor& hidden) {
  return hidden.options().dtype(accumulation_type(hidden)).requires_grad(false);
}

std::vector<at::Tensor> linear_logps(const at::Tensor& hidden, const at::Tensor& weight,
                                     const at::Tensor& labels, const OptionalTensor& bias,
                                     c10::ArrayRef<double> transform, std::int64_t ignore_index,
                                     std::array<bool, 4> outputs,
                                     std::optional<std::int64_t> workspace_bytes,
                                     bool hidden_grad) {
  const WithoutAutocast exact;
  const Tiles tiles(hidden, weight, labels, ignore_index, workspace_bytes);
  const Head head(weight, bias);
  const at::TensorOptions options = result_options(hidden);
  const std::int64_t all = tiles.all_rows();
  at::Tensor logps = at::zeros({all}, options);
  at::Tensor summary = at::zeros({all, 3}, options);
  at::Tensor d_hidden = at::zeros({hidden_grad ? all : 0, hidden.size(-1)}, options);
  Statistics statistics(outputs, all, options);
  tiles.for_each([&](const Tiles::Tile& tile) {
    const at::Tensor logits = head.logits(tile.hidden);
    const std::int64_t count = tile.rows.numel();
    at::Tensor tile_logps = at::empty({count}, options);
    at::Tensor tile_summary = at::empty({count, 3}, options);
    const Statistics tile_statistics(outputs, count, options);
    AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "selm::linear_logps", [&] {
      backend::token_logps<scalar_t>(
          logits.device(), row_view(logits.const_data_ptr<scalar_t>(), logits),
          tile.labels.const_data_ptr<std::int64_t>(), count, logits.size(1), ignore_index,
          make_transform<scalar_t>(transform), tile_logps.mutable_data_ptr<scalar_t>(),
          tile_summary.mutable_data_ptr<scalar_t>(), tile_statistics.pointers(outputs));
    });
    logps.index_copy_(0, tile.rows, tile_logps);
    summary.index_copy_(0, tile.rows, tile_summary);
    statistics.scatter(outputs, tile.rows, tile_statistics);
    if (hidden_grad) {
      differentiate(logits, tile.labels, tile_summary, {}, transform, ignore_index);
      const at::Tensor bound = derivative_bound(head, tile_summary, {}, transform);
      d_hidden.index_copy_(0, tile.rows, head.d_hidden(logits, bound));
    }
  });
  std::vector<at::Tensor> out{logps.view(labels.sizes()), summary, d_hidden};
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    out.push_back(outputs[k] ? statistics.values[k].view(labels.sizes()) : statistics.values[k]);
  }
  return out;
}

using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

/// Logits are computed a second time, tile by tile, and turned into their gradient in place.
ThreeTensors linear_logps_backward(const at::Tensor& grad, const at::Tensor& hidden,
                                   const at::Tensor& weight, const at::Tensor& labels,
                                   const OptionalTensor& bias, const at::Tensor& summary,
                                   c10::ArrayRef<double> transform, std::int64_t ignore_index,
                                   std::optional<std::int64_t> workspace_bytes,
                                   std::array<bool, 3> needed) {
  const WithoutAutocast exact;
  const Tiles tiles(hidden, weight, labels, ignore_index, workspace_bytes);
  const Head head(weight, bias);
  const at::TensorOptions options = result_options(hidden);
  const at::Tensor upstream = grad.reshape({-1});
  at::Tensor d_hidden =
      at::zeros({needed[0] ? tiles.all_rows() : 0, hidden.size(-1)}, hidden.options());
  at::Tensor d_weight = at::zeros({needed[1] ? weight.size(0) : 0, weight.size(1)}, options);
  at::Tensor d_bias = at::zeros({needed[2] ? weight.size(0) : 0}, options);
  tiles.for_each([&](const Tiles::Tile& tile) {
    const at::Tensor logits = head.logits(tile.hidden);
    const at::Tensor tile_summary = summary.index_select(0, tile.rows);
    const at::Tensor tile_grad = upstream.index_select(0, tile.rows);
    differentiate(logits, tile.labels, tile_summary, tile_grad, transform, ignore_index);
    const at::Tensor bound = derivative_bound(head, tile_summary, tile_grad, transform);
    if (needed[0]) {
      d_hidden.index_copy_(0, tile.rows, head.d_hidden(logits, bound).to(d_hidden.scalar_type()));
    }
    if (needed[1]) {
      head.add_d_weight(logits, bound, tile.hidden, d_weight);
    }
    if (needed[2]) {
      d_bias.add_(logits.sum(0));
    }
  });
  return {needed[0] ? d_hidden.view(hidden.sizes()) : d_hidden, d_weight.to(weight.scalar_type()),
          d_bias.to(weight.scalar_type())};
}

std::vector<at::Tensor> linear_logps_meta(const at::Tensor& hidden, const at::Tensor&,
                                          const at::Tensor& labels, const OptionalTensor&,
                                          c10::ArrayRef<double>, std::int64_t,
                                          std::array<bool, 4> outputs, std::optional<std::int64_t>,
                                          bool hidden_grad) {
  const at::TensorOptions options = result_options(hidden);
  const c10::SymInt all = labels.sym_numel();
  std::vector<at::Tensor> out{
      at::empty_symint(labels.sym_sizes(), options), at::empty_symint({all, 3}, options),
      at::empty_symint({hidden_grad ? all : c10::SymInt(0), hidden.sym_size(-1)}, options)};
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    const auto type = options.dtype(k == 3 ? at::kBool : at::kFloat);
    out.push_back(outputs[k] ? at::empty_symint(labels.sym_sizes(), type) : at::empty({0}, type));
  }
  return out;
}

ThreeTensors linear_logps_backward_meta(const at::Tensor&, const at::Tensor& hidden,
                                        const at::Tensor& weight, const at::Tensor&,
                                        const OptionalTensor&, const at::Tensor&,
                                        c10::ArrayRef<double>, std::int64_t,
                                        std::optional<std::int64_t>, std::array<bool, 3> needed) {
  const c10::SymInt none = 0;
  return {needed[0] ? at::empty_symint(hidden.sym_sizes(), hidden.options())
                    : at::empty_symint({none, hidden.sym_size(-1)}, hidden.options()),
          at::empty_symint({needed[1] ? weight.sym_size(0) : none, weight.sym_size(1)},
                           weight.options()),
          at::empty_symint({needed[2] ? weight.sym_size(0) : none}, weight.options())};
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
