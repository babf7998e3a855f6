#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "catch.hpp"
#include "selm/host/divergence.hpp"
#include "selm/host/exploration.hpp"
#include "selm/host/logps.hpp"
#include "selm/host/losses.hpp"
#include "selm/host/rewards.hpp"

using selm::Array1;
using selm::Array2;
using selm::ErrorCode;

namespace {

using Lengths = Array1<std::int64_t>;
using Labels2 = Array2<std::int64_t>;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

struct Raised {
  ErrorCode code;
  std::string argument;
  std::string message;
};

Raised raised_by(const std::function<void()>& call) {
  try {
    call();
  } catch (const selm::Error& error) {
    return {error.code(), error.argument(), error.what()};
  }
  FAIL("nothing was thrown");
  return {};
}

/// A complete mistake: its kind, the argument and the whole message.
void check_raises(const std::function<void()>& call, ErrorCode code, const std::string& argument,
                  const std::string& message) {
  const Raised raised = raised_by(call);
  CHECK(raised.code == code);
  CHECK(raised.argument == argument);
  CHECK(raised.message == message);
}

void check_value_error(const std::function<void()>& call, const std::string& argument,
                       const std::string& message) {
  check_raises(call, ErrorCode::value, argument, message);
}

const Array1<float> four = Array1<float>::Constant(4, -5.0F);
const Array1<float> three = Array1<float>::Constant(3, -5.0F);
const Lengths four_lengths = Lengths::Constant(4, 7);

void dpo(const selm::PreferenceOptions& options) {
  selm::dpo_loss(four, four, four, four, options);
}

void ipo(const selm::OptionalLengths& chosen, const selm::OptionalLengths& rejected) {
  selm::dpo_loss(four, four, four, four, {"ipo", 0.1, 0.0}, chosen, rejected);
}

void bonus(const selm::ExplorationOptions& options, bool with_ref, std::optional<double> beta) {
  selm::exploration_bonus(four, with_ref ? selm::OptionalArray1Ref<float>(four) : std::nullopt,
                          options, beta);
}

}  // namespace

TEST_CASE("beta must be finite and positive, with a finite inverse", "[errors]") {
  check_value_error(
      [] {
        dpo({"sigmoid", -1.0, 0.0});
      },
      "beta", "selm::dpo_loss: expected 'beta' to be a finite number > 0, got -1");
  check_value_error(
      [] {
        dpo({"sigmoid", 0.0, 0.0});
      },
      "beta", "selm::dpo_loss: expected 'beta' to be a finite number > 0, got 0");
  check_value_error(
      [] {
        dpo({"hinge", not_a_number, 0.0});
      },
      "beta", "selm::dpo_loss: expected 'beta' to be a finite number > 0, got nan");
  check_value_error(
      [] {
        dpo({"hinge", infinity, 0.0});
      },
      "beta", "selm::dpo_loss: expected 'beta' to be a finite number > 0, got inf");
  check_value_error(
      [] {
        dpo({"sigmoid", 1e-310, 0.0});
      },
      "beta",
      "selm::dpo_loss: expected 'beta' to be large enough that 1 / (2 beta) is "
      "finite, got 1e-310");
  check_value_error([] { selm::implicit_rewards(four, four, 0.0); }, "beta",
                    "selm::implicit_rewards: expected 'beta' to be a finite number > 0, got 0");
  CHECK_NOTHROW(dpo({"sigmoid", 1e-8, 0.0}));
}

TEST_CASE("unknown names list the legal ones", "[errors]") {
  const Raised unknown_loss = raised_by([] { dpo({"dpo", 0.1, 0.0}); });
  CHECK(unknown_loss.argument == "loss_type");
  const std::string begin =
      "selm::dpo_loss: expected 'loss_type' to be one of 'sigmoid', 'hinge', 'ipo', ";
  const std::string end = ", got 'dpo'", message = unknown_loss.message;
  CHECK(message.substr(0, begin.size()) == begin);
  CHECK(message.substr(message.size() - end.size()) == end);
  check_value_error(
      [] {
        bonus({0.1, "none"}, true, 0.1);
      },
      "kind",
      "selm::exploration_bonus: expected 'kind' to be one of 'selm', 'xpo', 'popo', got "
      "'none'");
  check_value_error(
      [] {
        selm::selm_loss(four, four, four, four, four, four, {0.1, "SELM"}, {});
      },
      "exploration",
      "selm::selm_loss: expected 'exploration' to be one of 'selm', 'xpo', 'popo', got 'SELM'");
  check_value_error([] { selm::kl_estimate(four, four, "k4"); }, "kind",
                    "selm::kl_estimate: expected 'kind' to be one of 'k1', 'k2', 'k3', got 'k4'");
}

TEST_CASE("label smoothing is refused outside its range and where it is not defined", "[errors]") {
  check_value_error(
      [] {
        dpo({"sigmoid", 0.1, 0.6});
      },
      "label_smoothing",
      "selm::dpo_loss: expected 'label_smoothing' to be in [0, 0.5] for loss_type "
      "'sigmoid', got 0.6");
  check_value_error(
      [] {
        dpo({"sigmoid", 0.1, -0.1});
      },
      "label_smoothing",
      "selm::dpo_loss: expected 'label_smoothing' to be in [0, 0.5] for loss_type "
      "'sigmoid', got -0.1");
  check_value_error(
      [] {
        dpo({"sigmoid", 0.1, not_a_number});
      },
      "label_smoothing",
      "selm::dpo_loss: expected 'label_smoothing' to be in [0, 0.5] for loss_type "
      "'sigmoid', got nan");
  check_value_error(
      [] {
        dpo({"hinge", 0.1, 0.1});
      },
      "label_smoothing",
      "selm::dpo_loss: expected 'label_smoothing' to be 0: loss_type 'hinge' does "
      "not define label smoothing, got 0.1");
}

TEST_CASE("another f-divergence needs losses that know it", "[errors]") {
  const auto with_link = [](selm::LossType losses, const selm::OptionalLengths& chosen) {
    return [losses, chosen] {
      selm::dpo_loss(four, four, four, four, {losses, 0.1, 0.0, "forward_kl"}, chosen);
    };
  };
  check_value_error(with_link("nca_pair", std::nullopt), "f_divergence_type",
                    "selm::dpo_loss: expected 'f_divergence_type' to be 'reverse_kl': loss_type "
                    "'nca_pair' is defined for no other, got 'forward_kl'");
  for (const std::string name : {"sft", "nll"}) {
    check_value_error(
        with_link(name, four_lengths), "f_divergence_type",
        "selm::dpo_loss: expected 'f_divergence_type' to be 'reverse_kl': loss_type '" + name +
            "' does not use it, got 'forward_kl'");
  }
  using Losses = std::vector<selm::WeightedLoss>;
  check_value_error(with_link(Losses{{"sft"}, {"nll"}}, four_lengths), "f_divergence_type",
                    "selm::dpo_loss: expected 'f_divergence_type' to be 'reverse_kl': loss_type "
                    "['sft', 'nll'] does not use it, got 'forward_kl'");
  CHECK_NOTHROW(with_link(Losses{{"nll"}, {"hinge"}}, four_lengths)());
}

TEST_CASE("lengths belong to the losses that use them", "[errors]") {
  check_value_error([] { ipo(std::nullopt, std::nullopt); }, "chosen_lengths",
                    "selm::dpo_loss: expected 'chosen_lengths' to be given for loss_type 'ipo', "
                    "got none");
  check_value_error([] { ipo(four_lengths, std::nullopt); }, "rejected_lengths",
                    "selm::dpo_loss: expected 'rejected_lengths' to be given for loss_type 'ipo', "
                    "got none");
  check_value_error(
      [] { selm::dpo_loss(four, four, four, four, {}, std::nullopt, four_lengths); },
      "rejected_lengths",
      "selm::dpo_loss: expected 'rejected_lengths' to be left out: loss_type 'sigmoid' does not "
      "use it, got a value");
  const Lengths short_lengths = Lengths::Constant(3, 7);
  check_value_error([&] { ipo(four_lengths, short_lengths); }, "rejected_lengths",
                    "selm::dpo_loss: expected 'rejected_lengths' to have shape [4] (same as "
                    "'policy_chosen_logps'), got [3]");
  Lengths zero_length = four_lengths;
  zero_length[2] = 0;
  check_value_error([&] { ipo(zero_length, four_lengths); }, "chosen_lengths",
                    "selm::dpo_loss: expected 'chosen_lengths' to hold lengths >= 1, got 0 at [2]");
}

TEST_CASE("nothing is broadcast", "[errors]") {
  const Array1<float> one = Array1<float>::Constant(1, -5.0F);
  check_value_error([&] { selm::dpo_loss(four, four, one, four); }, "ref_chosen_logps",
                    "selm::dpo_loss: expected 'ref_chosen_logps' to have shape [4] (same as "
                    "'policy_chosen_logps'), got [1]");
  check_value_error([] { selm::dpo_loss(four, three, four, four); }, "policy_rejected_logps",
                    "selm::dpo_loss: expected 'policy_rejected_logps' to have shape [4] (same as "
                    "'policy_chosen_logps'), got [3]");
  check_value_error([] { selm::dpo_loss(four, four, four, three); }, "ref_rejected_logps",
                    "selm::dpo_loss: expected 'ref_rejected_logps' to have shape [4] (same as "
                    "'policy_chosen_logps'), got [3]");
  check_value_error([] { selm::implicit_rewards(four, three, 0.1); }, "ref_logps",
                    "selm::implicit_rewards: expected 'ref_logps' to have shape [4] (same as "
                    "'policy_logps'), got [3]");
  for (const char* argument : {"policy_response_logps", "ref_response_logps"}) {
    const bool policy_is_short = argument[0] == 'p';
    const Raised raised = raised_by([&] {
      selm::selm_loss(four, four, policy_is_short ? three : four, four, four,
                      policy_is_short ? four : three, {0.1, "selm"}, {});
    });
    CHECK(raised.argument == argument);
  }
  CHECK(raised_by([] { selm::kl_estimate(four, three); }).argument == "ref_logps");
  CHECK(raised_by([] {
          selm::exploration_bonus(four, three, {0.1, "selm"}, 0.1);
        }).argument == "ref_logps");
  CHECK(raised_by([] { selm::reward_margins(four, three); }).argument == "rejected_rewards");
  CHECK(raised_by([] { selm::reward_accuracies(four, three); }).argument == "rejected_rewards");
  CHECK(raised_by([] { selm::log_partition(four, three, 0.1); }).argument == "rewards");
  CHECK(raised_by([] { selm::policy_logps_from_rewards(four, three, 0.1, 0.0); }).argument ==
        "ref_logps");
}

TEST_CASE("a prompt without responses has no partition function", "[errors]") {
  check_value_error([] { selm::log_partition(Array1<float>(0), Array1<float>(0), 0.1); },
                    "ref_logps",
                    "selm::log_partition: expected 'ref_logps' to hold at least one response, got "
                    "none");
}

TEST_CASE("log-probabilities above 0 are refused with their place", "[errors]") {
  Array1<float> positive = four;
  positive[3] = 0.25F;
  const char* message = "to hold log-probabilities <= 0, got 0.25 at [3]";
  const auto check = [&](const char* argument, const std::function<void()>& call) {
    const Raised raised = raised_by(call);
    CHECK(raised.code == ErrorCode::value);
    CHECK(raised.argument == argument);
    CHECK(raised.message.find(message) != std::string::npos);
  };
  check("policy_chosen_logps", [&] { selm::dpo_loss(positive, four, four, four); });
  check("policy_rejected_logps", [&] { selm::dpo_loss(four, positive, four, four); });
  check("ref_chosen_logps", [&] { selm::dpo_loss(four, four, positive, four); });
  check("ref_rejected_logps", [&] { selm::dpo_loss(four, four, four, positive); });
  check("policy_response_logps",
        [&] { selm::selm_loss(four, four, positive, four, four, four, {}, {}); });
  check("ref_response_logps",
        [&] { selm::selm_loss(four, four, four, four, four, positive, {}, {}); });
  check("policy_logps", [&] { selm::implicit_rewards(positive, four, 0.1); });
  check("ref_logps", [&] { selm::implicit_rewards(four, positive, 0.1); });
  check("policy_logps", [&] { selm::kl_estimate(positive, four); });
  check("ref_logps", [&] { selm::kl_estimate(four, positive); });
  check("policy_logps", [&] { selm::exploration_bonus(positive, four, {0.1, "selm"}, 0.1); });
  check("ref_logps", [&] { selm::exploration_bonus(four, positive, {0.1, "selm"}, 0.1); });
  check("ref_logps", [&] { selm::log_partition(positive, four, 0.1); });
  check("ref_logps", [&] { selm::policy_logps_from_rewards(four, positive, 0.1, 0.0); });

  positive[3] = 0.0009F;  // rounding of a row that sums to one
  CHECK_NOTHROW(selm::dpo_loss(positive, four, four, four));
  positive[3] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(selm::dpo_loss(positive, four, four, four), selm::Error);
}

TEST_CASE("alpha must be finite, and needs a response unless it is 0", "[errors]") {
  for (const double alpha : {not_a_number, infinity, -infinity}) {
    CHECK(raised_by([&] { bonus({alpha, "selm"}, true, 0.1); }).argument == "alpha");
  }
  check_value_error(
      [] {
        selm::selm_loss(four, four, four, four, four, four, {infinity, "selm"}, {});
      },
      "alpha", "selm::selm_loss: expected 'alpha' to be a finite number, got inf");
  check_value_error(
      [] {
        selm::selm_loss(four, four, std::nullopt, four, four, std::nullopt, {0.1, "selm"}, {});
      },
      "policy_response_logps",
      "selm::selm_loss: expected 'policy_response_logps' to be given for alpha 0.1, got none");
  check_value_error(
      [] {
        selm::selm_loss(four, four, four, four, four, std::nullopt, {0.0, "selm"}, {});
      },
      "ref_response_logps",
      "selm::selm_loss: expected 'ref_response_logps' to be given for the response's reward, got "
      "none");
}

TEST_CASE("exploration_bonus takes beta and ref_logps where its kind uses them", "[errors]") {
  check_value_error(
      [] {
        bonus({0.1, "selm"}, true, std::nullopt);
      },
      "beta",
      "selm::exploration_bonus: expected 'beta' to be given for kind 'selm', got "
      "none");
  check_value_error(
      [] {
        bonus({0.1, "selm"}, false, 0.1);
      },
      "ref_logps",
      "selm::exploration_bonus: expected 'ref_logps' to be given for kind 'selm', "
      "got none");
  check_value_error(
      [] {
        bonus({0.1, "xpo"}, false, 0.1);
      },
      "beta",
      "selm::exploration_bonus: expected 'beta' to be left out: kind 'xpo' does not "
      "use it, got a value");
  check_value_error(
      [] {
        bonus({0.1, "xpo"}, true, std::nullopt);
      },
      "ref_logps",
      "selm::exploration_bonus: expected 'ref_logps' to be left out: kind 'xpo' does "
      "not use it, got a value");
  CHECK(raised_by([] { bonus({0.1, "selm"}, true, -0.1); }).argument == "beta");
}

TEST_CASE("a log partition must be finite", "[errors]") {
  check_value_error(
      [] { selm::policy_logps_from_rewards(four, four, 0.1, infinity); }, "log_partition",
      "selm::policy_logps_from_rewards: expected 'log_partition' to be a finite number, got inf");
}

TEST_CASE("labels outside the vocabulary raise an index error with their place", "[errors]") {
  const Array2<float> logits = Array2<float>::Ones(4, 10);
  Lengths index(4);
  index << 1, -100, 10, 3;
  check_raises([&] { selm::selective_log_softmax(logits, index); }, ErrorCode::index, "index",
               "selm::selective_log_softmax: expected 'index' to hold -100 (ignored) or a token id "
               "below the vocabulary size 10, got 10 at [2]");
  index[2] = -1;
  CHECK(raised_by([&] { selm::selective_log_softmax_grad(four, logits, index); }).code ==
        ErrorCode::index);
  CHECK_NOTHROW(selm::selective_log_softmax(logits, Lengths::Constant(4, 42), 1.0, 42));

  Labels2 labels(2, 2);
  labels << 99, 3, 4, 11;  // the first token of a sequence is never scored
  check_raises([&] { selm::sequence_logps(logits, labels); }, ErrorCode::index, "labels",
               "selm::sequence_logps: expected 'labels' to hold -100 (ignored) or a token id below "
               "the vocabulary size 10, got 11 at [1, 1]");
  CHECK(raised_by([&] {
          selm::sequence_logps_grad(Array1<float>::Ones(2), logits, labels);
        }).code == ErrorCode::index);
}

TEST_CASE("logits must fit their labels", "[errors]") {
  const Array2<float> logits = Array2<float>::Ones(6, 10);
  check_value_error([&] { selm::selective_log_softmax(logits, four_lengths); }, "index",
                    "selm::selective_log_softmax: expected 'index' to have shape [6] (rows of "
                    "'logits'), got [4]");
  check_value_error(
      [&] { selm::sequence_logps(logits, Labels2::Ones(2, 4)); }, "logits",
      "selm::sequence_logps: expected 'logits' to have one row per label, 2 * 4, got 6 rows "
      "(already shifted? the shift happens inside)");
  check_value_error(
      [&] { selm::sequence_logps(logits, Labels2::Ones(2, 5)); }, "logits",
      "selm::sequence_logps: expected 'logits' to have one row per label, 2 * 5, got 6 rows");
  check_value_error(
      [] { selm::selective_log_softmax(Array2<float>(4, 0), four_lengths); }, "logits",
      "selm::selective_log_softmax: expected 'logits' to have a vocabulary of at least 1 token, "
      "got shape [4, 0]");
  for (const double temperature : {0.0, -1.0, not_a_number, infinity}) {
    CHECK(raised_by([&] {
            selm::selective_log_softmax(logits, Lengths::Ones(6), temperature);
          }).argument == "temperature");
  }
  check_value_error([&] { selm::selective_log_softmax(logits, Lengths::Ones(6), 1e-310); },
                    "temperature",
                    "selm::selective_log_softmax: expected 'temperature' to keep 1 / temperature "
                    "within the range of float64, got 1e-310, which makes it inf");
  CHECK(raised_by([&] {
          selm::selective_log_softmax_grad(four, logits, Lengths::Ones(6));
        }).argument == "grad_logps");
  CHECK(raised_by([&] { selm::sequence_logps_grad(four, logits, Labels2::Ones(2, 3)); }).argument ==
        "grad_logps");
}
