#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "accuracy.hpp"
#include "catch.hpp"
#include "golden.hpp"
#include "selm/host/logps.hpp"

using selm::Array1;
using selm::Array2;

namespace {

using Labels1 = Array1<std::int64_t>;
using Labels2 = Array2<std::int64_t>;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr Eigen::Index vocabularies[] = {1, 31, 33, 32001, 50257};

/// Logits as a language model has them: a wide bulk and a few likely tokens.
template <typename T>
Array2<T> random_logits(Eigen::Index rows, Eigen::Index vocab, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> bulk(-2.0, 2.5);
  Array2<T> logits(rows, vocab);
  for (Eigen::Index i = 0; i < rows; ++i) {
    for (Eigen::Index v = 0; v < vocab; ++v) {
      logits(i, v) = static_cast<T>(bulk(generator));
    }
    logits(i, (7 * i + 1) % vocab) += static_cast<T>(4 * i);
  }
  return logits;
}

Labels1 random_labels(Eigen::Index rows, Eigen::Index vocab) {
  Labels1 labels(rows);
  for (Eigen::Index i = 0; i < rows; ++i) {
    labels[i] = i % 2 == 0 ? (7 * i + 1) % vocab : (31 * i + 5) % vocab;
  }
  return labels;
}

/// Two passes in long double.
template <typename T>
long double exact_log_sum(const Array2<T>& logits, Eigen::Index row) {
  const auto max = static_cast<long double>(logits.row(row).maxCoeff());
  long double sum = 0.0L;
  for (Eigen::Index v = 0; v < logits.cols(); ++v) {
    sum += std::exp(static_cast<long double>(logits(row, v)) - max);
  }
  return max + std::log(sum);
}

template <typename T>
double relative_error(T got, long double exact) {
  const long double error = static_cast<long double>(got) - exact;
  return static_cast<double>(exact == 0.0L ? error : error / std::fabs(exact));
}

}  // namespace

TEMPLATE_TEST_CASE("token log-probabilities and gradients meet the golden table", "[host]", float,
                   double) {
  constexpr double u = std::numeric_limits<TestType>::epsilon() / 2;
  for (const auto& row : selm::test::read_golden("token_logps.csv")) {
    CAPTURE(row.text("temperature"), row.text("target"), row.text("logits"));
    const std::vector<double> values = row.numbers("logits");
    Array2<TestType> logits(1, static_cast<Eigen::Index>(values.size()));
    for (std::size_t v = 0; v < values.size(); ++v) {
      logits(0, static_cast<Eigen::Index>(v)) = static_cast<TestType>(values[v]);
    }
    const Labels1 target = Labels1::Constant(1, static_cast<std::int64_t>(row.number("target")));
    const double temperature = row.number("temperature");

    const double logp = row.number("logp");
    const TestType got = selm::selective_log_softmax(logits, target, temperature)[0];
    CHECK(selm::test::keeps_promise(got, logp, 1.0));
    CHECK(got <= TestType(0));

    const auto grad =
        selm::selective_log_softmax_grad(Array1<TestType>::Ones(1), logits, target, temperature);
    const std::vector<double> exact = row.numbers("grad");
    for (std::size_t v = 0; v < exact.size(); ++v) {
      const double size = std::fabs(exact[v]);
      // An exponent x is known to u |x| in double.
      const double relative = 4 * u + 1e-15 * std::fabs(std::log(size));
      const double bound = size == 0.0 ? 0.0 : relative * size;
      CAPTURE(v, exact[v]);
      CHECK(std::fabs(static_cast<double>(grad(0, static_cast<Eigen::Index>(v))) - exact[v]) <=
            bound + selm::test::ulp<TestType>(0.0));
    }
  }
}

TEMPLATE_TEST_CASE("token log-probabilities agree with two passes in long double", "[host]", float,
                   double) {
  constexpr double u = std::numeric_limits<TestType>::epsilon() / 2;
  const double rounding = sizeof(TestType) == sizeof(float) ? 0.0 : 1e-14;
  for (const Eigen::Index vocab : vocabularies) {
    const Array2<TestType> logits = random_logits<TestType>(8, vocab, 1);
    const Labels1 index = random_labels(8, vocab);
    const Array1<TestType> logps = selm::selective_log_softmax(logits, index);
    double mean_error = 0.0;
    for (Eigen::Index i = 0; i < logits.rows(); ++i) {
      const auto exact = static_cast<double>(static_cast<long double>(logits(i, index[i])) -
                                             exact_log_sum(logits, i));
      const double error = static_cast<double>(logps[i]) - exact;
      CAPTURE(vocab, i, exact, error);
      CHECK(std::fabs(error) <= 2 * u * std::max(std::fabs(exact), 1e-3) + rounding + 1e-15);
      CHECK(logps[i] <= TestType(0));
      mean_error += error / 8;
    }
    CAPTURE(vocab);
    CHECK(std::fabs(mean_error) <= 20 * u);  // no bias beyond rounding
  }
}

TEMPLATE_TEST_CASE("gradients agree with long double, the target's column too", "[host]", float,
                   double) {
  const double tolerance = sizeof(TestType) == sizeof(float) ? 1.2e-7 : 1e-13;
  for (const Eigen::Index vocab : vocabularies) {
    const Array2<TestType> logits = random_logits<TestType>(6, vocab, 2);
    const Labels1 index = random_labels(6, vocab);
    const Array1<TestType> upstream = Array1<TestType>::Random(6);
    const Array2<TestType> grad = selm::selective_log_softmax_grad(upstream, logits, index);
    double largest = 0.0;
    for (Eigen::Index i = 0; i < logits.rows(); ++i) {
      const long double log_sum = exact_log_sum(logits, i);
      long double others = 0.0L;
      for (Eigen::Index v = 0; v < vocab; ++v) {
        const long double prob = std::exp(static_cast<long double>(logits(i, v)) - log_sum);
        if (v != index[i]) {
          others += prob;
          largest = std::max(largest, std::fabs(relative_error(grad(i, v), -prob * upstream[i])));
        }
      }
      largest =
          std::max(largest, std::fabs(relative_error(grad(i, index[i]), others * upstream[i])));
    }
    CAPTURE(vocab);
    CHECK(largest <= tolerance);
  }
}

TEST_CASE("the gradient of an expectation under the reference is pi_ref - pi", "[host]") {
  constexpr Eigen::Index vocab = 40;
  const Array2<double> logits = random_logits<double>(1, vocab, 3);
  const Array2<double> ref_logits = random_logits<double>(1, vocab, 4);
  const Labels1 every_token = Labels1::LinSpaced(vocab, 0, vocab - 1);
  const auto repeated = [&](const Array2<double>& row) {
    return Array2<double>(row.replicate(vocab, 1));
  };
  const Array1<double> policy = selm::selective_log_softmax(repeated(logits), every_token).exp();
  const Array1<double> ref = selm::selective_log_softmax(repeated(ref_logits), every_token).exp();
  const Array2<double> grads = selm::selective_log_softmax_grad(ref, repeated(logits), every_token);
  const Array1<double> total = grads.colwise().sum().transpose();
  CHECK((total - (ref - policy)).abs().maxCoeff() < 1e-15);
}

TEMPLATE_TEST_CASE("an ignored row has logp 0 and gradient 0, even of NaN", "[host]", float,
                   double) {
  Array2<TestType> logits = random_logits<TestType>(4, 33, 5);
  logits.row(1).setConstant(static_cast<TestType>(not_a_number));
  logits.row(2).setConstant(static_cast<TestType>(infinity));
  Labels1 index(4);
  index << 3, 7, 7, 5;
  const auto logps = selm::selective_log_softmax(logits, index, 1.0, 7);  // 7 is a valid token
  CHECK(logps[1] == TestType(0));
  CHECK(logps[2] == TestType(0));
  CHECK(logps[0] < TestType(0));
  const auto grad =
      selm::selective_log_softmax_grad(Array1<TestType>::Ones(4), logits, index, 1.0, 7);
  CHECK((grad.middleRows(1, 2) == TestType(0)).all());
  CHECK(grad.row(0).isFinite().all());
  CHECK(grad.row(3).isFinite().all());
}

TEST_CASE("bad logits give NaN in their own row alone", "[host]") {
  Array2<double> logits = random_logits<double>(8, 2000, 6);
  logits(0, 1500) = not_a_number;
  logits(1, 20) = infinity;
  logits.row(2).setConstant(-infinity);
  logits(3, 9) = not_a_number;
  // A NaN beside masked tokens alone, first and last of its block.
  logits.middleRows(4, 3).rightCols(1990).setConstant(-infinity);
  logits(4, 1024) = not_a_number;
  logits(5, 1500) = not_a_number;
  logits(6, 1999) = not_a_number;
  const Labels1 index = Labels1::Constant(8, 9);
  const auto logps = selm::selective_log_softmax(logits, index);
  CHECK(logps.head(7).isNaN().all());
  CHECK(std::isfinite(logps[7]));
  const auto grad = selm::selective_log_softmax_grad(Array1<double>::Ones(8), logits, index);
  CHECK(grad.topRows(7).isNaN().all());
  CHECK(grad.row(7).isFinite().all());
}

TEST_CASE("masked tokens have no weight and gradient 0", "[host]") {
  Array2<double> logits = random_logits<double>(1, 100, 7);
  const Labels1 index = Labels1::Constant(1, 2);
  Array2<double> masked = Array2<double>::Constant(1, 3000, -infinity);
  masked.leftCols(100) = logits;
  // Bit for bit: the width of the vocabulary leaves no trace.
  CHECK(selm::selective_log_softmax(masked, index)[0] ==
        selm::selective_log_softmax(logits, index)[0]);
  const auto grad = selm::selective_log_softmax_grad(Array1<double>::Ones(1), masked, index);
  CHECK((grad.rightCols(2900) == 0.0).all());

  masked(0, 2) = -infinity;
  CHECK(selm::selective_log_softmax(masked, index)[0] == -infinity);
  CHECK(selm::selective_log_softmax_grad(Array1<double>::Ones(1), masked, index).isFinite().all());
}

TEST_CASE("a common offset of the logits changes nothing", "[host]") {
  const Array2<double> logits = random_logits<double>(3, 31, 8).round();
  const Labels1 index = random_labels(3, 31);
  const auto logps = selm::selective_log_softmax(logits, index);
  CHECK((selm::selective_log_softmax(logits + 10000.0, index) == logps).all());
}

TEST_CASE("a row's result depends neither on its neighbours nor on its place in memory", "[host]") {
  const Array2<float> logits = random_logits<float>(5, 1025, 9);
  const Labels1 index = random_labels(5, 1025);
  const auto logps = selm::selective_log_softmax(logits, index);
  for (Eigen::Index i = 0; i < 5; ++i) {
    Array2<float> shifted = Array2<float>::Zero(1, 1025 + i);
    shifted.rightCols(1025) = logits.row(i);
    CHECK(selm::selective_log_softmax(shifted.rightCols(1025), index.segment(i, 1))[0] == logps[i]);
  }
}

TEST_CASE("logits may be blocks and column-major arrays", "[host]") {
  const Array2<double> logits = random_logits<double>(6, 50, 10);
  const Labels1 index = random_labels(6, 50);
  const auto logps = selm::selective_log_softmax(logits, index);
  const Eigen::ArrayXXd column_major = logits;
  CHECK((selm::selective_log_softmax(column_major, index) == logps).all());
  Array2<double> wide = Array2<double>::Constant(6, 70, 1e6);
  wide.middleCols(10, 50) = logits;
  CHECK((selm::selective_log_softmax(wide.middleCols(10, 50), index) == logps).all());
}

TEST_CASE("a temperature divides the logits", "[host]") {
  const Array2<double> logits = random_logits<double>(4, 64, 11);
  const Labels1 index = random_labels(4, 64);
  CHECK((selm::selective_log_softmax(logits, index, 0.5) ==
         selm::selective_log_softmax(logits * 2.0, index))
            .all());
}

TEMPLATE_TEST_CASE("sequence_logps sums the tokens that the shifted labels name", "[host]", float,
                   double) {
  constexpr Eigen::Index batch = 3;
  constexpr Eigen::Index tokens = 9;
  const Array2<TestType> logits = random_logits<TestType>(batch * tokens, 97, 12);
  Labels2 labels(batch, tokens);
  for (Eigen::Index i = 0; i < labels.size(); ++i) {
    labels(i / tokens, i % tokens) = (13 * i) % 97;
  }
  labels.row(0).head(5).setConstant(-100);
  labels.row(2).tail(8).setConstant(-100);

  const auto sums = selm::sequence_logps(logits, labels);
  const auto means = selm::sequence_logps(logits, labels, -100, true);
  for (Eigen::Index b = 0; b < batch; ++b) {
    long double exact = 0.0L;
    long double count = 0.0L;
    for (Eigen::Index t = 1; t < tokens; ++t) {
      if (labels(b, t) != -100) {
        const Eigen::Index row = b * tokens + t - 1;
        exact += static_cast<long double>(logits(row, labels(b, t))) - exact_log_sum(logits, row);
        count += 1.0L;
      }
    }
    CAPTURE(b, exact);
    CHECK(std::fabs(relative_error(sums[b], exact)) <= std::numeric_limits<TestType>::epsilon());
    const long double mean = count == 0.0L ? 0.0L : exact / count;
    CHECK(std::fabs(relative_error(means[b], mean)) <= std::numeric_limits<TestType>::epsilon());
  }
  CHECK(sums[2] == TestType(0));
}

TEST_CASE("the gradient of sequence_logps is that of its tokens", "[host]") {
  constexpr Eigen::Index tokens = 6;
  const Array2<double> logits = random_logits<double>(2 * tokens, 21, 13);
  Labels2 labels(2, tokens);
  labels << 4, 3, -100, 20, 0, 7, 1, -100, -100, -100, -100, -100;
  Array1<double> upstream(2);
  upstream << 0.5, 2.0;

  const auto grad = selm::sequence_logps_grad(upstream, logits, labels);
  Labels1 shifted(2 * tokens);
  shifted << 3, -100, 20, 0, 7, -100, -100, -100, -100, -100, -100, -100;
  const auto expected =
      selm::selective_log_softmax_grad(Array1<double>::Constant(2 * tokens, 0.5), logits, shifted);
  CHECK((grad == expected).all());
  const auto average = selm::sequence_logps_grad(upstream, logits, labels, -100, true);
  CHECK((average * 4.0 - expected).abs().maxCoeff() < 1e-15);
}

TEST_CASE("duplicating every token leaves an averaged log-probability unchanged", "[host]") {
  const Array2<double> row = random_logits<double>(1, 17, 14);
  const auto average = [&](Eigen::Index tokens) {
    return selm::sequence_logps(Array2<double>(row.replicate(tokens, 1)),
                                Labels2::Constant(1, tokens, 5), -100, true)[0];
  };
  CHECK(std::fabs(average(5) - average(9)) < 1e-15);
}

TEST_CASE("sequences of at most one token have logp 0", "[host]") {
  CHECK(selm::sequence_logps(Array2<float>(Array2<float>::Ones(2, 5)), Labels2::Ones(2, 1))[0] ==
        0.0F);
  CHECK(selm::sequence_logps(Array2<float>(0, 5), Labels2(2, 0))[1] == 0.0F);
  CHECK(selm::sequence_logps(Array2<float>(0, 5), Labels2(0, 4)).size() == 0);
  CHECK(selm::selective_log_softmax(Array2<float>(0, 0), Labels1(0)).size() == 0);
}

TEST_CASE("a vocabulary of one token has logp 0 and gradient 0", "[host]") {
  const Array2<double> logits = Array2<double>::Constant(1, 1, 3.5);
  CHECK(selm::selective_log_softmax(logits, Labels1::Zero(1))[0] == 0.0);
  CHECK(selm::selective_log_softmax_grad(Array1<double>::Ones(1), logits, Labels1::Zero(1))(0, 0) ==
        0.0);
}
