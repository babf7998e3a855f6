#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "catch.hpp"
#include "selm/host/rewards.hpp"
#include "selm/host/token_level.hpp"

using selm::Array1;
using selm::Array2;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Three responses of 3, 1 and 0 tokens; what is masked is never read.
struct Tokens {
  Array2<bool> mask{3, 4};
  Array2<double> policy{3, 4};
  Array2<double> ref{3, 4};

  Tokens() {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    mask << false, true, true, true, true, false, false, false, false, false, false, false;
    policy << 9.0, -1.0, -2.0, -4.0, -0.5, nan, nan, nan, nan, nan, nan, nan;
    ref << 9.0, -2.0, -2.5, -3.0, -0.25, nan, nan, nan, nan, nan, nan, nan;
  }
};

bool are_equal(const Array1<double>& got, std::initializer_list<double> expected) {
  return std::equal(got.data(), got.data() + got.size(), expected.begin(), expected.end());
}

}  // namespace

TEST_CASE("sums, means and LD-DPO count the tokens of the mask", "[host]") {
  const Tokens tokens;
  CHECK(are_equal(selm::masked_sum(tokens.policy, tokens.mask), {-7.0, -0.5, 0.0}));
  CHECK(are_equal(selm::masked_mean(tokens.policy, tokens.mask), {-7.0 / 3.0, -0.5, 0.0}));
  Array1<std::int64_t> shared(3);
  shared << 1, 0, 0;
  const auto ld = [&](double ld_alpha) {
    return selm::length_desensitized_logps(tokens.policy, tokens.mask, shared, ld_alpha);
  };
  CHECK(are_equal(ld(0.5), {-4.0, -0.25, 0.0}));
  CHECK(are_equal(ld(1.0), {-7.0, -0.5, 0.0}));
  CHECK(are_equal(ld(0.0), {-1.0, 0.0, 0.0}));
}

TEST_CASE("an infinite excess token does not count without weight", "[core]") {
  const double logps[]{-1.0, -infinity};
  const bool mask[]{true, true};
  CHECK(selm::length_desensitized_logp(logps, {mask, 2}, 1, 0.0) == -1.0);
  CHECK(selm::length_desensitized_logp(logps, {mask, 2}, 1, 0.5) == -infinity);
}

TEST_CASE("weights of WPO are exponentials of means", "[host]") {
  const Tokens tokens;
  const Array1<double> weights = selm::wpo_weights(tokens.policy, tokens.ref, tokens.mask);
  CHECK(weights[0] == Approx(std::exp(0.5 / 3.0)).epsilon(1e-15));
  CHECK(weights[1] == Approx(std::exp(-0.25)).epsilon(1e-15));
  CHECK(weights[2] == 1.0);
}

TEST_CASE("token rewards add up to prefix rewards and to the response's", "[host]") {
  const Tokens tokens;
  const Array2<double> each = selm::token_rewards(tokens.policy, tokens.ref, tokens.mask, 0.5);
  CHECK(are_equal(each.row(0).transpose(), {0.0, 0.5, 0.25, -0.5}));
  const Array2<double> all = selm::prefix_rewards(tokens.policy, tokens.ref, tokens.mask, 0.5);
  CHECK(are_equal(all.row(0).transpose(), {0.0, 0.5, 0.75, 0.25}));
  CHECK(are_equal(all.col(3), {0.25, -0.125, 0.0}));
}

TEST_CASE("a prefix sum of float tokens is a sum in double", "[host]") {
  const Array2<float> policy = Array2<float>::Constant(1, 20000, -0.1F);
  const Array2<float> ref = Array2<float>::Constant(1, 20000, -0.3F);
  const Array2<bool> mask = Array2<bool>::Constant(1, 20000, true);
  const Array2<float> rewards = selm::prefix_rewards(policy, ref, mask, 1.0);
  CHECK(rewards(0, 19999) == static_cast<float>(20000 * (double(-0.1F) - double(-0.3F))));
}

TEST_CASE("centred rewards know nothing of their prompt's constant", "[host]") {
  Array1<double> rewards(4);
  rewards << 1.0, 2.0, 30.0, 6.0;
  Array1<std::int64_t> prompts(4);
  prompts << 7, 7, 3, 7;
  CHECK(are_equal(selm::center_rewards(rewards, prompts), {-2.0, -1.0, 0.0, 3.0}));
}

TEST_CASE("log Z of each row is that of its prompt", "[host]") {
  const Array2<double> ref = -Array2<double>::Random(3, 5).abs();
  const Array2<double> rewards = Array2<double>::Random(3, 5);
  const Array1<double> all = selm::log_partition(ref, rewards, 0.3);
  for (Eigen::Index i = 0; i < 3; ++i) {
    const Array1<double> ref_row = ref.row(i), rewards_row = rewards.row(i);
    CHECK(all[i] == selm::log_partition(ref_row, rewards_row, 0.3));
    const Array1<double> policy = selm::policy_logps_from_rewards(
        rewards_row, ref_row, 0.3, Array1<double>::Constant(5, all[i]));
    CHECK(std::fabs(policy.exp().sum() - 1.0) < 1e-14);
  }
}

TEST_CASE("bad tokens are refused by name", "[errors]") {
  const Tokens tokens;
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const selm::Error& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  CHECK(
      message([&] { selm::masked_sum(tokens.policy, Array2<bool>::Constant(3, 2, true)); }) ==
      "selm::masked_sum: expected 'mask' to have shape [3, 4] (same as 'token_logps'), got [3, 2]");
  CHECK(message([&] { selm::masked_sum(tokens.policy, Array2<bool>::Constant(3, 4, true)); }) ==
        "selm::masked_sum: expected 'token_logps' to hold log-probabilities <= 0, got 9 at [0]");
  CHECK(message([&] { selm::token_rewards(tokens.policy, tokens.ref, tokens.mask, 0.0); }) ==
        "selm::token_rewards: expected 'beta' to be a finite number > 0, got 0");
  const Array1<std::int64_t> negative = Array1<std::int64_t>::Constant(3, -3);
  CHECK(message(
            [&] { selm::length_desensitized_logps(tokens.policy, tokens.mask, negative, 0.5); }) ==
        "selm::length_desensitized_logps: expected 'shared_lengths' to hold lengths >= 0, got -3 "
        "at [0]");
}
