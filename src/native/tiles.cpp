#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "native/head.hpp"
#include "native/hidden_away.hpp"
#include "native/linear_head.hpp"
#include "native/tile_plan.hpp"
#include "native/tile_rows.hpp"

// Forward pass of linear_logps by tiles of rows, each with its whole vocabulary.

namespace selm::ops {

at::Tensor forward_by_tiles(const ScoredRows& rows, ForBackward wanted, const HeadOutputs& out) {
  const Head head(rows);
  const TilePlan plan = TilePlan::make(rows);
  const at::TensorOptions narrow = rows.hidden.options();
  const std::int64_t vocab = rows.vocab();
  const bool differentiates = wanted == ForBackward::hidden_grad;
  const std::int64_t count = wanted == ForBackward::logit_grads ? plan.kept : 0;
  const auto bytes = static_cast<std::int64_t>(rows.weight.itemsize());
  at::Tensor kept = HiddenAway::make(count * plan.stride * bytes, narrow);
  const at::Tensor kept_rows =
      HiddenAway::find(kept, count, plan.stride, narrow).narrow(1, 0, vocab);
  const at::Tensor tile = at::empty({plan.tile, plan.stride}, narrow.dtype(out.logps.scalar_type()))
                              .narrow(1, 0, vocab);
  const at::Tensor gradients =
      at::empty({differentiates ? plan.tile : 0, plan.stride}, narrow).narrow(1, 0, vocab);
  for (std::int64_t first = 0; first < rows.count(); first += plan.tile) {
    const std::int64_t end = std::min(first + plan.tile, rows.count());
    at::Tensor logits = tile.narrow(0, 0, end - first);
    head.logits(rows.hidden.slice(0, first, end), 0, logits);
    const at::Tensor d_logits =
        differentiates ? gradients.narrow(0, 0, end - first) : kept_rows.slice(0, first, end);
    const std::int64_t differentiated = d_logits.size(0);
    score_rows(rows, first, logits.narrow(0, 0, differentiated), head.gradient_scale(), out,
               d_logits);
    score_rows(rows, first + differentiated, logits.slice(0, differentiated), head.gradient_scale(),
               out, d_logits.narrow(0, 0, 0));
    if (differentiates) {
      at::Tensor hidden_grad = out.hidden_grad.slice(0, first, end).zero_();
      head.add_hidden_grad(d_logits, 0, hidden_grad);
      hidden_grad.div_(head.gradient_scale());
    }
  }
  return kept;
}

}  // namespace selm::ops
