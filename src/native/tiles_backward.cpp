#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "native/backward_by_blocks.hpp"
#include "native/head.hpp"
#include "native/hidden_away.hpp"
#include "native/linear_head.hpp"
#include "native/tile_plan.hpp"
#include "native/tile_rows.hpp"

// Backward pass of linear_logps on CUDA and in float64, by blocks of the vocabulary.

namespace selm::ops {
namespace {

/// log p of the tokens of a block from their raw logits s, (rows, width), and from the rows' sums
/// in `summary`, (rows, 3).
at::Tensor log_probs(const ScoredRows& rows, const at::Tensor& s, const at::Tensor& summary) {
  const auto [scale, inner, outer] = rows.logit_transform<double>();
  const at::Tensor max = summary.narrow(1, 0, 1), log_sum = summary.narrow(1, 1, 1);
  if (inner == 0.0) {
    return s.sub(max).mul_(scale).sub_(log_sum);
  }
  constexpr double masked = -std::numeric_limits<double>::infinity();
  const at::Tensor z = (s * inner).tanh_().sub_(at::tanh(max * inner)).mul_(outer);
  return z.sub_(log_sum).masked_fill_(s.eq(masked), masked);
}

/// p (log p + constant), where the limit of a token without probability is 0; `constant` is (rows,
/// 1).
at::Tensor weighted_log_probs(const at::Tensor& log_prob, const at::Tensor& constant) {
  const at::Tensor prob = log_prob.exp();
  return (log_prob + constant).mul_(prob).masked_fill_(prob.eq(0.0), 0.0);
}

/// d entropy / d s times `grad`: -p (log p + entropy) dz/ds, of a block's raw logits s. Per row:
/// `summary`, (rows, 3), and `entropy` and `grad`, (rows, 1).
at::Tensor entropy_gradient(const ScoredRows& rows, const at::Tensor& s, const at::Tensor& summary,
                            const at::Tensor& entropy, const at::Tensor& grad) {
  const auto [scale, inner, outer] = rows.logit_transform<double>();
  at::Tensor gradient =
      weighted_log_probs(log_probs(rows, s, summary), entropy).mul_(grad * -scale);
  return inner == 0.0 ? gradient : gradient.mul_((s * inner).tanh_().square_().neg_().add_(1.0));
}

/// What comes from upstream: a factor for each row, and numbers that gradients of logits are made
/// with. These are then bounded by `scale` times the slope. All are (rows, 1) in the accumulation
/// type.
struct Upstream {
  at::Tensor factor;
  at::Tensor logps;
  at::Tensor entropy;  ///< undefined: zeros

  static Upstream make(const HeadUpstreamGradients& given, const at::Tensor& entropy,
                       double scale) {
    const at::Tensor logps = given.logps.unsqueeze(1);
    if (!given.entropy.defined()) {
      return {logps / scale, at::full(logps.sizes(), scale, logps.options()), {}};
    }
    const at::Tensor grad = given.entropy.to(logps.scalar_type()).unsqueeze(1);
    const at::Tensor bound =  // no p |log p + entropy| exceeds 1 + entropy
        (logps.abs() + grad.abs() * (entropy + 1.0)).clamp_min_(0x1p-100);  // its inverse is finite
    return {bound / scale, logps / bound * scale, grad / bound * scale};
  }
};

/// Gradients of the logits of a block in the type of operands: those of the first rows as the
/// forward pass kept them, the others computed anew.
class TileGradients {
 public:
  /// `kept`: (first rows, vocab). Blocks are at most `width` wide.
  TileGradients(const ScoredRows& rows, const Head& head, const at::Tensor& summary,
                const Upstream& upstream, const at::Tensor& entropy, const at::Tensor& kept,
                std::int64_t width)
      : rows_(rows),
        head_(head),
        summary_(summary),
        upstream_(upstream),
        entropy_(entropy),
        kept_(kept),
        width_(width),
        scratch_(at::empty({computed(), width}, summary.options())) {
    if (computed() > 0) {
      gradients_ = at::empty({rows.count(), width}, kept.options());
    }
  }

  const at::Tensor& factors() const { return upstream_.factor; }

  at::Tensor operator()(std::int64_t first) const {
    const std::int64_t width = std::min(width_, rows_.vocab() - first);
    at::Tensor stored = kept_.narrow(1, first, width);
    if (computed() == 0) {
      return stored;
    }
    at::Tensor all = gradients_.narrow(1, 0, width);
    all.narrow(0, 0, begin()).copy_(stored);
    compute(first, all.narrow(0, begin(), computed()));
    return all;
  }

 private:
  /// First row that is computed, and how many are.
  std::int64_t begin() const { return kept_.size(0); }
  std::int64_t computed() const { return rows_.count() - begin(); }

  void compute(std::int64_t first, const at::Tensor& out) const {
    at::Tensor logits = scratch_.narrow(1, 0, out.size(1));
    head_.logits(rows_.hidden.slice(0, begin()), first, logits);
    if (!upstream_.entropy.defined()) {
      differentiate_block(rows_, begin(), first, logits, summary_, upstream_.logps, out);
      return;
    }
    const at::Tensor of_entropy =  // of all rows: the first one is 0
        entropy_gradient(rows_, logits, summary_, entropy_, upstream_.entropy);
    differentiate_block(rows_, 0, first, logits, summary_, upstream_.logps, logits);
    out.copy_(logits.add_(of_entropy));
  }

  const ScoredRows& rows_;
  const Head& head_;
  at::Tensor summary_;
  Upstream upstream_;
  at::Tensor entropy_;
  at::Tensor kept_;
  std::int64_t width_;
  at::Tensor scratch_;
  at::Tensor gradients_;
};

/// (rows, 1). The output is float32; for float64 its digits do not suffice, and it is summed anew.
at::Tensor exact_entropy(const ScoredRows& rows, const Head& head,
                         const HeadUpstreamGradients& upstream, std::int64_t width) {
  if (head.type() != at::kDouble) {
    return upstream.entropy_values.unsqueeze(1);
  }
  at::Tensor sum = at::zeros({rows.count(), 1}, upstream.summary.options());
  const at::Tensor scratch = at::empty({rows.count(), width}, upstream.summary.options());
  for (std::int64_t first = 0; first < rows.vocab(); first += width) {
    at::Tensor logits = scratch.narrow(1, 0, std::min(width, rows.vocab() - first));
    head.logits(rows.hidden, first, logits);
    const at::Tensor log_prob = log_probs(rows, logits, upstream.summary);
    sum.sub_(weighted_log_probs(log_prob, at::zeros({1, 1}, sum.options())).sum(1, true));
  }
  return sum;
}

/// Products with gradients of logits that lack a factor per row: it multiplies hidden states and
/// results instead.
class ScaledHead {
 public:
  /// `factors`: (rows, 1).
  ScaledHead(const Head& head, const at::Tensor& hidden, const at::Tensor& factors,
             bool differentiates_weight)
      : head_(head),
        factors_(factors),
        hidden_(differentiates_weight ? head.narrowed(hidden * factors) : Narrowed{}) {}

  /// Without the factors: they come last.
  void hidden_grad(const at::Tensor& gradients, std::int64_t first, at::Tensor& out) const {
    head_.add_hidden_grad(gradients, first, out);
  }
  void weight_grad(const at::Tensor& gradients, std::int64_t first, const at::Tensor& out) const {
    head_.weight_grad(gradients, hidden_, first, out);
  }
  void bias_grad(const at::Tensor& gradients, std::int64_t first, const at::Tensor& out) const {
    head_.bias_grad(gradients, factors_, first, out);
  }

 private:
  const Head& head_;
  at::Tensor factors_;
  Narrowed hidden_;
};

}  // namespace

void backward_by_tiles(const ScoredRows& rows, const HeadUpstreamGradients& upstream,
                       HeadGradients& out) {
  const bool with_entropy = upstream.entropy.defined();
  const Head head(rows);
  const TilePlan plan = TilePlan::make(rows);
  const std::int64_t width = plan.block_width(rows, with_entropy ? 4 : 1);
  const at::Tensor entropy =
      with_entropy ? exact_entropy(rows, head, upstream, width) : at::Tensor();
  const at::Tensor kept = HiddenAway::find(upstream.kept, with_entropy ? 0 : plan.kept, plan.stride,
                                           rows.hidden.options());
  TileGradients gradients(rows, head, upstream.summary,
                          Upstream::make(upstream, entropy, head.gradient_scale()), entropy,
                          kept.narrow(1, 0, rows.vocab()), width);
  if (out.needs_hidden) {
    out.hidden = at::zeros(rows.hidden.sizes(), upstream.summary.options());
  }
  ScaledHead scaled(head, rows.hidden, gradients.factors(), out.weight.defined());
  backward_by_blocks(rows.vocab(), scaled, gradients, out);
  if (out.needs_hidden) {
    out.hidden.mul_(gradients.factors());
  }
}

}  // namespace selm::ops
