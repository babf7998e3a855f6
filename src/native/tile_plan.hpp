#pragma once

#include <algorithm>
#include <cstdint>

#include "native/linear_head.hpp"
#include "rows.hpp"

namespace selm::ops {

/// How the workspace is divided on CUDA and in float64. Tiles are the same whatever is kept, and
/// with them the bits of the results. Backward finds what forward kept by dividing it again.
struct TilePlan {
  std::int64_t stride;      ///< of rows of logits and gradients, so that each begins aligned
  std::int64_t tile;        ///< rows of a tile of logits
  std::int64_t kept;        ///< rows whose logit gradients are kept
  std::int64_t left_bytes;  ///< of the workspace, beside what is kept

  /// Gradients have the type of the operands.
  static TilePlan make(const ScoredRows& rows) {
    constexpr std::int64_t aligned = 8, tallest = 1024;
    const std::int64_t stride = (rows.vocab() + aligned - 1) / aligned * aligned;
    const std::int64_t logits = stride * wide_bytes(rows), gradients = stride * own_bytes(rows);
    const std::int64_t tile = std::clamp<std::int64_t>(rows.workspace_bytes / 2 / logits, 1,
                                                       std::min(rows.count(), tallest));
    const std::int64_t kept = std::clamp<std::int64_t>(
        (rows.workspace_bytes - tile * logits) / gradients, 0, rows.count());
    return {stride, tile, kept, rows.workspace_bytes - kept * gradients};
  }

  /// Vocabulary entries of a block in the backward pass, where `copies` of its logits exist beside
  /// the gradients and their product with the hidden states.
  std::int64_t block_width(const ScoredRows& rows, std::int64_t copies) const {
    constexpr std::int64_t narrowest = 16;
    const std::int64_t column = rows.count() * (copies * wide_bytes(rows) + own_bytes(rows)) +
                                rows.weight.size(1) * wide_bytes(rows);
    const std::int64_t width = left_bytes / column;
    return std::max(std::min(width / narrowest * narrowest, stride), narrowest);
  }

 private:
  static std::int64_t own_bytes(const ScoredRows& rows) {
    return static_cast<std::int64_t>(rows.weight.itemsize());
  }
  static std::int64_t wide_bytes(const ScoredRows& rows) {
    return static_cast<std::int64_t>(c10::elementSize(accumulation_type(rows.weight)));
  }
};

}  // namespace selm::ops
