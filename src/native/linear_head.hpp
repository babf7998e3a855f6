#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>

#include "selm/core/row_statistics.hpp"
#include "selm/core/token_logp.hpp"

/// @file
/// linear_logps on the rows that are scored. Two drivers: by groups of the vocabulary, for float32
/// accumulation on the CPU, where a group of logits stays in the cache; by tiles of rows, for CUDA
/// and for float64.

namespace selm::ops {

/// The rows that carry loss, and the head.
struct ScoredRows {
  at::Tensor hidden;  ///< (rows, hidden)
  at::Tensor labels;  ///< (rows,), int64
  at::Tensor weight;  ///< (vocab, hidden)
  std::optional<at::Tensor> bias;
  std::array<double, 3> transform;  ///< temperature, logit_scale, softcap (0: none)
  std::int64_t ignore_index;        ///< none of the labels
  std::int64_t workspace_bytes;

  std::int64_t count() const { return labels.numel(); }
  std::int64_t vocab() const { return weight.size(0); }

  template <typename Acc>
  LogitTransform<Acc> logit_transform() const {
    return LogitTransform<Acc>::make(transform[0], transform[1], transform[2]);
  }
};

/// What the forward pass shall leave for the backward pass.
enum class ForBackward : std::int64_t {
  summary = 0,      ///< nothing else
  hidden_grad = 1,  ///< d logp / d hidden: the head is frozen
  logit_grads = 2,  ///< what d logp / d logits is made of, as far as the workspace holds it
};

/// Results per row, allocated by the caller. Statistics not asked for are undefined.
struct HeadOutputs {
  at::Tensor logps;                      ///< (rows,)
  at::Tensor summary;                    ///< (rows, 3)
  at::Tensor hidden_grad;                ///< (rows, hidden), where asked for
  std::array<at::Tensor, 4> statistics;  ///< (rows,)

  /// From row `first` on.
  RowStatisticsOutputs statistics_pointers(std::int64_t first) const {
    const auto number = [&](std::size_t k) {
      return statistics[k].defined() ? statistics[k].mutable_data_ptr<float>() + first : nullptr;
    };
    return {number(0), number(1), number(2),
            statistics[3].defined() ? statistics[3].mutable_data_ptr<bool>() + first : nullptr};
  }
};

/// Upstream gradients and what the forward pass left, per row.
struct HeadUpstreamGradients {
  at::Tensor logps;
  at::Tensor entropy;         ///< undefined: zeros
  at::Tensor entropy_values;  ///< where `entropy` is defined
  at::Tensor summary;
  at::Tensor kept;  ///< what the forward pass returned
};

/// Gradients that are wanted; the others are undefined.
struct HeadGradients {
  bool needs_hidden;
  at::Tensor hidden;  ///< (rows, hidden), allocated by the backward pass, in a type of its choice
  at::Tensor weight;  ///< (vocab, hidden), in its own type
  at::Tensor bias;    ///< (vocab,), in the accumulation type
};

/// For at least one row. The forward passes return what backward finds in `kept`.
at::Tensor forward_by_groups(const ScoredRows& rows, ForBackward wanted, const HeadOutputs& out);
at::Tensor forward_by_tiles(const ScoredRows& rows, ForBackward wanted, const HeadOutputs& out);

/// Memory of the rows and of what was kept may be released before they return.
void backward_by_groups(ScoredRows rows, const HeadUpstreamGradients& upstream, HeadGradients& out);
void backward_by_tiles(const ScoredRows& rows, const HeadUpstreamGradients& upstream,
                       HeadGradients& out);

}  // namespace selm::ops
