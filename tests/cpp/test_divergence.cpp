#include <cmath>
#include <limits>

#include "accuracy.hpp"
#include "catch.hpp"
#include "golden.hpp"
#include "selm/host/divergence.hpp"

using selm::Array1;
using selm::test::keeps_promise;

TEMPLATE_TEST_CASE("kl_estimate meets the golden table", "[host]", float, double) {
  for (const auto& row : selm::test::read_golden("kl.csv")) {
    const double policy = row.number("policy");
    const double exact = row.number("estimate");
    if (!selm::test::is_representable<TestType>(policy) ||
        (std::isfinite(exact) &&
         std::fabs(exact) > static_cast<double>(std::numeric_limits<TestType>::max()))) {
      continue;
    }
    CAPTURE(row.text("kind"), policy, exact);
    const auto got = selm::kl_estimate(Array1<TestType>::Constant(1, TestType(policy)),
                                       Array1<TestType>::Constant(1, TestType(row.number("ref"))),
                                       row.text("kind"));
    CHECK(keeps_promise(got.estimates[0], exact, row.number("estimate_scale")));
    CHECK(keeps_promise(got.grad_policy_logps[0], row.number("d_policy"),
                        row.number("d_policy_scale")));
  }
}

TEST_CASE("k3 is never negative", "[core]") {
  const selm::KlEstimate<double> k3{selm::KlEstimator::k3};
  for (int exponent = -70; exponent <= 4; ++exponent) {
    for (const double mantissa : {-1.9, -1.3, -1.0, 1.0, 1.1, 1.7}) {
      const double rho = std::ldexp(mantissa, exponent);
      CAPTURE(rho);
      CHECK(k3(rho, 0.0).value >= 0.0);
    }
  }
}

TEST_CASE("the means of k1 and k3 over a policy's responses are its KL", "[host]") {
  Array1<double> policy = Array1<double>::Random(64) * 3.0;
  Array1<double> ref = Array1<double>::Random(64) * 3.0;
  policy -= std::log(policy.exp().sum());
  ref -= std::log(ref.exp().sum());
  const double kl = (policy.exp() * (policy - ref)).sum();
  CHECK(kl > 0.0);
  CHECK(std::fabs((policy.exp() * selm::kl_estimate(policy, ref, "k1").estimates).sum() - kl) <
        1e-13);
  CHECK(std::fabs((policy.exp() * selm::kl_estimate(policy, ref).estimates).sum() - kl) < 1e-12);
}
