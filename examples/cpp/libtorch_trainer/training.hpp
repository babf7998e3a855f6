#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "policy.hpp"
#include "selm/torch/ops.hpp"
#include "task.hpp"

/// @file
/// One SELM iteration: generate and judge, then train (arXiv 2405.19332, algorithm 1, without a
/// preference data set).

struct Settings {
  std::int64_t prompts = 384;  ///< per iteration
  std::int64_t samples = 8;    ///< replies per prompt; the best and the worst become a pair
  std::int64_t epochs = 4;
  std::int64_t batch = 64;
  double learning_rate = 1e-3;
  double alpha = 1e-3;  ///< 0 is iterative DPO
  double beta = 0.1;
};

/// One row per pair.
struct Pairs {
  torch::Tensor prompts, chosen, rejected;
  torch::Tensor responses;  ///< what the reference policy says: the exploration term's response
};

/// The letters of a prompt or reply up to its end token; '|' for a separator.
inline std::string text(const torch::Tensor& row) {
  const auto tokens = row.accessor<std::int64_t, 1>();
  std::string letters;
  for (std::int64_t t = 0; t < tokens.size(0) && tokens[t] != task::end; ++t) {
    letters += tokens[t] == task::separator ? '|' : static_cast<char>('a' + tokens[t]);
  }
  return letters;
}

/// The judge's score of each reply, (batch,).
inline torch::Tensor judge(const torch::Tensor& prompts, const torch::Tensor& replies) {
  auto scores = torch::empty({prompts.size(0)}, torch::kFloat64);
  for (std::int64_t i = 0; i < prompts.size(0); ++i) {
    scores[i] = task::score(text(prompts[i]), text(replies[i]));
  }
  return scores;
}

/// Samples replies of the reference policy and pairs the best with the worst of each prompt. A
/// prompt whose samples all score the same says nothing about preferences and makes no pair.
inline Pairs make_pairs(Policy& reference, const torch::Tensor& prompts, std::int64_t samples) {
  const auto repeated = prompts.repeat_interleave(samples, 0);
  const auto replies = generate(reference, repeated, /*greedy=*/false);
  const auto scores = judge(repeated, replies).view({-1, samples});
  const auto [best_scores, best] = scores.max(1);
  const auto [worst_scores, worst] = scores.min(1);
  const auto kept = torch::nonzero(best_scores > worst_scores).squeeze(1);
  const auto first = torch::arange(prompts.size(0)) * samples;
  return {prompts.index_select(0, kept),
          replies.index_select(0, (first + best).index_select(0, kept)),
          replies.index_select(0, (first + worst).index_select(0, kept)),
          generate(reference, prompts.index_select(0, kept), /*greedy=*/true)};
}

/// Log-probabilities of the chosen, the rejected and the reference policy's replies, from one
/// forward pass: 3 times (pairs,).
inline std::vector<torch::Tensor> logps_of(Policy& policy, const Pairs& pairs) {
  const auto replies = torch::cat({pairs.chosen, pairs.rejected, pairs.responses});
  return reply_logps(policy, pairs.prompts.repeat({3, 1}), replies).chunk(3);
}

/// Trains the policy on the pairs; returns the mean reward margin in the last epoch.
inline double train(Policy& policy, Policy& reference, const Pairs& pairs, const Settings& settings,
                    torch::optim::Optimizer& optimizer) {
  const auto count = pairs.prompts.size(0);
  if (count == 0) {
    throw std::runtime_error("the judge scores all samples of each prompt alike: nothing to learn");
  }
  const auto all_ref_logps = logps_of(reference, pairs);
  double margins = 0.0;
  for (std::int64_t epoch = 0; epoch < settings.epochs; ++epoch) {
    margins = 0.0;
    for (const auto& rows : torch::randperm(count).split(settings.batch)) {
      const auto select = [&](const torch::Tensor& all) { return all.index_select(0, rows); };
      const auto logps = logps_of(policy, {select(pairs.prompts), select(pairs.chosen),
                                           select(pairs.rejected), select(pairs.responses)});
      const auto loss = selm::ops::selm_loss(logps[0], logps[1], logps[2], select(all_ref_logps[0]),
                                             select(all_ref_logps[1]), select(all_ref_logps[2]),
                                             {settings.alpha, "selm"}, {"sigmoid", settings.beta});
      optimizer.zero_grad();
      loss.losses.mean().backward();
      optimizer.step();
      margins += (loss.chosen_rewards - loss.rejected_rewards).sum().item<double>();
    }
  }
  return margins / static_cast<double>(count);
}
