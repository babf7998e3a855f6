#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "selm/core/token_logp.hpp"

/// @file
/// What trainers log about a row of logits beside the target's log-probability, as one monoid.

namespace selm {

/// Sums over a part of one row; the default is the neutral element.
template <typename T>
struct RowStatistics {
  T mean_exponent = T(0);  ///< sum of p * (z - max z)
  T sum_sq_probs = T(0);   ///< sum of p^2
  T sum_logits = T(0);     ///< sum of z
  T best = minus_infinity<T>;
  std::int64_t best_index = std::numeric_limits<std::int64_t>::max();

  /// Takes in the token `index` with raw logit s.
  SELM_HOST_DEVICE void add(T s, std::int64_t index, const TokenLogp<T>& row,
                            const LogitTransform<T>& transform) {
    const T exponent = transform(s, row.max);
    const T prob = std::exp(exponent - row.log_sum);
    mean_exponent += prob == T(0) ? T(0) : prob * exponent;  // the limit, also for a masked token
    sum_sq_probs += prob * prob;
    sum_logits += transform.value(s);
    take_better(s, index);
  }

  SELM_HOST_DEVICE void merge(const RowStatistics& other) {
    mean_exponent += other.mean_exponent;
    sum_sq_probs += other.sum_sq_probs;
    sum_logits += other.sum_logits;
    take_better(other.best, other.best_index);
  }

  /// Shannon entropy of the row's distribution, in nats.
  SELM_HOST_DEVICE T entropy(const TokenLogp<T>& row) const { return row.log_sum - mean_exponent; }

  /// log of the sum of squared probabilities, in nats (the token-level part of WPO's weights).
  SELM_HOST_DEVICE T log_sum_sq_probs() const { return std::log(sum_sq_probs); }

 private:
  /// A tie goes to the first index.
  SELM_HOST_DEVICE void take_better(T s, std::int64_t index) {
    if (s > best || (s == best && index < best_index)) {
      best = s;
      best_index = index;
    }
  }
};

/// Per-row outputs beside the log-probability; a null pointer means not asked for.
struct RowStatisticsOutputs {
  float* entropy;
  float* log_sum_sq_probs;
  float* mean_logits;
  bool* is_top1;  ///< whether the target has the largest logit

  SELM_HOST_DEVICE bool any() const {
    return entropy != nullptr || log_sum_sq_probs != nullptr || mean_logits != nullptr ||
           is_top1 != nullptr;
  }

  /// What an ignored row gets.
  SELM_HOST_DEVICE void store_ignored(std::int64_t i) const {
    if (entropy != nullptr) {
      entropy[i] = 0.0f;
    }
    if (log_sum_sq_probs != nullptr) {
      log_sum_sq_probs[i] = 0.0f;
    }
    if (mean_logits != nullptr) {
      mean_logits[i] = 0.0f;
    }
    if (is_top1 != nullptr) {
      is_top1[i] = false;
    }
  }

  template <typename T>
  SELM_HOST_DEVICE void store(std::int64_t i, const RowStatistics<T>& statistics,
                              const TokenLogp<T>& row, std::int64_t target,
                              std::int64_t vocab) const {
    if (entropy != nullptr) {
      entropy[i] = static_cast<float>(statistics.entropy(row));
    }
    if (log_sum_sq_probs != nullptr) {
      log_sum_sq_probs[i] = static_cast<float>(statistics.log_sum_sq_probs());
    }
    if (mean_logits != nullptr) {
      mean_logits[i] = static_cast<float>(statistics.sum_logits / static_cast<T>(vocab));
    }
    if (is_top1 != nullptr) {
      is_top1[i] = statistics.best_index == target;
    }
  }
};

}  // namespace selm
