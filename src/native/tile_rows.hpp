#pragma once

#include <ATen/core/Tensor.h>

#include "backend.hpp"
#include "cpu/parallel.hpp"
#include "native/linear_head.hpp"
#include "rows.hpp"
#include "selm/cuda/token_rows.hpp"

/// @file
/// The row passes of linear_logps on CUDA and in float64. On the CPU one thread takes a row.

namespace selm::ops {

/// A block of one thread.
struct OneThread {
  cuda::RowThread thread() const { return {0, 1}; }

  template <typename Value, typename Merge>
  Value reduce(const Value& value, const Merge&) const {
    return value;
  }
};

/// Calls `visit(row)` for each of `count` rows of `width` values, in parallel.
template <typename Visit>
void for_each_row(std::int64_t count, std::int64_t width, Visit visit) {
  at::parallel_for(0, count, cpu::grain(width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      visit(row);
    }
  });
}

/// Calls `visit(Acc(), Gradient())` for the type of gradients.
template <typename Visit>
void dispatch_gradient(at::ScalarType type, Visit visit) {
  switch (type) {
    case at::kDouble:
      return visit(double(), double());
    case at::kHalf:
      return visit(float(), at::Half());
    case at::kBFloat16:
      return visit(float(), at::BFloat16());
    default:
      return visit(float(), float());
  }
}

/// Scores rows from `first` on, whose logits are (count, vocab), and writes d logp / d logits times
/// `scale` to `d_logits`, (count, vocab) of the operands' type or without rows: not wanted.
inline void score_rows(const ScoredRows& rows, std::int64_t first, const at::Tensor& logits,
                       double scale, const HeadOutputs& out, const at::Tensor& d_logits) {
  const std::int64_t count = logits.size(0), vocab = logits.size(1);
  dispatch_gradient(d_logits.scalar_type(), [&](auto acc, auto gradient) {
    using Acc = decltype(acc);
    using Gradient = decltype(gradient);
    const RowView<const Acc> s = row_view(logits.const_data_ptr<Acc>(), logits);
    Gradient* d = d_logits.size(0) == 0 ? nullptr : d_logits.mutable_data_ptr<Gradient>();
    const RowView<Gradient> d_rows = row_view(d, d_logits);
    const std::int64_t* targets = rows.labels.const_data_ptr<std::int64_t>() + first;
    const auto transform = rows.logit_transform<Acc>();
    Acc* logps = out.logps.mutable_data_ptr<Acc>() + first;
    Acc* summary = out.summary.mutable_data_ptr<Acc>() + 3 * first;
    const RowStatisticsOutputs statistics = out.statistics_pointers(first);
    if (logits.is_cuda()) {
      cuda_backend::token_logps_with_grad(logits.device(), s, targets, count, vocab,
                                          rows.ignore_index, transform, Acc(scale), logps, summary,
                                          statistics, d_rows);
      return;
    }
    const cuda::TokenRows<Acc> all{s, targets, count, vocab, rows.ignore_index, transform};
    const cuda::TokenLogpOutputs<Acc> results{logps, summary, statistics};
    const cuda::TokenGradients<Gradient, Acc> gradients{d_rows, Acc(scale)};
    for_each_row(count, vocab, [&](std::int64_t row) {
      cuda::score_and_differentiate_row(OneThread{}, all, transform, row, {nullptr, 1}, results,
                                        gradients);
    });
  });
}

/// grad[i] * d logp / d logits of rows from `begin` on for the vocabulary entries from `first` on,
/// whose logits are (count, width), into `d_logits`, which may be `logits`.
inline void differentiate_block(const ScoredRows& rows, std::int64_t begin, std::int64_t first,
                                const at::Tensor& logits, const at::Tensor& summary,
                                const at::Tensor& grad, const at::Tensor& d_logits) {
  const std::int64_t count = logits.size(0), width = logits.size(1);
  dispatch_gradient(d_logits.scalar_type(), [&](auto acc, auto gradient) {
    using Acc = decltype(acc);
    using Gradient = decltype(gradient);
    const RowView<const Acc> s = row_view(logits.const_data_ptr<Acc>(), logits);
    const RowView<Gradient> d_rows = row_view(d_logits.mutable_data_ptr<Gradient>(), d_logits);
    const std::int64_t* targets = rows.labels.const_data_ptr<std::int64_t>() + begin;
    const auto transform = rows.logit_transform<Acc>();
    const Acc* summaries = summary.const_data_ptr<Acc>() + 3 * begin;
    const Acc* upstream = grad.const_data_ptr<Acc>() + begin;
    if (logits.is_cuda()) {
      cuda_backend::token_logps_backward(logits.device(), s, targets, count, first, width,
                                         rows.ignore_index, transform, summaries, upstream, d_rows);
      return;
    }
    const cuda::TokenRows<Acc> all{s, targets, count, width, rows.ignore_index, transform, first};
    for_each_row(count, width, [&](std::int64_t row) {
      cuda::differentiate_row(OneThread{}, all, transform, row, summaries, upstream, d_rows);
    });
  });
}

}  // namespace selm::ops
