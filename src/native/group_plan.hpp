#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "cpu/head_rows.hpp"
#include "native/group_products.hpp"

namespace selm::ops {

/// How the workspace is divided. Backward finds what forward kept by dividing it again.
struct GroupPlan {
  std::int64_t rows;
  std::int64_t vocab;
  std::int64_t width;  ///< tokens of a group; the last one may have fewer
  std::int64_t kept;   ///< tokens, from the first on, whose exponentials are kept: whole groups

  /// What logits and gradients of a group leave of the workspace keeps exponentials.
  static GroupPlan make(const ScoredRows& rows, const GroupProducts& products) {
    GroupPlan plan{rows.count(), rows.vocab(), 0, rows.vocab()};
    const std::int64_t token = plan.token_bytes(products);
    plan.width = width_of_groups(rows.vocab(), token, rows.workspace_bytes / 4);
    const std::int64_t left = rows.workspace_bytes - plan.width * token;
    if (plan.kept_bytes(products) > left) {
      const std::int64_t padding = alignment + 2 * alignment * plan.rows;  // at most
      const std::int64_t groups =
          (left - plan.numbers_bytes(0) - padding) /
          (plan.rows * (plan.width * products.type_bytes() + plan.group(0).blocks() * logit_bytes));
      plan.kept = std::max<std::int64_t>(groups, 0) * plan.width;
    }
    return plan;
  }

  /// Of wider groups that `bytes` hold, logits and gradients; at least the planned width. A group
  /// of the head is read twice, and should be in the cache the second time.
  std::int64_t width_within(std::int64_t bytes, const GroupProducts& products) const {
    constexpr std::int64_t cached_head = std::int64_t{1} << 24;
    const std::int64_t widest =
        std::min(bytes / token_bytes(products), cached_head / products.head_bytes_of_token());
    return std::max<std::int64_t>(widest / width, 1) * width;
  }

  /// Vocabulary entries from `first` on, in the blocks that groups are made of.
  cpu::Group part(std::int64_t first, std::int64_t wide) const {
    return {first, std::min(wide, vocab - first), std::min(width, cpu::Group::widest_block)};
  }
  cpu::Group group(std::int64_t first) const { return part(first, width); }

  template <typename Visit>
  void for_each_group(Visit visit) const {
    for (std::int64_t first = 0; first < vocab; first += width) {
      visit(group(first));
    }
  }

  /// Maxima of the blocks of `tokens`, and a slope per row.
  std::int64_t numbers_bytes(std::int64_t tokens) const {
    const std::int64_t numbers = rows * (part(0, tokens).blocks() + 1) * logit_bytes;
    return at::divup(numbers, alignment) * alignment;
  }

  /// Of kept exponentials, from row to row: each row begins aligned, and an odd number of cache
  /// lines after the one before, as rows that are a multiple of a page apart would drive each other
  /// out of the cache.
  std::int64_t stride(std::int64_t value_bytes) const {
    const std::int64_t lines = at::divup(kept * value_bytes, alignment) | 1;
    return lines * alignment / value_bytes;
  }

  /// Of those numbers and of the exponentials.
  std::int64_t kept_bytes(const GroupProducts& products) const {
    const std::int64_t bytes = products.type_bytes();
    return kept > 0 ? numbers_bytes(kept) + rows * stride(bytes) * bytes : 0;
  }

 private:
  /// Of a token's logits and their gradients.
  std::int64_t token_bytes(const GroupProducts& products) const {
    return rows * (logit_bytes + products.type_bytes()) + products.copied_bytes();
  }

  static constexpr std::int64_t logit_bytes = sizeof(float);
  static constexpr std::int64_t alignment = 64;
  static constexpr std::int64_t narrowest = 16;

  /// One block, or less of very many rows; of few rows as many blocks as a core's cache holds.
  static std::int64_t width_of_groups(std::int64_t vocab, std::int64_t token_bytes,
                                      std::int64_t available) {
    constexpr std::int64_t block = cpu::Group::widest_block, most_blocks = 64;
    constexpr std::int64_t cache_of_core = std::int64_t{1} << 19, cache = std::int64_t{1} << 24;
    const std::int64_t blocks = std::min(available, cache_of_core) / token_bytes / block;
    const std::int64_t entries = std::min(available, cache) / token_bytes / narrowest * narrowest;
    const std::int64_t width =
        blocks > 1 ? std::min(blocks, most_blocks) * block : std::clamp(entries, narrowest, block);
    return std::min(width, (vocab + narrowest - 1) / narrowest * narrowest);
  }
};

}  // namespace selm::ops
