#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "selm/torch/ops.hpp"
#include "task.hpp"

/// @file
/// The policy: a small causal transformer, its samples and its log-probabilities.

/// One pre-norm transformer block.
struct BlockImpl : torch::nn::Module {
  BlockImpl(std::int64_t width, std::int64_t heads)
      : heads(heads),
        norm1(register_module("norm1", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})))),
        qkv(register_module("qkv", torch::nn::Linear(width, 3 * width))),
        out(register_module("out", torch::nn::Linear(width, width))),
        norm2(register_module("norm2", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})))),
        up(register_module("up", torch::nn::Linear(width, 4 * width))),
        down(register_module("down", torch::nn::Linear(4 * width, width))) {}

  torch::Tensor forward(torch::Tensor x) {  // (batch, time, width)
    const auto batch = x.size(0), time = x.size(1), width = x.size(2);
    const auto parts =
        qkv(norm1(x)).view({batch, time, 3, heads, width / heads}).permute({2, 0, 3, 1, 4});
    const auto mixed = at::scaled_dot_product_attention(parts[0], parts[1], parts[2], {}, 0.0,
                                                        /*is_causal=*/true);
    x = x + out(mixed.transpose(1, 2).reshape({batch, time, width}));
    return x + down(torch::gelu(up(norm2(x))));
  }

  std::int64_t heads;
  torch::nn::LayerNorm norm1;
  torch::nn::Linear qkv, out;
  torch::nn::LayerNorm norm2;
  torch::nn::Linear up, down;
};
TORCH_MODULE(Block);

/// A causal transformer from token ids (batch, time) to final hidden states (batch, time, width).
/// The head stays outside `forward`: selm::ops::linear_logps applies it without making all logits.
struct PolicyImpl : torch::nn::Module {
  static constexpr std::int64_t width = 64, heads = 4, layers = 2;
  static constexpr std::int64_t max_time = task::prompt_length + 1 + task::max_reply_length;

  PolicyImpl()
      : tokens(register_module("tokens", torch::nn::Embedding(task::vocabulary, width))),
        positions(register_module("positions", torch::nn::Embedding(max_time, width))),
        norm(register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})))),
        head(register_module(
            "head",
            torch::nn::Linear(torch::nn::LinearOptions(width, task::vocabulary).bias(false)))) {
    for (std::int64_t i = 0; i < layers; ++i) {
      blocks.push_back(register_module("block" + std::to_string(i), Block(width, heads)));
    }
  }

  torch::Tensor forward(const torch::Tensor& ids) {
    auto x = tokens(ids) + positions(torch::arange(ids.size(1)));
    for (Block& block : blocks) {
      x = block(x);
    }
    return norm(x);
  }

  torch::nn::Embedding tokens, positions;
  std::vector<Block> blocks;
  torch::nn::LayerNorm norm;
  torch::nn::Linear head;
};
TORCH_MODULE(Policy);

/// A copy with parameters of its own, which do not learn: the reference of the next iteration.
inline Policy frozen_copy(Policy& policy) {
  Policy copy;
  torch::NoGradGuard no_grad;
  const auto source = policy->parameters();
  const auto target = copy->parameters();
  for (std::size_t i = 0; i < source.size(); ++i) {
    target[i].copy_(source[i]).requires_grad_(false);
  }
  return copy;
}

/// Prompts (batch, prompt_length) -> replies (batch, max_reply_length), filled up with end tokens.
/// Greedy, or samples at temperature 1.
inline torch::Tensor generate(Policy& policy, const torch::Tensor& prompts, bool greedy) {
  torch::NoGradGuard no_grad;
  const auto batch = prompts.size(0);
  auto ids = torch::cat({prompts, torch::full({batch, 1}, task::separator, torch::kInt64)}, 1);
  auto ended = torch::zeros({batch, 1}, torch::kBool);
  for (std::int64_t t = 0; t < task::max_reply_length; ++t) {
    const auto logits = policy->head(policy->forward(ids).select(1, -1));
    auto next = greedy ? logits.argmax(-1, true) : torch::multinomial(logits.softmax(-1), 1);
    next = next.masked_fill(ended, task::end);
    ended = next == task::end;
    ids = torch::cat({ids, next}, 1);
  }
  return ids.narrow(1, task::prompt_length + 1, task::max_reply_length);
}

/// log pi(reply | prompt), summed over the reply's tokens up to its end token: (batch,).
inline torch::Tensor reply_logps(Policy& policy, const torch::Tensor& prompts,
                                 const torch::Tensor& replies) {
  const auto batch = prompts.size(0);
  const auto ids =
      torch::cat({prompts, torch::full({batch, 1}, task::separator, torch::kInt64), replies}, 1);
  const auto is_end = (replies == task::end).to(torch::kInt64);
  const auto after_end = is_end.cumsum(1) - is_end > 0;
  // Position t of the hidden states predicts token t + 1; what is not of the reply is ignored.
  const auto labels = torch::cat({torch::full({batch, task::prompt_length}, -100, torch::kInt64),
                                  replies.masked_fill(after_end, -100)},
                                 1);
  const auto hidden = policy->forward(ids.narrow(1, 0, ids.size(1) - 1));
  return selm::ops::linear_logps(hidden, policy->head->weight, labels).logps.sum(1);
}
