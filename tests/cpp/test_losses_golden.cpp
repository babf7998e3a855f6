#include <cmath>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "accuracy.hpp"
#include "catch.hpp"
#include "golden.hpp"
#include "golden_options.hpp"
#include "selm/core/preference_batch.hpp"
#include "selm/host/exploration.hpp"
#include "selm/host/losses.hpp"

// Every loss and term against the exact tables of tests/data, row by row.

using selm::Array1;
using namespace selm::test;

namespace {

const std::vector<std::string> logps{"policy_chosen", "policy_rejected", "policy_response",
                                     "ref_chosen",    "ref_rejected",    "ref_response"};

template <typename T>
Array1<T> one(double value) {
  return Array1<T>::Constant(1, static_cast<T>(value));
}

using Lengths = std::optional<Array1<std::int64_t>>;

Lengths lengths_of(const GoldenRow& row, const std::string& response) {
  const std::optional<std::int64_t> length = length_of(row, response);
  return length ? Lengths(Array1<std::int64_t>::Constant(1, *length)) : std::nullopt;
}

selm::OptionalLengths as_argument(const Lengths& lengths) {
  return lengths ? selm::OptionalLengths(*lengths) : std::nullopt;
}

/// The rows of a table whose inputs are numbers of type T.
template <typename T>
std::vector<GoldenRow> rows_of(const std::string& table, const std::vector<std::string>& inputs) {
  std::vector<GoldenRow> rows;
  for (const GoldenRow& row : read_golden(table)) {
    if (std::all_of(inputs.begin(), inputs.end(), [&](const std::string& input) {
          return !row.has(input) || is_representable<T>(row.optional_number(input).value_or(0.0));
        })) {
      rows.push_back(row);
    }
  }
  return rows;
}

/// One result of a row against its column. A gradient without a limit and that of a loss that has
/// no value are not promised.
template <typename T>
void check(T got, const GoldenRow& row, const std::string& output, const std::string& loss) {
  if (output.rfind("d_", 0) == 0 &&
      (std::isnan(row.number(loss)) || std::isnan(row.number(output)))) {
    return;
  }
  INFO(output << " is " << got << ", not " << row.text(output) << ", scale "
              << row.text(output + "_scale"));
  CHECK(keeps_promise(got, row.number(output), row.number(output + "_scale")));
}

struct OnePair {
  std::vector<double> logp;
  std::optional<std::int64_t> chosen_length, rejected_length;

  explicit OnePair(const GoldenRow& row)
      : chosen_length(length_of(row, "chosen")), rejected_length(length_of(row, "rejected")) {
    for (const std::string& name : logps) {
      logp.push_back(row.number(name));
    }
  }

  selm::PreferenceInputs<double> inputs() const {
    const double* x = logp.data();
    return {x,
            x + 1,
            x + 2,
            x + 3,
            x + 4,
            x + 5,
            chosen_length ? &*chosen_length : nullptr,
            rejected_length ? &*rejected_length : nullptr};
  }
};

std::set<std::string> losses_in(const std::string& table) {
  std::set<std::string> names;
  for (const GoldenRow& row : read_golden(table)) {
    names.insert(row.text("loss_type"));
  }
  return names;
}

template <typename... Losses>
std::vector<selm::LossTraits> traits_of(selm::TypeList<Losses...>) {
  return {Losses::traits...};
}

}  // namespace

TEST_CASE("every loss has a name of its own, and golden rows unless it ranks a batch", "[core]") {
  const std::set<std::string> with_reference = losses_in("preference.csv"),
                              without = losses_in("policy_losses.csv");
  std::set<std::string> names;
  for (const selm::LossTraits& loss : traits_of(selm::PairLosses{})) {
    CAPTURE(loss.name);
    CHECK(names.insert(loss.name).second);
    if (loss.pairing == selm::Pairing::row) {
      CHECK((loss.averages_rewards() ? without : with_reference).count(loss.name) == 1);
    }
  }
}

TEST_CASE("the losses of selm/core meet the golden table", "[core]") {
  for (const GoldenRow& row : read_golden("preference.csv")) {
    CAPTURE(row.line());
    const OnePair pair(row);
    const selm::PreferenceOptions options = options_of(row);
    const selm::RankedBatch batch(options, pair.inputs(), 1);
    const selm::PairGrad<double> f =
        evaluate_loss(make_loss_sum(options), batch.complete(pair.inputs()), 0);
    check(f.value, row, "dpo_loss", "dpo_loss");
    check(f.d_chosen, row, "d_chosen", "dpo_loss");
    check(f.d_rejected, row, "d_rejected", "dpo_loss");
  }
}

TEMPLATE_TEST_CASE("selm_loss on Eigen arrays meets the golden table", "[host]", float, double) {
  using T = TestType;
  const std::vector<GoldenRow> rows = rows_of<T>("preference.csv", logps);
  CHECK(rows.size() > 2500);
  for (const GoldenRow& row : rows) {
    CAPTURE(row.line());
    const Lengths chosen = lengths_of(row, "chosen"), rejected = lengths_of(row, "rejected");
    const auto x = [&](const char* name) { return one<T>(row.number(name)); };
    const selm::SelmLoss<T> got =
        selm::selm_loss(x("policy_chosen"), x("policy_rejected"), x("policy_response"),
                        x("ref_chosen"), x("ref_rejected"), x("ref_response"), exploration_of(row),
                        options_of(row), as_argument(chosen), as_argument(rejected));
    check(got.losses[0], row, "loss", "dpo_loss");
    check(got.dpo_losses[0], row, "dpo_loss", "dpo_loss");
    check(got.exploration[0], row, "exploration_term", "dpo_loss");
    check(got.chosen_rewards[0], row, "chosen_reward", "dpo_loss");
    check(got.rejected_rewards[0], row, "rejected_reward", "dpo_loss");
    check(got.response_rewards[0], row, "response_reward", "dpo_loss");
    check(got.grad_chosen_logps[0], row, "d_chosen", "dpo_loss");
    check(got.grad_rejected_logps[0], row, "d_rejected", "dpo_loss");
    check(got.grad_response_logps[0], row, "d_response", "exploration_term");
  }
}

TEMPLATE_TEST_CASE("exploration_bonus meets the golden table", "[host]", float, double) {
  using T = TestType;
  for (const GoldenRow& row : rows_of<T>("preference.csv", logps)) {
    CAPTURE(row.line());
    const selm::ExplorationOptions options = exploration_of(row);
    const bool uses_beta = options.kind != "xpo";
    const Array1<T> ref = one<T>(row.number("ref_response"));
    const selm::ExplorationBonus<T> got = selm::exploration_bonus(
        one<T>(row.number("policy_response")),
        uses_beta || options.logratio_clip ? selm::OptionalArray1Ref<T>(ref) : std::nullopt,
        options, uses_beta ? std::optional(row.number("beta")) : std::nullopt);
    check(got.bonus[0], row, "exploration_term", "exploration_term");
    check(got.grad_policy_logps[0], row, "d_response", "exploration_term");
  }
}

TEMPLATE_TEST_CASE("losses without a reference meet the golden table", "[host]", float, double) {
  using T = TestType;
  const std::vector<GoldenRow> rows =
      rows_of<T>("policy_losses.csv", {"policy_chosen", "policy_rejected"});
  CHECK(rows.size() > 250);
  for (const GoldenRow& row : rows) {
    CAPTURE(row.line());
    const selm::PreferenceOptions options = options_of(row);
    const Lengths chosen = lengths_of(row, "chosen"), rejected = lengths_of(row, "rejected");
    const Array1<T> w = one<T>(row.number("policy_chosen"));
    const Array1<T> l = one<T>(row.number("policy_rejected"));
    const selm::PreferenceLoss<T> got =
        row.text("loss_type") == "simpo"
            ? selm::simpo_loss(w, l, *chosen, *rejected, options.beta, *options.simpo_gamma,
                               options.label_smoothing)
        : row.text("loss_type") == "orpo"
            ? selm::orpo_loss(w, l, *chosen, *rejected, options.beta)
            : selm::cpo_loss(w, l, options, as_argument(chosen), as_argument(rejected));
    check(got.losses[0], row, "loss", "loss");
    check(got.chosen_rewards[0], row, "chosen_reward", "loss");
    check(got.rejected_rewards[0], row, "rejected_reward", "loss");
    check(got.grad_chosen_logps[0], row, "d_chosen", "loss");
    check(got.grad_rejected_logps[0], row, "d_rejected", "loss");
  }
}

TEMPLATE_TEST_CASE("losses of single responses meet the golden table", "[host]", float, double) {
  using T = TestType;
  const std::vector<GoldenRow> rows = rows_of<T>("unpaired.csv", {"policy", "ref", "kl"});
  CHECK(rows.size() > 300);
  for (const GoldenRow& row : rows) {
    CAPTURE(row.line());
    const Array1<bool> desirable = Array1<bool>::Constant(1, row.text("desirable") == "True");
    const selm::UnpairedPreferenceLoss<T> got = selm::kto_loss(
        one<T>(row.number("policy")), one<T>(row.number("ref")), desirable,
        row.optional_number("kl"), row.number("beta"), row.number("desirable_weight"),
        row.number("undesirable_weight"), row.text("loss_type"));
    check(got.losses[0], row, "loss", "loss");
    check(got.rewards[0], row, "reward", "loss");
    check(got.grad_policy_logps[0], row, "d_policy", "loss");
  }
}
