#include <cmath>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <vector>

#include "catch.hpp"
#include "selm/host/exploration.hpp"
#include "selm/host/losses.hpp"
#include "selm/host/rewards.hpp"

using selm::Array1;

namespace {

using Lengths = Array1<std::int64_t>;

template <typename T>
Array1<T> one(double value) {
  return Array1<T>::Constant(1, static_cast<T>(value));
}

template <typename T>
struct Batch {
  Array1<T> policy_chosen = Array1<T>::Random(50) * T(40) - T(50);
  Array1<T> policy_rejected = Array1<T>::Random(50) * T(40) - T(50);
  Array1<T> policy_response = Array1<T>::Random(50) * T(40) - T(50);
  Array1<T> ref_chosen = Array1<T>::Random(50) * T(40) - T(50);
  Array1<T> ref_rejected = Array1<T>::Random(50) * T(40) - T(50);
  Array1<T> ref_response = Array1<T>::Random(50) * T(40) - T(50);

  selm::PreferenceLoss<T> dpo(const selm::PreferenceOptions& options = {}) const {
    return selm::dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, options);
  }
  selm::SelmLoss<T> selm(const selm::ExplorationOptions& exploration,
                         const selm::PreferenceOptions& options = {}) const {
    return selm::selm_loss(policy_chosen, policy_rejected, policy_response, ref_chosen,
                           ref_rejected, ref_response, exploration, options);
  }
};

}  // namespace

TEST_CASE("close policies lose no digits of their log-ratios", "[core]") {
  // The step is too small to survive a difference of chosen and rejected.
  const double step = std::ldexp(3.0, -46);
  const selm::PairInputs<double> pair{{-123.456 + step, -123.456, 0.0}, {-900.1, -900.1, 0.0}};
  CHECK(selm::logratio_diff(pair) == step);
}

TEST_CASE("the hinge loss has derivative 0 at its kink", "[host]") {
  const auto got = selm::dpo_loss(one<double>(-1.0), one<double>(-3.0), one<double>(-2.0),
                                  one<double>(-2.0), {"hinge", 0.5, 0.0});
  CHECK(got.losses[0] == 0.0);
  CHECK(got.grad_chosen_logps[0] == 0.0);
  CHECK(got.grad_rejected_logps[0] == 0.0);
}

TEST_CASE("a sum has room for every loss, and a loss that is named twice counts twice", "[host]") {
  const Batch<double> batch;
  std::vector<selm::WeightedLoss> terms;
  Array1<double> expected = Array1<double>::Zero(50);
  for (const char* name : {"sigmoid", "hinge", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
                           "aot_unpaired", "apo_zero", "apo_down", "discopop", "dpop", "sigmoid"}) {
    const double weight = 0.5 + double(terms.size());
    terms.push_back({name, weight});
    expected += weight * batch.dpo({name, 0.1, 0.0}).losses;
  }
  const Array1<double> got = batch.dpo({terms, 0.1, 0.0}).losses;
  CHECK(((got - expected).abs() <= 1e-13 * expected.abs()).all());
}

namespace {

/// The losses of two pairs, computed with core alone and without lengths.
Array1<double> core_losses(const selm::PreferenceOptions& options) {
  const Array1<double> policy = Array1<double>::Constant(2, -3.0);
  Array1<double> results = Array1<double>::Zero(14);
  const auto part = [&](int k) { return results.data() + 2 * k; };
  selm::PreferenceInputs<double> in{};
  in.policy_chosen = in.policy_rejected = policy.data();
  const selm::PreferenceOutputs<double> out{part(0), part(1), part(2), part(3), part(4),
                                            nullptr, part(5), part(6), nullptr};
  selm::evaluate_batch<double>(options, {}, in, out, 2);
  return results.head(2);
}

}  // namespace

TEST_CASE("core refuses names that it does not know", "[core]") {
  CHECK_THROWS_AS(selm::make_preference({"sigmod", 0.1}, {}), std::invalid_argument);
  CHECK_THROWS_AS(selm::make_preference({std::vector<selm::WeightedLoss>{}, 0.1}, {}),
                  std::invalid_argument);
  CHECK_THROWS_AS(selm::make_preference({"sigmoid", 0.1, 0.0, "kl"}, {}), std::invalid_argument);
  CHECK_THROWS_AS(selm::make_preference({"sigmoid", 0.1}, {0.1, "slem"}), std::invalid_argument);
  CHECK_NOTHROW(selm::make_preference({"sigmoid", 0.1}, {0.0, "slem"}));  // switched off
  CHECK_THROWS_AS(core_losses({"sigmod", 0.1}), std::invalid_argument);
}

TEST_CASE("in core, a loss without the lengths that it reads is not a number", "[core]") {
  for (const char* name : {"ipo", "sft", "simpo", "sigmoid_norm", "r_dpo"}) {
    CAPTURE(name);
    CHECK(core_losses({name, 0.1}).isNaN().all());
  }
  for (const char* name : {"sigmoid", "hinge", "aot", "aot_unpaired"}) {
    CAPTURE(name);
    CHECK(core_losses({name, 0.1}).isFinite().all());
  }
}

TEMPLATE_TEST_CASE("alpha = 0 makes SELM equal DPO bit for bit", "[host]", float, double) {
  const Batch<TestType> batch;
  const auto dpo = batch.dpo({"sigmoid", 0.3, 0.2});
  const auto with_response = batch.selm({0.0, "selm"}, {"sigmoid", 0.3, 0.2});
  const auto without_response =
      selm::selm_loss(batch.policy_chosen, batch.policy_rejected, std::nullopt, batch.ref_chosen,
                      batch.ref_rejected, std::nullopt, {}, {"sigmoid", 0.3, 0.2});
  for (const auto* selm : {&with_response, &without_response}) {
    CHECK((selm->losses == dpo.losses).all());
    CHECK((selm->dpo_losses == dpo.losses).all());
    CHECK((selm->exploration == TestType(0)).all());
    CHECK((selm->grad_chosen_logps == dpo.grad_chosen_logps).all());
    CHECK((selm->grad_rejected_logps == dpo.grad_rejected_logps).all());
  }
  CHECK((with_response.grad_response_logps == TestType(0)).all());
  CHECK(without_response.response_rewards.size() == 0);
  CHECK(without_response.grad_response_logps.size() == 0);
}

TEMPLATE_TEST_CASE("DPO of a policy equal to its reference is log 2", "[host]", float, double) {
  const Batch<TestType> batch;
  const auto got =
      selm::dpo_loss(batch.ref_chosen, batch.ref_rejected, batch.ref_chosen, batch.ref_rejected);
  CHECK((got.losses == static_cast<TestType>(std::log(2.0))).all());
}

TEST_CASE("swapping chosen and rejected mirrors the sigmoid loss", "[host]") {
  const Batch<double> batch;
  const auto mirrored = selm::dpo_loss(batch.policy_rejected, batch.policy_chosen,
                                       batch.ref_rejected, batch.ref_chosen);
  const auto got = batch.dpo();
  const Array1<double> margins = selm::reward_margins(got.chosen_rewards, got.rejected_rewards);
  // -log sigmoid(m) + log sigmoid(-m) = -m
  CHECK((got.losses - mirrored.losses + margins).abs().maxCoeff() < 1e-14);
  CHECK(((got.grad_chosen_logps + mirrored.grad_chosen_logps) + 0.1).abs().maxCoeff() < 1e-15);
}

TEST_CASE("label smoothing 1/2 makes the two labels equal", "[host]") {
  const Batch<double> batch;
  const auto mirrored = selm::dpo_loss(batch.policy_rejected, batch.policy_chosen,
                                       batch.ref_rejected, batch.ref_chosen, {"sigmoid", 0.1, 0.5});
  CHECK((batch.dpo({"sigmoid", 0.1, 0.5}).losses == mirrored.losses).all());
}

TEST_CASE("XPO is SELM with alpha_xpo = alpha_selm * beta, up to a constant", "[host]") {
  const Batch<double> batch;
  const auto selm = batch.selm({1e-3, "selm"}, {"sigmoid", 0.01, 0.0});
  const auto xpo = batch.selm({1e-3 * 0.01, "xpo"}, {"sigmoid", 0.01, 0.0});
  CHECK((selm.grad_response_logps == xpo.grad_response_logps).all());
  const Array1<double> constant = -(1e-3 * 0.01) * batch.ref_response;
  CHECK((selm.exploration - xpo.exploration - constant).abs().maxCoeff() < 1e-18);
}

TEST_CASE("a step down the gradient lowers the likelihood of the response", "[host]") {
  CHECK((Batch<double>().selm({1e-3, "selm"}).grad_response_logps > 0.0).all());
  CHECK((Batch<double>().selm({1e-3, "xpo"}).grad_response_logps > 0.0).all());
}

TEMPLATE_TEST_CASE("a row does not depend on the rest of its batch", "[host]", float, double) {
  const Batch<TestType> batch;
  const auto all = batch.dpo();
  for (Eigen::Index i = 0; i < all.losses.size(); ++i) {
    const auto alone =
        selm::dpo_loss(batch.policy_chosen.segment(i, 1), batch.policy_rejected.segment(i, 1),
                       batch.ref_chosen.segment(i, 1), batch.ref_rejected.segment(i, 1));
    CHECK(alone.losses[0] == all.losses[i]);
    CHECK(alone.grad_chosen_logps[0] == all.grad_chosen_logps[i]);
  }
}

TEST_CASE("arguments may be maps, strided maps and expressions", "[host]") {
  const Batch<double> batch;
  const auto expected = batch.dpo();
  Eigen::Array<double, Eigen::Dynamic, 4, Eigen::RowMajor> table(batch.policy_chosen.size(), 4);
  table << batch.policy_chosen, batch.policy_rejected, batch.ref_chosen, batch.ref_rejected;
  const auto strided = selm::dpo_loss(table.col(0), table.col(1), table.col(2), table.col(3));
  CHECK((strided.losses == expected.losses).all());
  const auto computed = selm::dpo_loss(batch.policy_chosen * 1.0, batch.policy_rejected * 1.0,
                                       batch.ref_chosen * 1.0, batch.ref_rejected * 1.0);
  CHECK((computed.losses == expected.losses).all());
}

TEST_CASE("an empty batch has empty losses", "[host]") {
  const Array1<float> none(0);
  CHECK(selm::dpo_loss(none, none, none, none).losses.size() == 0);
  const Lengths lengths(0);
  CHECK(selm::dpo_loss(none, none, none, none, {"ipo", 0.1, 0.0}, lengths, lengths).losses.size() ==
        0);
}
