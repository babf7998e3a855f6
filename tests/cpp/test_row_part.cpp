#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "catch.hpp"
#include "selm/core/row_part.hpp"

// Parts of a row against sums over the whole row in long double, relative to its largest logit.

namespace {

using selm::LogitTransform;
using selm::RowPart;

struct Expected {
  long double entropy = 0.0L;
  long double sum_sq_probs = 0.0L;
  long double sum_logits = 0.0L;
};

Expected expected(const std::vector<double>& logits, const LogitTransform<double>& transform) {
  std::vector<long double> z;
  long double max = -std::numeric_limits<long double>::infinity(), sum = 0.0L;
  for (const double s : logits) {
    z.push_back(transform.value(s));
    max = std::fmax(max, z.back());
  }
  for (const long double x : z) {
    sum += std::exp(x - max);
  }
  Expected result;
  for (const long double x : z) {
    const long double prob = std::exp(x - max) / sum;
    result.entropy -= prob > 0.0L ? prob * (x - max - std::log(sum)) : 0.0L;
    result.sum_sq_probs += prob * prob;
    result.sum_logits += x;
  }
  return result;
}

RowPart<double> part_of(const std::vector<double>& logits, std::size_t begin, std::size_t end,
                        const LogitTransform<double>& transform) {
  RowPart<double> part;
  for (std::size_t v = begin; v < end; ++v) {
    part = merge(part, RowPart<double>::of(logits[v], static_cast<std::int64_t>(v), transform),
                 transform);
  }
  return part;
}

double relative(double got, long double exact) {
  return static_cast<double>(std::fabs((got - exact) / exact));
}

}  // namespace

TEST_CASE("the statistics of a row are those of its parts, wherever it is divided", "[core]") {
  std::mt19937 generator(1);
  std::normal_distribution<double> bulk(-2.0, 3.0);
  std::vector<double> logits(257);
  for (double& s : logits) {
    s = bulk(generator);
  }
  logits[40] = 900.0;  // its neighbours' weights vanish beside it where nothing caps it
  for (const double softcap : {0.0, 4.0}) {
    const auto transform = LogitTransform<double>::make(0.7, 1.5, softcap);
    const Expected exact = expected(logits, transform);
    for (const std::size_t middle : {0u, 1u, 40u, 41u, 256u, 257u}) {
      CAPTURE(softcap, middle);
      const auto row = merge(part_of(logits, 0, middle, transform),
                             part_of(logits, middle, logits.size(), transform), transform);
      const auto statistics = row.statistics();
      const double entropy = std::log(row.exponentials.sum) - statistics.mean_exponent;
      CHECK(std::fabs(entropy - static_cast<double>(exact.entropy)) < 1e-13);
      CHECK(relative(statistics.sum_sq_probs, exact.sum_sq_probs) < 1e-13);
      CHECK(relative(statistics.sum_logits, exact.sum_logits) < 1e-13);
      CHECK(statistics.best_index == 40);
    }
  }
}

TEST_CASE("a tie between parts goes to the first index", "[core]") {
  const LogitTransform<double> transform{1.0, 0.0, 0.0};
  const auto first = RowPart<double>::of(2.0, 3, transform);
  const auto second = RowPart<double>::of(2.0, 9, transform);
  CHECK(merge(first, second, transform).best_index == 3);
  CHECK(merge(second, first, transform).best_index == 3);
}

TEST_CASE("a part of masked tokens weighs nothing, and a NaN is kept", "[core]") {
  const LogitTransform<double> transform{1.0, 0.0, 0.0};
  const double infinity = std::numeric_limits<double>::infinity();
  const auto masked = RowPart<double>::of(-infinity, 0, transform);
  const auto token = RowPart<double>::of(1.5, 1, transform);
  for (const auto& row : {merge(masked, token, transform), merge(token, masked, transform)}) {
    CHECK(row.exponentials.sum == 1.0);
    CHECK(row.statistics().mean_exponent == 0.0);
    CHECK(row.statistics().sum_sq_probs == 1.0);
    CHECK(row.sum_logits == -infinity);
  }
  const auto bad = RowPart<double>::of(std::nan(""), 2, transform);
  CHECK(std::isnan(merge(bad, token, transform).sum_logits));
}
