#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <typeinfo>
#include <vector>

#include "catch.hpp"
#include "selm/torch/ops.hpp"

// selm::ops as a C++ program calls it. The Python tests measure accuracy on many more inputs.

namespace {

using Tensors = std::vector<at::Tensor>;
using Scalar = std::function<at::Tensor(const Tensors&)>;

/// Numbers in [-1, 1] without a pattern.
at::Tensor wave(at::IntArrayRef shape, double phase, at::ScalarType type = at::kDouble) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    count *= size;
  }
  return (at::arange(count, at::kDouble) * 1.7 + phase).sin().view(shape).to(type);
}

at::Tensor logps(double phase, at::ScalarType type = at::kDouble) {
  return (wave({5}, phase) * 4.0 - 5.0).to(type);
}

at::Tensor labels() {
  at::Tensor tokens = at::arange(8, at::kLong).remainder(7).view({2, 4});
  tokens[0][1] = -100;
  return tokens;
}

double number(const at::Tensor& tensor) {
  return tensor.item<double>();
}

/// |got - expected|, relative to what is larger than 1.
double distance(double got, double expected) {
  return std::fabs(got - expected) / std::max(1.0, std::fabs(expected));
}

/// log softmax(logits / temperature)[target] of one row, by its definition.
double token_logp(const at::Tensor& logits, std::int64_t target, double temperature) {
  double sum = 0.0;
  for (std::int64_t v = 0; v < logits.size(0); ++v) {
    sum += std::exp(number(logits[v]) / temperature);
  }
  return number(logits[target]) / temperature - std::log(sum);
}

/// Autograd against central differences of `f` in every element of every leaf.
void check_gradients(Tensors leaves, const Scalar& f) {
  for (at::Tensor& leaf : leaves) {
    leaf.set_requires_grad(true);
  }
  const Tensors grads = torch::autograd::grad({f(leaves)}, leaves);
  for (std::size_t k = 0; k < leaves.size(); ++k) {
    REQUIRE(grads[k].sizes() == leaves[k].sizes());
    for (std::int64_t i = 0; i < leaves[k].numel(); ++i) {
      constexpr double step = 1e-6;
      const auto at_distance = [&](double distance) {
        Tensors moved;
        for (const at::Tensor& leaf : leaves) {
          moved.push_back(leaf.detach().clone());
        }
        moved[k].view(-1)[i].add_(distance);
        return number(f(moved));
      };
      const double slope = (at_distance(step) - at_distance(-step)) / (2.0 * step);
      CHECK(distance(number(grads[k].reshape(-1)[i]), slope) < 1e-7);
    }
  }
}

/// A sum with a different weight for each element.
at::Tensor weighted(const at::Tensor& values) {
  return (values * wave(values.sizes(), 0.4)).sum();
}

/// The exact kind and the whole message of what a call raises.
template <typename Error>
void check_raises(const std::function<void()>& call, const std::string& message) {
  try {
    call();
  } catch (const c10::Error& error) {
    CHECK(typeid(error) == typeid(Error));
    CHECK(std::string(error.what_without_backtrace()) == message);
    return;
  }
  FAIL("nothing was thrown instead of " << message);
}

}  // namespace

TEMPLATE_TEST_CASE("dpo_loss and selm_loss are their formulas", "[torch]", float, double) {
  constexpr at::ScalarType type = c10::CppTypeToScalarType<TestType>::value;
  constexpr double alpha = 0.2;
  constexpr double beta = 0.3;
  constexpr double rounding = 4 * std::numeric_limits<TestType>::epsilon();
  Tensors x;
  for (int i = 0; i < 6; ++i) {
    x.push_back(logps(i, type));
  }
  const auto dpo = selm::ops::dpo_loss(x[0], x[1], x[3], x[4], {"sigmoid", beta, 0.0});
  const auto out = selm::ops::selm_loss(x[0], x[1], x[2], x[3], x[4], x[5], {alpha, "selm"},
                                        {"sigmoid", beta, 0.0});
  REQUIRE(out.losses.scalar_type() == type);
  for (std::int64_t i = 0; i < 5; ++i) {
    const double chosen = beta * (number(x[0][i]) - number(x[3][i]));
    const double rejected = beta * (number(x[1][i]) - number(x[4][i]));
    const double loss = std::log1p(std::exp(rejected - chosen));
    const double exploration = alpha * beta * (number(x[2][i]) - number(x[5][i]));
    CHECK(distance(number(dpo.losses[i]), loss) < rounding);
    CHECK(distance(number(out.dpo_losses[i]), loss) < rounding);
    CHECK(distance(number(out.exploration[i]), exploration) < rounding);
    CHECK(distance(number(out.losses[i]), loss + exploration) < rounding);
    CHECK(distance(number(out.chosen_rewards[i]), chosen) < rounding);
    CHECK(distance(number(out.rejected_rewards[i]), rejected) < rounding);
  }
}

TEST_CASE("selm_loss without a response has no response's rewards", "[torch]") {
  const at::Tensor x = logps(0);
  const auto out = selm::ops::selm_loss(x, x, {}, x, x, {}, {0.0, "selm"});
  CHECK(out.losses.defined());
  CHECK_FALSE(out.response_rewards.defined());
}

TEST_CASE("log-probabilities are those of the definition", "[torch]") {
  const at::Tensor hidden = wave({2, 4, 3}, 0.1);
  const at::Tensor weight = wave({7, 3}, 0.2) * 2.0;
  const at::Tensor bias = wave({7}, 0.3);
  const at::Tensor logits = hidden.matmul(weight.t()) + bias;
  const at::Tensor tokens = labels();
  const auto direct = selm::ops::selective_log_softmax(logits, tokens, 0.7);
  selm::ops::LinearLogpsOptions options;
  options.bias = bias;
  options.temperature = 0.7;
  options.outputs = {"entropy"};
  options.workspace_bytes = 3 * 7 * 8;  // tiles of three rows
  const auto fused = selm::ops::linear_logps(hidden, weight, tokens, options);
  const auto sums = selm::ops::sequence_logps(logits, tokens);
  CHECK(fused.entropy.sizes() == tokens.sizes());
  CHECK_FALSE(fused.is_top1.defined());
  for (std::int64_t b = 0; b < 2; ++b) {
    double sum = 0.0;
    for (std::int64_t t = 0; t < 4; ++t) {
      const auto target = tokens[b][t].item<std::int64_t>();
      const double expected = target < 0 ? 0.0 : token_logp(logits[b][t], target, 0.7);
      CHECK(distance(number(direct[b][t]), expected) < 1e-13);
      CHECK(distance(number(fused.logps[b][t]), expected) < 1e-13);
      if (t > 0 && target >= 0) {
        sum += token_logp(logits[b][t - 1], target, 1.0);
      }
    }
    CHECK(distance(number(sums[b]), sum) < 1e-13);
  }
}

TEST_CASE("rewards, exploration and divergence are their formulas", "[torch]") {
  const at::Tensor policy = logps(1);
  const at::Tensor ref = logps(2);
  const at::Tensor rewards = selm::ops::implicit_rewards(policy, ref, 0.3);
  const at::Tensor bonus = selm::ops::exploration_bonus(policy, ref, {0.2, "selm"}, 0.3);
  const at::Tensor divergence = selm::ops::kl_estimate(policy, ref, "k3");
  for (std::int64_t i = 0; i < 5; ++i) {
    const double logratio = number(policy[i]) - number(ref[i]);
    CHECK(distance(number(rewards[i]), 0.3 * logratio) < 1e-14);
    CHECK(distance(number(bonus[i]), 0.2 * 0.3 * logratio) < 1e-14);
    CHECK(distance(number(divergence[i]), std::expm1(-logratio) + logratio) < 1e-12);
  }
}

TEST_CASE("gradients of losses are the slopes of their values", "[torch]") {
  const at::Tensor ref = logps(7);
  check_gradients({logps(1), logps(2)}, [&](const Tensors& x) {
    return weighted(selm::ops::dpo_loss(x[0], x[1], ref, ref, {"sigmoid", 0.3, 0.1}).losses);
  });
  check_gradients({logps(1), logps(2), logps(3)}, [&](const Tensors& x) {
    return weighted(
        selm::ops::selm_loss(x[0], x[1], x[2], ref, ref, ref, {0.2, "selm"}, {"sigmoid", 0.3, 0.0})
            .losses);
  });
  check_gradients({logps(1)}, [&](const Tensors& x) {
    return weighted(selm::ops::implicit_rewards(x[0], ref, 0.3) +
                    selm::ops::exploration_bonus(x[0], {}, {0.2, "xpo"}) +
                    selm::ops::kl_estimate(x[0], ref));
  });
}

TEST_CASE("gradients of log-probabilities are the slopes of their values", "[torch]") {
  check_gradients({wave({2, 4, 7}, 0.5)}, [](const Tensors& x) {
    return weighted(selm::ops::selective_log_softmax(x[0], labels(), 0.7));
  });
  check_gradients({wave({2, 4, 7}, 0.5)}, [](const Tensors& x) {
    return weighted(selm::ops::sequence_logps(x[0], labels(), -100, true));
  });
  const Scalar head = [](const Tensors& x) {
    selm::ops::LinearLogpsOptions options;
    options.bias = wave({7}, 0.3);
    if (x.size() > 2) {
      options.bias = x[2];
    }
    options.softcap = 2.0;
    const at::Tensor weight = x.size() > 1 ? x[1] : wave({7, 3}, 0.2);
    return weighted(selm::ops::linear_logps(x[0], weight, labels(), options).logps);
  };
  check_gradients({wave({2, 4, 3}, 0.1), wave({7, 3}, 0.2), wave({7}, 0.3)}, head);
  check_gradients({wave({2, 4, 3}, 0.1)}, head);  // a frozen head goes another way
}

TEST_CASE("undefined tensors are named", "[torch]") {
  const at::Tensor none;
  const at::Tensor x = logps(0);
  const auto is_named = [](const char* op, const char* name, const std::function<void()>& call) {
    check_raises<c10::ValueError>(call, std::string("selm::") + op + ": expected '" + name +
                                            "' to be a tensor, got an undefined one");
  };
  is_named("dpo_loss", "policy_chosen_logps", [&] { selm::ops::dpo_loss(none, x, x, x); });
  is_named("dpo_loss", "ref_rejected_logps", [&] { selm::ops::dpo_loss(x, x, x, none); });
  is_named("dpo_loss", "chosen_lengths",
           [&] { selm::ops::dpo_loss(x, x, x, x, {"ipo"}, none, none); });
  is_named("selm_loss", "policy_response_logps", [&] {
    selm::ops::selm_loss(x, x, none, x, x, x, {0.1, "selm"});
  });
  is_named("implicit_rewards", "ref_logps", [&] { selm::ops::implicit_rewards(x, none, 0.1); });
  is_named("exploration_bonus", "policy_logps", [&] {
    selm::ops::exploration_bonus(none, {}, {0.1, "xpo"});
  });
  is_named("kl_estimate", "ref_logps", [&] { selm::ops::kl_estimate(x, none); });
  const at::Tensor logits = wave({2, 4, 7}, 0);
  is_named("selective_log_softmax", "logits",
           [&] { selm::ops::selective_log_softmax(none, labels()); });
  is_named("sequence_logps", "labels", [&] { selm::ops::sequence_logps(logits, none); });
  const at::Tensor weight = wave({7, 7}, 0);
  is_named("linear_logps", "hidden", [&] { selm::ops::linear_logps(none, weight, labels()); });
  is_named("linear_logps", "weight", [&] { selm::ops::linear_logps(logits, none, labels()); });
  is_named("linear_logps", "labels", [&] { selm::ops::linear_logps(logits, weight, none); });
  is_named("linear_logps", "bias",
           [&] { selm::ops::linear_logps(logits, weight, labels(), {none}); });
}

TEST_CASE("mistakes are c10's errors, with the whole message", "[torch]") {
  const at::Tensor x = logps(0, at::kFloat);
  const at::Tensor logits = wave({2, 4, 7}, 0, at::kFloat);
  check_raises<c10::TypeError>(
      [&] { selm::ops::dpo_loss(x, x, x.to(at::kDouble), x); },
      "selm::dpo_loss: expected 'ref_chosen_logps' to be float32 (same as 'policy_chosen_logps'), "
      "got float64");
  check_raises<c10::TypeError>(
      [&] { selm::ops::selective_log_softmax(logits.to(at::kInt), labels()); },
      "selm::selective_log_softmax: expected 'logits' to be float32, float64, float16 or bfloat16, "
      "got int32");
  check_raises<c10::ValueError>([&] { selm::ops::dpo_loss(x, x.slice(0, 0, 4), x, x); },
                                "selm::dpo_loss: expected 'policy_rejected_logps' to have shape "
                                "[5] (same as 'policy_chosen_logps'), got [4] (float32, cpu)");
  check_raises<c10::ValueError>(
      [&] { selm::ops::implicit_rewards(x, x, -1.0); },
      "selm::implicit_rewards: expected 'beta' to be a finite number > 0, got -1");
  check_raises<c10::ValueError>(
      [&] { selm::ops::dpo_loss(x, x, x, x + 9.0); },
      "selm::dpo_loss: expected 'ref_rejected_logps' to hold log-probabilities <= 0, got 4 at [0]");
  check_raises<c10::IndexError>(
      [&] { selm::ops::selective_log_softmax(logits, labels() + 3); },
      "selm::selective_log_softmax: expected 'index' to hold -100 (ignored) or a token id below "
      "the vocabulary size 7, got -97 at [0, 1]");
  check_raises<c10::NotImplementedError>(
      [&] { selm::ops::sequence_logps(logits.to_sparse(), labels()); },
      "selm::sequence_logps: expected 'logits' to be a dense tensor, got layout Sparse");
}

TEST_CASE("second derivatives raise", "[torch]") {
  const at::Tensor ref = logps(7);
  const auto is_refused = [](const char* op, at::Tensor leaf, const Scalar& f) {
    leaf.set_requires_grad(true);
    const Tensors grads = torch::autograd::grad({f({leaf})}, {leaf}, {}, true, true);
    check_raises<c10::NotImplementedError>(
        [&] { torch::autograd::grad({grads[0].square().sum()}, {leaf}); },
        std::string("selm::") + op + ": second derivatives are not implemented");
  };
  is_refused("dpo_loss", logps(1), [&](const Tensors& x) {
    return selm::ops::dpo_loss(x[0], ref, ref, ref).losses.sum();
  });
  is_refused("kl_estimate", logps(1),
             [&](const Tensors& x) { return selm::ops::kl_estimate(x[0], ref).sum(); });
  is_refused("sequence_logps", wave({2, 4, 7}, 0),
             [](const Tensors& x) { return selm::ops::sequence_logps(x[0], labels()).sum(); });
  is_refused("linear_logps", wave({2, 4, 3}, 0), [](const Tensors& x) {
    return selm::ops::linear_logps(x[0], wave({7, 3}, 0.2), labels()).logps.sum();
  });
}
