#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "catch.hpp"

// An independent two-pass reference for one row of logits, in extended precision, and the promises
// of docs/numerics.md against it.

namespace selm::test {

struct HeadOptions {
  double temperature = 1.0;
  double logit_scale = 1.0;
  double softcap = 0.0;  ///< 0: none
};

struct TokenReference {
  double logp;
  std::vector<double> d_logits;  ///< d logp / d (raw logit)
  double entropy;
  double log_sum_sq_probs;
  double mean_logit;
  double mean_magnitude;  ///< of the finite logits
  bool is_top1;
};

/// `raw` are the logits as they are stored; -inf is a masked token.
inline TokenReference reference_row(const std::vector<double>& raw, std::int64_t target,
                                    const HeadOptions& head) {
  using Real = long double;
  constexpr Real infinity = std::numeric_limits<Real>::infinity();
  const std::size_t vocab = raw.size();
  std::vector<Real> z(vocab), slope(vocab, head.logit_scale / head.temperature);
  for (std::size_t v = 0; v < vocab; ++v) {
    z[v] = head.logit_scale * static_cast<Real>(raw[v]) / head.temperature;
    if (head.softcap > 0.0) {
      const Real t = std::tanh(head.logit_scale * static_cast<Real>(raw[v]) / head.softcap);
      z[v] = z[v] == -infinity ? z[v] : head.softcap * t / head.temperature;
      slope[v] *= 1.0L - t * t;
    }
  }
  const Real max = *std::max_element(z.begin(), z.end());
  const auto at = static_cast<std::size_t>(target);
  Real sum = 0.0L, others = 0.0L;
  for (std::size_t v = 0; v < vocab; ++v) {
    const Real e = std::exp(z[v] - max);
    sum += e;
    others += v == at ? 0.0L : e;
  }
  const Real log_sum = std::log(sum);
  TokenReference reference{};
  // log1p keeps the digits of a confident token's log-probability.
  reference.logp = static_cast<double>(z[at] == max ? -std::log1p(others / (sum - others))
                                                    : z[at] - max - log_sum);
  reference.d_logits.resize(vocab);
  Real entropy = 0.0L, sum_sq = 0.0L, mean = 0.0L, magnitude = 0.0L;
  for (std::size_t v = 0; v < vocab; ++v) {
    const Real p = std::exp(z[v] - max) / sum;
    const Real d = v == at ? others / sum : -p;
    reference.d_logits[v] = z[v] == -infinity && v != at ? 0.0 : static_cast<double>(d * slope[v]);
    entropy += p > 0.0L ? p * (log_sum - (z[v] - max)) : 0.0L;
    sum_sq += p * p;
    mean += z[v] / static_cast<Real>(vocab);
    magnitude += std::isinf(z[v]) ? 0.0L : std::fabs(z[v]) / static_cast<Real>(vocab);
  }
  reference.entropy = static_cast<double>(entropy);
  reference.log_sum_sq_probs = static_cast<double>(std::log(sum_sq));
  reference.mean_logit = static_cast<double>(mean);
  reference.mean_magnitude = static_cast<double>(magnitude);
  reference.is_top1 =
      static_cast<std::size_t>(std::max_element(raw.begin(), raw.end()) - raw.begin()) == at;
  return reference;
}

/// Rounding of a storage type, and of the sums made from it.
struct Precision {
  double sum_epsilon;  ///< of the accumulation type
  double epsilon;      ///< of the storage type
  double smallest;     ///< its smallest positive number

  template <typename Storage>
  static Precision of() {
    using Limits = std::numeric_limits<Storage>;
    return {Limits::epsilon(), Limits::epsilon(), Limits::denorm_min()};
  }

  /// What one row may be off by: 2e-5 in float, 1e-12 in double.
  double tolerance() const { return sum_epsilon > 1e-10 ? 2e-5 : 1e-12; }
};

/// What the code under test made of one row.
struct TokenResult {
  double logp;
  double entropy;
  double log_sum_sq_probs;
  double mean_logit;
  bool is_top1;
  std::vector<double> d_logits;
};

/// Log-probability: never positive, and within 2e-5 + 4u max(|logp|, 1).
inline bool keeps_logp_promise(double got, double exact, const Precision& precision) {
  if (std::isinf(exact)) {
    return got == exact;
  }
  const double rounding = 2 * precision.sum_epsilon * std::max(std::fabs(exact), 1.0);
  return got <= 0.0 && std::fabs(got - exact) <= precision.tolerance() + rounding;
}

/// Gradient: relative error 2e-5, and one rounding to storage.
inline bool keeps_gradient_promise(double got, double exact, const Precision& precision) {
  const double relative = precision.tolerance() + precision.epsilon / 2;
  return std::fabs(got - exact) <= relative * std::fabs(exact) + 2 * precision.smallest;
}

/// Statistics: within 2e-5 of 1 or of their scale. They are float32 for every storage.
inline bool is_close(double got, double exact, double scale) {
  return got == exact || std::fabs(got - exact) <= 2e-5 * std::max(1.0, scale);
}

/// Checks one row; `upstream` is the gradient that flows into its log-probability.
inline void check_row(const TokenResult& got, const std::vector<double>& logits,
                      std::int64_t target, const HeadOptions& head, double upstream,
                      const Precision& precision) {
  const TokenReference exact = reference_row(logits, target, head);
  CAPTURE(got.logp, exact.logp);
  CHECK(keeps_logp_promise(got.logp, exact.logp, precision));
  CHECK(is_close(got.entropy, exact.entropy, std::fabs(exact.entropy)));
  CHECK(is_close(got.log_sum_sq_probs, exact.log_sum_sq_probs, std::fabs(exact.log_sum_sq_probs)));
  CHECK(is_close(got.mean_logit, exact.mean_logit, exact.mean_magnitude));
  CHECK(got.is_top1 == exact.is_top1);
  std::int64_t wrong = 0;
  for (std::size_t v = 0; v < logits.size(); ++v) {
    wrong += !keeps_gradient_promise(got.d_logits[v], upstream * exact.d_logits[v], precision);
  }
  CHECK(wrong == 0);
}

/// Kinds of rows that have broken log-softmax implementations.
inline const std::vector<std::string>& row_kinds() {
  static const std::vector<std::string> kinds{"language", "confident", "uniform",
                                              "masked",   "offset",    "huge"};
  return kinds;
}

inline std::vector<double> make_row(const std::string& kind, std::int64_t vocab, unsigned seed) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  std::mt19937 generator(seed);
  std::normal_distribution<double> bulk(-2.0, 2.5);
  std::uniform_int_distribution<std::int64_t> token(0, vocab - 1);
  std::vector<double> row(static_cast<std::size_t>(vocab));
  for (double& logit : row) {
    logit = kind == "uniform" ? 0.3 : bulk(generator);
    if (kind == "masked" && generator() % 2 == 0) {
      logit = -infinity;
    }
    logit += kind == "offset" ? 1e4 : 0.0;
  }
  const auto favourite = static_cast<std::size_t>(token(generator));
  if (kind == "confident") {
    row[favourite] = 30.0;
  } else if (kind == "huge") {
    row[favourite] = 2e38;
  } else if (kind != "uniform") {
    row[favourite] = kind == "offset" ? 1e4 + 9.0 : 9.0;
  }
  return row;
}

/// Rows of every kind with targets at the ends, at the best token and between; gives the targets.
/// `logits` has `set(row, values)`.
template <typename Rows>
std::vector<std::int64_t> fill_with_every_kind(Rows& logits, std::int64_t vocab) {
  std::vector<std::int64_t> targets;
  for (std::size_t i = 0; i < row_kinds().size(); ++i) {
    std::vector<double> row =
        make_row(row_kinds()[i], vocab, static_cast<unsigned>(97 * vocab) + unsigned(i));
    const auto best = std::max_element(row.begin(), row.end()) - row.begin();
    const std::int64_t choices[] = {0, best, vocab - 1, vocab / 2, best, vocab / 3};
    targets.push_back(choices[i]);
    double& scored = row[static_cast<std::size_t>(targets.back())];
    scored = std::isinf(scored) ? -1.0 : scored;
    logits.set(static_cast<std::int64_t>(i), row);
  }
  return targets;
}

}  // namespace selm::test
