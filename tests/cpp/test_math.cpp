#include <cmath>
#include <limits>
#include <vector>

#include "accuracy.hpp"
#include "catch.hpp"
#include "golden.hpp"
#include "selm/core/log_sum_exp.hpp"
#include "selm/core/math.hpp"

using selm::LogSumExp;
using selm::test::keeps_promise;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

LogSumExp<double> sum_of(const std::vector<double>& values) {
  LogSumExp<double> total;
  for (const double value : values) {
    total = merge(total, LogSumExp<double>::of(value));
  }
  return total;
}

}  // namespace

TEST_CASE("scalar functions meet the golden table over the whole range", "[core]") {
  for (const auto& row : selm::test::read_golden("scalar.csv")) {
    const std::string& function = row.text("function");
    const double x = row.number("x");
    const double value = row.number("value");
    const double scale = row.number("value_scale");
    CAPTURE(function, x, value);
    if (function == "sigmoid") {
      CHECK(keeps_promise(selm::sigmoid(x), value, scale));
    } else if (function == "log1mexp") {
      CHECK(keeps_promise(selm::log1mexp(x), value, scale));
    } else {
      const selm::ValueAndGrad<double> f = selm::log_sigmoid(x);
      CHECK(keeps_promise(f.value, value, scale));
      CHECK(keeps_promise(f.grad, row.number("derivative"), std::fabs(x) * f.grad));
    }
  }
}

TEST_CASE("log_sigmoid has exact limits", "[core]") {
  CHECK(selm::log_sigmoid(inf).value == 0.0);
  CHECK(selm::log_sigmoid(inf).grad == 0.0);
  CHECK(selm::log_sigmoid(-inf).value == -inf);
  CHECK(selm::log_sigmoid(-inf).grad == 1.0);
  CHECK(std::isnan(selm::log_sigmoid(not_a_number).value));
  CHECK(std::isnan(selm::log_sigmoid(not_a_number).grad));
}

TEST_CASE("log1mexp has exact limits", "[core]") {
  CHECK(selm::log1mexp(0.0) == -inf);
  CHECK(selm::log1mexp(-inf) == 0.0);
}

TEST_CASE("LogSumExp is a commutative monoid", "[core]") {
  const std::vector<double> values{-3.0, 700.0, 1e4, 0.1, -1e4, -inf, 2.5, 1e4 - 0.5};
  const LogSumExp<double> neutral;
  for (const double a : values) {
    const auto x = LogSumExp<double>::of(a);
    CAPTURE(a);
    CHECK(merge(neutral, x).value() == x.value());
    CHECK(merge(x, neutral).value() == x.value());
    for (const double b : values) {
      const auto y = LogSumExp<double>::of(b);
      CHECK(merge(x, y).value() == merge(y, x).value());
      for (const double c : values) {
        const auto z = LogSumExp<double>::of(c);
        const double left = merge(merge(x, y), z).value();
        const double right = merge(x, merge(y, z)).value();
        CHECK((left == right || std::fabs(left - right) <= 1e-15 * std::fabs(left)));
      }
    }
  }
}

TEST_CASE("LogSumExp of nothing and of nothing but masked values is -inf", "[core]") {
  CHECK(LogSumExp<double>{}.value() == -inf);
  CHECK(sum_of({-inf, -inf, -inf}).value() == -inf);
  CHECK(merge(LogSumExp<double>{}, LogSumExp<double>{}).value() == -inf);
}

TEST_CASE("LogSumExp keeps a NaN wherever it stands", "[core]") {
  CHECK(std::isnan(sum_of({not_a_number, 1.0, 2.0}).value()));
  CHECK(std::isnan(sum_of({1.0, not_a_number, 2.0}).value()));
  CHECK(std::isnan(sum_of({1.0, 2.0, not_a_number}).value()));
  CHECK(std::isnan(sum_of({-inf, not_a_number, -inf, 1.0}).value()));
  CHECK(std::isnan(merge(sum_of({-inf, not_a_number}), sum_of({-inf, 3.0})).value()));
}

TEST_CASE("LogSumExp agrees with two passes in long double", "[core]") {
  std::vector<double> values;
  long double sum = 0.0L;
  for (int i = 0; i < 5000; ++i) {
    values.push_back(20.0 * std::sin(0.37 * i));
    sum += std::exp(static_cast<long double>(values.back()) - 20.0L);
  }
  const auto exact = static_cast<double>(20.0L + std::log(sum));
  CHECK(std::fabs(sum_of(values).value() - exact) <= 1e-13);
}
