#include <cmath>
#include <limits>

#include "accuracy.hpp"
#include "catch.hpp"
#include "golden.hpp"
#include "selm/host/rewards.hpp"

using selm::Array1;

namespace {

/// log-probabilities of a distribution over `size` responses.
Array1<double> random_policy(Eigen::Index size) {
  Array1<double> logits = Array1<double>::Random(size) * 5.0;
  return logits - std::log(logits.exp().sum());
}

Array1<double> array_of(const std::vector<double>& values) {
  return Eigen::Map<const Array1<double>>(values.data(), static_cast<Eigen::Index>(values.size()));
}

}  // namespace

TEST_CASE("log_partition and policy_logps_from_rewards meet the golden table", "[host]") {
  constexpr double u = std::numeric_limits<double>::epsilon() / 2;
  for (const auto& row : selm::test::read_golden("partition.csv")) {
    const double beta = row.number("beta");
    const Array1<double> ref = array_of(row.numbers("ref_logps"));
    const Array1<double> rewards = array_of(row.numbers("rewards"));
    const double exact = row.number("log_partition");
    const Array1<double> exact_logps = array_of(row.numbers("policy_logps"));
    const double size = (rewards / beta).abs().maxCoeff() + ref.abs().maxCoeff();
    CAPTURE(row.text("beta"), row.text("ref_logps"), row.text("rewards"));

    const double log_partition = selm::log_partition(ref, rewards, beta);
    CHECK(std::fabs(log_partition - exact) <= 8 * u * size);
    const Array1<double> logps = selm::policy_logps_from_rewards(rewards, ref, beta, log_partition);
    CHECK((logps - exact_logps).abs().maxCoeff() <= 16 * u * size);

    const Array1<float> logps_float = selm::policy_logps_from_rewards(
        rewards.cast<float>(), ref.cast<float>(), beta, log_partition);
    for (Eigen::Index i = 0; i < logps.size(); ++i) {
      CHECK(std::fabs(logps_float[i] - exact_logps[i]) <=
            2 * selm::test::ulp<float>(exact_logps[i]) + 16 * u * size);
    }
  }
}

TEST_CASE("rewards made from a policy lead back to it", "[host]") {
  const Array1<double> policy = random_policy(100);
  const Array1<double> ref = random_policy(100);
  const Array1<double> rewards = selm::implicit_rewards(policy, ref, 0.1);
  CHECK((selm::policy_logps_from_rewards(rewards, ref, 0.1, 0.0) - policy).abs().maxCoeff() <
        1e-13);
}

TEST_CASE("policies of rewards are normalised", "[host]") {
  const Array1<double> ref = random_policy(100);
  const Array1<double> rewards = Array1<double>::Random(100) * 3.0;
  const double log_partition = selm::log_partition(ref, rewards, 0.2);
  const auto policy = selm::policy_logps_from_rewards(rewards, ref, 0.2, log_partition);
  CHECK(std::fabs(policy.exp().sum() - 1.0) < 1e-12);
}

TEST_CASE("implicit rewards obey the identities of their expectation", "[host]") {
  const Array1<double> policy = random_policy(50);
  const Array1<double> ref = random_policy(50);
  constexpr double beta = 0.3;
  const Array1<double> rewards = selm::implicit_rewards(policy, ref, beta);
  CHECK(std::fabs((ref.exp() * (rewards / beta).exp()).sum() - 1.0) < 1e-12);
  CHECK(std::fabs((policy.exp() * (-rewards / beta).exp()).sum() - 1.0) < 1e-12);
  CHECK((ref.exp() * rewards).sum() <= 0.0);
  CHECK((policy.exp() * rewards).sum() >= 0.0);
  CHECK(std::fabs(selm::log_partition(ref, rewards, beta)) < 1e-12);
}

TEMPLATE_TEST_CASE("margins and accuracies compare the two rewards", "[host]", float, double) {
  Array1<TestType> chosen(4);
  Array1<TestType> rejected(4);
  chosen << TestType(0.5), TestType(-1), TestType(2), TestType(0.1);
  rejected << TestType(0.25), TestType(1), TestType(2), TestType(0.3);
  const Array1<TestType> margins = selm::reward_margins(chosen, rejected);
  CHECK((margins == chosen - rejected).all());
  const Array1<TestType> accuracies = selm::reward_accuracies(chosen, rejected);
  CHECK(accuracies[0] == TestType(1));
  CHECK(accuracies[1] == TestType(0));
  CHECK(accuracies[2] == TestType(0));
  CHECK(accuracies[3] == TestType(0));
}

TEST_CASE("the reward of a response with an impossible reference is infinite", "[host]") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Array1<double> policy(3);
  Array1<double> ref(3);
  policy << -1.0, -infinity, -infinity;
  ref << -infinity, -1.0, -infinity;
  const Array1<double> rewards = selm::implicit_rewards(policy, ref, 0.1);
  CHECK(rewards[0] == infinity);
  CHECK(rewards[1] == -infinity);
  CHECK(std::isnan(rewards[2]));
}
