#pragma once

#include <cmath>
#include <cstdint>
#include <unordered_map>

#include "selm/core/macros.hpp"
#include "selm/core/reward.hpp"

/// @file
/// Functions of the log-probabilities of a response's tokens, float or double: what lies between a
/// model's output and a loss. Tokens whose `mask` is false are never read. Arithmetic is double.

namespace selm {

/// The `count` places of one response; the mask says which of them are its tokens.
struct TokenMask {
  const bool* mask;
  std::int64_t count;

  /// The number of tokens.
  SELM_HOST_DEVICE std::int64_t tokens() const {
    std::int64_t total = 0;
    for (std::int64_t t = 0; t < count; ++t) {
      total += mask[t] ? 1 : 0;
    }
    return total;
  }

  /// The sum of `value(t)` over the places of tokens.
  template <typename Value>
  SELM_HOST_DEVICE double sum(Value&& value) const {
    double total = 0.0;
    for (std::int64_t t = 0; t < count; ++t) {
      total += mask[t] ? static_cast<double>(value(t)) : 0.0;
    }
    return total;
  }

  /// The mean of `value(t)` over the places of tokens, 0 where there is none.
  template <typename Value>
  SELM_HOST_DEVICE double mean(Value&& value) const {
    const std::int64_t n = tokens();
    return n == 0 ? 0.0 : sum(value) / static_cast<double>(n);
  }
};

/// log pi(y|x): the sum over the response's tokens. Its derivative by each of them is 1.
template <typename Storage>
SELM_HOST_DEVICE double masked_sum(const Storage* token_logps, const TokenMask& response) {
  return response.sum([&](std::int64_t t) { return token_logps[t]; });
}

/// The average per token, 0 where there is none. Its derivative by each of them is 1 / tokens.
template <typename Storage>
SELM_HOST_DEVICE double masked_mean(const Storage* token_logps, const TokenMask& response) {
  return response.mean([&](std::int64_t t) { return token_logps[t]; });
}

/// LD-DPO (arXiv 2409.06411): tokens beyond the first `shared_length` count `ld_alpha` each, which
/// is also the derivative by them; by the others it is 1. With weight 0 the excess may be infinite.
template <typename Storage>
SELM_HOST_DEVICE double length_desensitized_logp(const Storage* token_logps,
                                                 const TokenMask& response,
                                                 std::int64_t shared_length, double ld_alpha) {
  std::int64_t tokens = 0;
  double shared = 0.0, excess = 0.0;
  for (std::int64_t t = 0; t < response.count; ++t) {
    if (response.mask[t]) {
      ++tokens;
      (tokens <= shared_length ? shared : excess) += static_cast<double>(token_logps[t]);
    }
  }
  return ld_alpha == 0.0 ? shared : shared + ld_alpha * excess;
}

/// Weight of a response in WPO (arXiv 2406.11827, eq. 2), held constant: the exponential of the
/// mean of token_logps - log_sum_sq_probs, where the latter is the log of the sum of squared
/// probabilities over the vocabulary; 1 where there is no token.
template <typename Storage>
SELM_HOST_DEVICE double wpo_weight(const Storage* token_logps, const Storage* log_sum_sq_probs,
                                   const TokenMask& response) {
  return std::exp(response.mean([&](std::int64_t t) {
    return static_cast<double>(token_logps[t]) - static_cast<double>(log_sum_sq_probs[t]);
  }));
}

/// rewards[t] = the implicit reward of each token (arXiv 2404.12358, eq. 9), 0 where masked. The
/// derivative by a policy's token is beta.
template <typename Storage>
SELM_HOST_DEVICE void token_rewards(const ImplicitReward<double>& reward, const Storage* policy,
                                    const Storage* ref, const TokenMask& response,
                                    Storage* rewards) {
  for (std::int64_t t = 0; t < response.count; ++t) {
    rewards[t] = response.mask[t] ? static_cast<Storage>(reward(policy[t], ref[t]).value) : 0;
  }
}

/// rewards[t] = the implicit reward of the response up to and with place t; each is rounded from
/// the sum in double. The derivative by a policy's token at or before t is beta.
template <typename Storage>
SELM_HOST_DEVICE void prefix_rewards(const ImplicitReward<double>& reward, const Storage* policy,
                                     const Storage* ref, const TokenMask& response,
                                     Storage* rewards) {
  double total = 0.0;
  for (std::int64_t t = 0; t < response.count; ++t) {
    total += response.mask[t] ? reward(policy[t], ref[t]).value : 0.0;
    rewards[t] = static_cast<Storage>(total);
  }
}

/// centered[i] = rewards[i] less the mean of the rewards that have the same number in `prompts`:
/// free of the prompt's constant beta * log Z. The derivative of centered[i] by a reward of the
/// same prompt is [i = j] - 1 / responses. On the host alone.
template <typename Storage>
void center_rewards(const Storage* rewards, const std::int64_t* prompts, std::int64_t count,
                    Storage* centered) {
  struct Total {
    double sum = 0.0;
    std::int64_t responses = 0;
  };
  std::unordered_map<std::int64_t, Total> totals;
  for (std::int64_t i = 0; i < count; ++i) {
    Total& total = totals[prompts[i]];
    total.sum += static_cast<double>(rewards[i]);
    ++total.responses;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const Total& total = totals[prompts[i]];
    const double mean = total.sum / static_cast<double>(total.responses);
    centered[i] = static_cast<Storage>(static_cast<double>(rewards[i]) - mean);
  }
}

}  // namespace selm
