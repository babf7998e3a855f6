#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string_view>

#include "selm/core/token_level.hpp"
#include "selm/host/arrays.hpp"
#include "selm/host/options.hpp"

/// @file
/// Functions of per-token log-probabilities on Eigen arrays, [batch, time], and of rewards by
/// prompt. `mask` is true where a token belongs to the response; other places are never read.
/// Arithmetic is double, rounded once. selm/core/token_level.hpp gives the derivatives. Every
/// function throws `Error` before anything is computed: shapes, options, a log-probability above 0.

namespace selm {

/// Which places are tokens, [batch, time].
using MaskRef = Array2Ref<bool>;

namespace detail {

/// Arrays of one call, [batch, time], under their public names.
template <typename T>
class TokenArguments {
 public:
  TokenArguments(std::string_view operation, std::string_view first, const Array2Ref<T>& logps,
                 const MaskRef& mask)
      : operation_(operation), mask_(mask) {
    check_same_shape<bool, T>(operation, "mask", mask, first, logps);
    check_logps(first, logps);
  }

  /// Of two arrays of log-probabilities.
  TokenArguments(std::string_view operation, std::string_view first, const Array2Ref<T>& logps,
                 std::string_view second, const Array2Ref<T>& other_logps, const MaskRef& mask)
      : TokenArguments(operation, first, logps, mask) {
    check_same_shape<T, T>(operation, second, other_logps, first, logps);
    check_logps(second, other_logps);
  }

  Eigen::Index batch() const { return mask_.rows(); }
  Eigen::Index time() const { return mask_.cols(); }
  TokenMask response(Eigen::Index i) const { return {mask_.row(i).data(), mask_.cols()}; }

 private:
  void check_logps(std::string_view argument, const Array2Ref<T>& logps) const {
    for (Eigen::Index i = 0; i < logps.rows(); ++i) {
      for (Eigen::Index t = 0; t < logps.cols(); ++t) {
        if (mask_(i, t)) {
          check_logp(operation_, argument, logps(i, t), i * logps.cols() + t);
        }
      }
    }
  }

  std::string_view operation_;
  const MaskRef& mask_;
};

/// The value of `function(i)` for each response.
template <typename T, typename Function>
Array1<T> of_each_response(Eigen::Index batch, Function&& function) {
  Array1<T> result(batch);
  for (Eigen::Index i = 0; i < batch; ++i) {
    result[i] = static_cast<T>(function(i));
  }
  return result;
}

/// `function` is `selm::token_rewards` or `selm::prefix_rewards` of one response.
template <typename T, typename Function>
Array2<T> rewards_of_tokens(std::string_view operation, const Array2Ref<T>& policy,
                            const Array2Ref<T>& ref, const MaskRef& mask, double beta,
                            Function&& function) {
  validate_positive(operation, "beta", beta);
  const TokenArguments<T> tokens(operation, "policy_token_logps", policy, "ref_token_logps", ref,
                                 mask);
  Array2<T> rewards(tokens.batch(), tokens.time());
  for (Eigen::Index i = 0; i < tokens.batch(); ++i) {
    function(ImplicitReward<double>{beta}, policy.row(i).data(), ref.row(i).data(),
             tokens.response(i), rewards.row(i).data());
  }
  return rewards;
}

}  // namespace detail

/// Log-probability of each response, the sum over its tokens, [batch]; 0 for one without tokens.
template <typename Logps>
Array1<ScalarOf<Logps>> masked_sum(const Eigen::ArrayBase<Logps>& token_logps,
                                   const MaskRef& mask) {
  using T = ScalarOf<Logps>;
  const Array2Ref<T> logps(token_logps.derived());
  const detail::TokenArguments<T> tokens("masked_sum", "token_logps", logps, mask);
  return detail::of_each_response<T>(tokens.batch(), [&](Eigen::Index i) {
    return masked_sum(logps.row(i).data(), tokens.response(i));
  });
}

/// Average log-probability per token of each response, [batch]; 0 for one without tokens.
template <typename Logps>
Array1<ScalarOf<Logps>> masked_mean(const Eigen::ArrayBase<Logps>& token_logps,
                                    const MaskRef& mask) {
  using T = ScalarOf<Logps>;
  const Array2Ref<T> logps(token_logps.derived());
  const detail::TokenArguments<T> tokens("masked_mean", "token_logps", logps, mask);
  return detail::of_each_response<T>(tokens.batch(), [&](Eigen::Index i) {
    return masked_mean(logps.row(i).data(), tokens.response(i));
  });
}

/// LD-DPO (arXiv 2409.06411): tokens beyond `shared_lengths`, [batch], the smaller number of tokens
/// of each pair, count `ld_alpha` in [0, 1] each.
template <typename Logps>
Array1<ScalarOf<Logps>> length_desensitized_logps(const Eigen::ArrayBase<Logps>& token_logps,
                                                  const MaskRef& mask,
                                                  const Array1Ref<std::int64_t>& shared_lengths,
                                                  double ld_alpha) {
  using T = ScalarOf<Logps>;
  constexpr std::string_view operation = "length_desensitized_logps";
  const Array2Ref<T> logps(token_logps.derived());
  const detail::TokenArguments<T> tokens(operation, "token_logps", logps, mask);
  if (shared_lengths.size() != tokens.batch()) {
    throw Error(ErrorCode::value, operation, "shared_lengths",
                fmt::format("to have shape [{}] (the batch of 'token_logps')", tokens.batch()),
                fmt::format("[{}]", shared_lengths.size()));
  }
  if (!(ld_alpha >= 0.0 && ld_alpha <= 1.0)) {
    throw Error(ErrorCode::value, operation, "ld_alpha", "to be in [0, 1]",
                fmt::format("{}", ld_alpha));
  }
  check_at_least(operation, "shared_lengths", "to hold lengths >= 0", shared_lengths.data(),
                 shared_lengths.size(), 0);
  return detail::of_each_response<T>(tokens.batch(), [&](Eigen::Index i) {
    return length_desensitized_logp(logps.row(i).data(), tokens.response(i), shared_lengths[i],
                                    ld_alpha);
  });
}

/// Weight of each response in WPO (arXiv 2406.11827, eq. 2), [batch], held constant; the weight of
/// a pair is the product of its two. `log_sum_sq_probs` is the log of the sum of squared
/// probabilities over the vocabulary, [batch, time].
template <typename Logps>
Array1<ScalarOf<Logps>> wpo_weights(const Eigen::ArrayBase<Logps>& token_logps,
                                    const Array2Ref<ScalarOf<Logps>>& log_sum_sq_probs,
                                    const MaskRef& mask) {
  using T = ScalarOf<Logps>;
  const Array2Ref<T> logps(token_logps.derived());
  const detail::TokenArguments<T> tokens("wpo_weights", "token_logps", logps, "log_sum_sq_probs",
                                         log_sum_sq_probs, mask);
  return detail::of_each_response<T>(tokens.batch(), [&](Eigen::Index i) {
    return wpo_weight(logps.row(i).data(), log_sum_sq_probs.row(i).data(), tokens.response(i));
  });
}

/// Implicit reward of each token, beta * (policy - ref) (arXiv 2404.12358, eq. 9), [batch, time]; 0
/// where masked.
template <typename Logps>
Array2<ScalarOf<Logps>> token_rewards(const Eigen::ArrayBase<Logps>& policy_token_logps,
                                      const Array2Ref<ScalarOf<Logps>>& ref_token_logps,
                                      const MaskRef& mask, double beta) {
  using T = ScalarOf<Logps>;
  return detail::rewards_of_tokens<T>(
      "token_rewards", policy_token_logps.derived(), ref_token_logps, mask, beta,
      [](const auto&... arguments) { token_rewards(arguments...); });
}

/// Implicit reward of the response up to and with each token: prefix sums of `token_rewards`,
/// [batch, time]. The last column is the whole response's.
template <typename Logps>
Array2<ScalarOf<Logps>> prefix_rewards(const Eigen::ArrayBase<Logps>& policy_token_logps,
                                       const Array2Ref<ScalarOf<Logps>>& ref_token_logps,
                                       const MaskRef& mask, double beta) {
  using T = ScalarOf<Logps>;
  return detail::rewards_of_tokens<T>(
      "prefix_rewards", policy_token_logps.derived(), ref_token_logps, mask, beta,
      [](const auto&... arguments) { prefix_rewards(arguments...); });
}

/// Rewards less the mean of their prompt's, [batch]: free of the prompt's constant beta * log Z.
/// `prompts` has the number of each response's prompt, at least 0.
template <typename Rewards>
Array1<ScalarOf<Rewards>> center_rewards(const Eigen::ArrayBase<Rewards>& rewards,
                                         const Array1Ref<std::int64_t>& prompts) {
  using T = ScalarOf<Rewards>;
  constexpr std::string_view operation = "center_rewards";
  const Array1Ref<T> values(rewards.derived());
  detail::check_same_size(operation, "prompts", prompts.size(), "rewards", values.size());
  check_at_least(operation, "prompts", "to hold numbers >= 0", prompts.data(), prompts.size(), 0);
  Array1<T> centered(values.size());
  center_rewards(values.data(), prompts.data(), values.size(), centered.data());
  return centered;
}

}  // namespace selm
