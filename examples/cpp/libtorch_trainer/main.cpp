// Trains a small transformer with SELM entirely in C++: the policy answers prompts, a judge ranks
// the answers, the policy learns from best and worst, and its copy becomes the next reference.

#include <torch/torch.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>

#include "options.hpp"
#include "policy.hpp"
#include "task.hpp"
#include "training.hpp"

namespace {

/// Prompts of these numbers, (count, prompt_length).
torch::Tensor prompts_of(const torch::Tensor& numbers) {
  const auto shifts = torch::arange(task::prompt_length) * task::bits_per_letter;
  return numbers.unsqueeze(1).bitwise_right_shift(shifts).remainder(task::letters);
}

double average(const torch::Tensor& values) {
  return values.to(torch::kFloat64).mean().item<double>();
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void print_samples(const torch::Tensor& prompts, const torch::Tensor& before,
                   const torch::Tensor& after) {
  std::printf("\nheld-out prompts and greedy replies\n%-10s %-10s %-10s\n", "prompt", "before",
              "after");
  for (std::int64_t i = 0; i < 6; ++i) {
    std::printf("%-10s %-10s %-10s\n", text(prompts[i]).c_str(), text(before[i]).c_str(),
                text(after[i]).c_str());
  }
}

void run(const Options& options) {
  const Settings& settings = options.settings;
  torch::set_num_threads(1);  // fastest for so small a model, and the same sums on every machine
  torch::manual_seed(options.seed);
  // The first prompts are held out, the t-th portion of the others is for iteration t.
  const auto order = torch::randperm(task::prompts);
  const auto held_out = prompts_of(order.narrow(0, 0, options.held_out));

  Policy policy;
  torch::optim::AdamW optimizer(policy->parameters(), settings.learning_rate);
  const auto before = generate(policy, held_out, /*greedy=*/true);
  std::printf("initial policy: held-out score %.3f\n", average(judge(held_out, before)));
  std::fflush(stdout);

  auto after = before;
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t iteration = 1; iteration <= options.iterations; ++iteration) {
    Policy reference = frozen_copy(policy);
    const auto first = options.held_out + (iteration - 1) * settings.prompts;
    const auto prompts = prompts_of(order.narrow(0, first, settings.prompts));
    const Pairs pairs = make_pairs(reference, prompts, settings.samples);
    const double margin = train(policy, reference, pairs, settings, optimizer);

    after = generate(policy, held_out, /*greedy=*/true);
    const auto scores = judge(held_out, after);
    const auto ties = settings.prompts - pairs.prompts.size(0);
    const double left = seconds_since(start) * static_cast<double>(options.iterations - iteration) /
                        static_cast<double>(iteration);
    std::printf(
        "iteration %d of %d: held-out score %.3f, %.0f %% perfect, reward margin %.2f, "
        "%d ties dropped, %.0f s left\n",
        static_cast<int>(iteration), static_cast<int>(options.iterations), average(scores),
        100.0 * average(scores > 1.0 - 1e-9), margin, static_cast<int>(ties), left);
    std::fflush(stdout);
  }
  print_samples(held_out, before, after);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse_options(argc, argv));
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "libtorch_trainer: %s\n%s\n", error.what(), usage);
    return 2;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "libtorch_trainer: %s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "libtorch_trainer: %s\n", error.what());
    return 1;
  }
}
