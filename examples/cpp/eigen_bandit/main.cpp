// SELM against DPO where the theory speaks: finding an arm that the reference policy almost never
// plays. Prints P(the learner's policy is the best one) over the rounds, for several alphas.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <random>
#include <stdexcept>
#include <vector>

#include "bandit.hpp"
#include "options.hpp"

namespace {

using bandit::Options;

/// alpha * log pi(response) in the loss; 0 is DPO.
constexpr std::array<double, 6> alphas{0.0, 1e-6, 1e-3, 1e-2, 1e-1, 1.0};

/// The time left, on stderr: a line that is overwritten on a terminal, now and then a line
/// elsewhere.
class Progress {
 public:
  explicit Progress(int total) : total_(total) {}

  void advance() {
    ++done_;
    const Clock::time_point now = Clock::now();
    if (now < next_) {
      return;
    }
    next_ = now + interval_;
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    fmt::print(stderr, "{} of {} bandits, {:.0f} s left   {}", done_, total_,
               elapsed * (total_ - done_) / done_, is_terminal_ ? '\r' : '\n');
  }

 private:
  using Clock = std::chrono::steady_clock;
  int total_;
  int done_ = 0;
  bool is_terminal_ = isatty(fileno(stderr)) == 1;
  std::chrono::seconds interval_{is_terminal_ ? 1 : 10};
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_ = start_ + interval_;
};

/// The rounds whose result is printed: 1/20, 1/8, 1/4, 1/2 and all of them.
std::vector<int> checkpoints_of(int rounds) {
  std::vector<int> checkpoints;
  for (const int divisor : {20, 8, 4, 2, 1}) {
    const int round = std::max(1, rounds / divisor);
    if (checkpoints.empty() || checkpoints.back() != round) {
      checkpoints.push_back(round);
    }
  }
  return checkpoints;
}

/// Adds to `counts` the checkpoints at which the learner of one bandit has the best policy.
void run_bandit(bandit::Learner learner, const std::vector<int>& checkpoints,
                std::vector<int>& counts) {
  int round = 0;
  for (std::size_t c = 0; c < checkpoints.size(); ++c) {
    for (; round < checkpoints[c]; ++round) {
      learner.play_round();
    }
    counts[c] += learner.is_best() ? 1 : 0;
  }
}

std::vector<std::vector<int>> run(const Options& options, const std::vector<int>& checkpoints) {
  const bandit::PolicyClass policies;
  std::vector<std::vector<int>> counts(alphas.size(), std::vector<int>(checkpoints.size()));
  Progress progress(options.bandits);
  for (int b = 0; b < options.bandits; ++b) {
    std::seed_seq seed{options.seed & 0xffffffffU, options.seed >> 32U, std::uint64_t(b)};
    bandit::Random random(seed);
    const int truth = std::uniform_int_distribution<int>(1, bandit::rare_arms)(random);
    for (std::size_t a = 0; a < alphas.size(); ++a) {
      run_bandit({policies, alphas[a], truth, random}, checkpoints, counts[a]);
    }
    progress.advance();
  }
  return counts;
}

void print_table(const Options& options, const std::vector<int>& checkpoints,
                 const std::vector<std::vector<int>>& counts) {
  fmt::print("P(policy is the best one) +- standard error, {} bandits, seed {}\n\n",
             options.bandits, options.seed);
  fmt::print("{:>10} {:>11} ", "alpha", "SELM's");
  for (const int round : checkpoints) {
    fmt::print("{:>16}", fmt::format("round {}", round));
  }
  fmt::print("\n");
  for (std::size_t a = 0; a < alphas.size(); ++a) {
    fmt::print("{:>10g} {:>11g} ", alphas[a], alphas[a] / bandit::beta);
    for (const int count : counts[a]) {
      const double p = static_cast<double>(count) / options.bandits;
      const double error = std::sqrt(p * (1.0 - p) / options.bandits);
      fmt::print("{:>16}", fmt::format("{:.3f} +- {:.3f}", p, error));
    }
    fmt::print("\n");
  }
  fmt::print(
      "\nalpha multiplies log pi(response), response drawn from pi_ref (XPO's convention; "
      "SELM's is alpha / beta).\nalpha 0 is DPO.\n");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = bandit::parse_options(argc, argv);
    const std::vector<int> checkpoints = checkpoints_of(options.rounds);
    print_table(options, checkpoints, run(options, checkpoints));
  } catch (const std::invalid_argument& error) {
    fmt::print(stderr, "eigen_bandit: {}\n{}\n", error.what(), bandit::usage);
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "eigen_bandit: {}\n", error.what());
    return 1;
  }
}
