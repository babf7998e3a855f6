#include <cstdint>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "host_block.hpp"
#include "host_rows.hpp"
#include "selm/cuda/token_rows.hpp"
#include "token_reference.hpp"

// The CUDA kernels' row functions on the host: a block is a group of threads that run the very code
// of a GPU's threads and merge their results in the same order.

using namespace selm;
using namespace selm::cuda;
using namespace selm::test;

namespace {

constexpr std::int64_t vocabularies[] = {1, 31, 33, 32001, 50257, 151936, 262145};
constexpr std::int64_t ignore_index = -100;
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

template <typename Storage>
struct Results {
  using T = accumulation_t<Storage>;
  std::vector<T> logps, summary;
  std::vector<float> entropy, log_sum_sq_probs, mean_logits;
  std::vector<unsigned char> is_top1;
};

/// The forward kernel, one block for all rows.
template <typename Storage>
Results<Storage> score(Rows<Storage>& logits, const std::vector<std::int64_t>& targets,
                       std::int64_t vocab, const HeadOptions& head, int threads = 64) {
  using T = accumulation_t<Storage>;
  const std::size_t count = targets.size();
  const T unset = T(77);
  Results<Storage> r{std::vector<T>(count, unset),  std::vector<T>(3 * count, unset),
                     std::vector<float>(count, 77), std::vector<float>(count, 77),
                     std::vector<float>(count, 77), std::vector<unsigned char>(count, 1)};
  static_assert(sizeof(bool) == 1);
  const auto transform = LogitTransform<T>::make(head.temperature, head.logit_scale, head.softcap);
  const TokenRows<Storage> rows{logits.const_view(), targets.data(), std::int64_t(count), vocab,
                                ignore_index,        transform};
  const TokenLogpOutputs<T> out{r.logps.data(),
                                r.summary.data(),
                                {r.entropy.data(), r.log_sum_sq_probs.data(), r.mean_logits.data(),
                                 reinterpret_cast<bool*>(r.is_top1.data())}};
  run_block(threads, [&](const HostBlock& block) {
    for (std::int64_t row = 0; row < rows.count; ++row) {
      score_row(block, rows, transform, row, out);
    }
  });
  return r;
}

/// The backward kernel; `grad` may be null.
template <typename Storage>
void differentiate(Rows<Storage>& logits, const std::vector<std::int64_t>& targets,
                   std::int64_t vocab, const HeadOptions& head,
                   const std::vector<accumulation_t<Storage>>& summary,
                   const accumulation_t<Storage>* grad, Rows<Storage>& d_logits, int threads = 64) {
  using T = accumulation_t<Storage>;
  const auto transform = LogitTransform<T>::make(head.temperature, head.logit_scale, head.softcap);
  const TokenRows<Storage> rows{
      logits.const_view(), targets.data(), std::int64_t(targets.size()), vocab,
      ignore_index,        transform};
  run_block(threads, [&](const HostBlock& block) {
    for (std::int64_t row = 0; row < rows.count; ++row) {
      differentiate_row(block, rows, transform, row, summary.data(), grad, d_logits.view());
    }
  });
}

template <typename Storage>
void check(Rows<Storage>& logits, std::int64_t i, const std::vector<std::int64_t>& targets,
           const HeadOptions& head, const Results<Storage>& r, Rows<Storage>& d_logits,
           double upstream) {
  const auto k = static_cast<std::size_t>(i);
  const TokenResult got{double(r.logps[k]), r.entropy[k],      r.log_sum_sq_probs[k],
                        r.mean_logits[k],   r.is_top1[k] != 0, d_logits.get(i)};
  check_row(got, logits.get(i), targets[k], head, upstream, precision_of<Storage>());
}

}  // namespace

TEMPLATE_TEST_CASE("rows agree with a two-pass reference", "[device]", float, double, Bfloat16) {
  using T = accumulation_t<TestType>;
  const std::int64_t vocab = GENERATE(from_range(std::begin(vocabularies), std::end(vocabularies)));
  const HeadOptions head =
      GENERATE(HeadOptions{}, HeadOptions{0.7, 1.0, 0.0}, HeadOptions{0.9, 1.5, 30.0});
  if (vocab > 32001 && head.temperature != 1.0) {
    return;  // large rows with the plain head only, to save time
  }
  const auto count = static_cast<std::int64_t>(row_kinds().size());
  Rows<TestType> logits(count, vocab, 1, 2);
  Rows<TestType> d_logits(count, vocab, 1, 2);
  std::vector<std::int64_t> targets;
  std::vector<T> upstream;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::string& kind = row_kinds()[static_cast<std::size_t>(i)];
    std::vector<double> row = make_row(kind, vocab, static_cast<unsigned>(97 * vocab + i));
    const auto best = std::max_element(row.begin(), row.end()) - row.begin();
    const std::int64_t choices[] = {0, best, vocab - 1, vocab / 2, best, vocab / 3};
    targets.push_back(choices[i]);
    upstream.push_back(T(0.37 - 0.25 * double(i)));
    if (std::isinf(row[static_cast<std::size_t>(targets.back())])) {
      row[static_cast<std::size_t>(targets.back())] = -1.0;
    }
    logits.set(i, row);
  }
  d_logits.fill(5.0);

  const Results<TestType> r = score(logits, targets, vocab, head, 256);
  differentiate(logits, targets, vocab, head, r.summary, upstream.data(), d_logits, 256);
  CHECK(d_logits.changed_gaps(count, 5.0) == 0);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto k = static_cast<std::size_t>(i);
    CAPTURE(vocab, head.temperature, head.softcap, row_kinds()[k], targets[k]);
    check(logits, i, targets, head, r, d_logits, double(upstream[k]));
  }
}

TEMPLATE_TEST_CASE("an ignored row is not read and its results are zero", "[device]", float, double,
                   Bfloat16) {
  using T = accumulation_t<TestType>;
  constexpr std::int64_t vocab = 1001;
  Rows<TestType> logits(2, vocab, 3, 0);
  Rows<TestType> d_logits(2, vocab, 3, 0);
  logits.set(0, std::vector<double>(vocab, not_a_number));
  logits.set(1, make_row("language", vocab, 5));
  d_logits.fill(5.0);
  const std::vector<std::int64_t> targets{ignore_index, 17};
  const std::vector<T> upstream{T(not_a_number), T(1)};

  const Results<TestType> r = score(logits, targets, vocab, {});
  differentiate(logits, targets, vocab, {}, r.summary, upstream.data(), d_logits);
  CHECK(r.logps[0] == T(0));
  CHECK(std::vector<T>(r.summary.begin(), r.summary.begin() + 3) == std::vector<T>(3, T(0)));
  CHECK(r.entropy[0] == 0.0f);
  CHECK(r.log_sum_sq_probs[0] == 0.0f);
  CHECK(r.mean_logits[0] == 0.0f);
  CHECK(r.is_top1[0] == 0);
  CHECK(d_logits.get(0) == std::vector<double>(vocab, 0.0));
  check(logits, 1, targets, {}, r, d_logits, 1.0);
}

TEMPLATE_TEST_CASE("a target out of range makes its row NaN and reads nothing", "[device]", float,
                   double, Bfloat16) {
  using T = accumulation_t<TestType>;
  constexpr std::int64_t vocab = 129;
  const std::vector<std::int64_t> targets{-1, 5, vocab, std::numeric_limits<std::int64_t>::max(),
                                          std::numeric_limits<std::int64_t>::min()};
  const auto count = static_cast<std::int64_t>(targets.size());
  Rows<TestType> logits(count, vocab, 0, 1);
  Rows<TestType> d_logits(count, vocab, 0, 1);
  for (std::int64_t i = 0; i < count; ++i) {
    logits.set(i, make_row("language", vocab, unsigned(i)));
  }
  const Results<TestType> r = score(logits, targets, vocab, {});
  differentiate(logits, targets, vocab, {}, r.summary, static_cast<const T*>(nullptr), d_logits);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto k = static_cast<std::size_t>(i);
    if (i == 1) {
      check(logits, i, targets, {}, r, d_logits, 1.0);
      continue;
    }
    CAPTURE(targets[k]);
    CHECK(std::isnan(r.logps[k]));
    CHECK(std::isnan(r.entropy[k]));
    CHECK(std::isnan(r.log_sum_sq_probs[k]));
    CHECK(std::isnan(r.mean_logits[k]));
    CHECK(r.is_top1[k] == 0);
    for (const double d : d_logits.get(i)) {
      CHECK(std::isnan(d));
    }
  }
}

TEMPLATE_TEST_CASE("a logit that cannot be normalised makes its row NaN, wherever it is",
                   "[device]", float, double, Bfloat16) {
  using T = accumulation_t<TestType>;
  constexpr std::int64_t vocab = 8300;  // two rounds of packets, a head and a tail
  const HeadOptions head = GENERATE(HeadOptions{}, HeadOptions{1.0, 1.0, 30.0});
  const double bad = GENERATE(infinity, not_a_number);
  const bool masked = GENERATE(false, true);
  const std::int64_t target = 4000;
  for (const std::int64_t place : {0, 1, 7, 300, 4000, 8191, 8290, 8299}) {
    Rows<TestType> logits(1, vocab, 1, 0);
    Rows<TestType> d_logits(1, vocab, 1, 0);
    std::vector<double> row =
        masked ? std::vector<double>(vocab, -infinity) : make_row("language", vocab, 3);
    row[target] = 0.5;
    row[static_cast<std::size_t>(place)] = bad;
    logits.set(0, row);
    const Results<TestType> r = score(logits, {target}, vocab, head);
    differentiate(logits, {target}, vocab, head, r.summary, static_cast<const T*>(nullptr),
                  d_logits);
    CAPTURE(place, bad, masked, head.softcap);
    CHECK(std::isnan(r.logps[0]));
    CHECK(std::isnan(r.entropy[0]));
    CHECK(std::isnan(d_logits.get(0)[target]));
    CHECK(std::isnan(d_logits.get(0)[100]));
  }
}

TEMPLATE_TEST_CASE("masked tokens", "[device]", float, double, Bfloat16) {
  using T = accumulation_t<TestType>;
  constexpr std::int64_t vocab = 4099;
  const HeadOptions head = GENERATE(HeadOptions{}, HeadOptions{1.0, 1.0, 2.0});
  Rows<TestType> logits(3, vocab, 0, 0);
  Rows<TestType> d_logits(3, vocab, 0, 0);
  std::vector<double> row(vocab, -infinity);
  logits.set(0, row);  // nothing left: no distribution
  row[2000] = -3.0;
  logits.set(1, row);  // the target alone: certain
  row[4098] = 1.0;
  logits.set(2, row);  // the target masked: impossible
  const std::vector<std::int64_t> targets{2000, 2000, 7};
  const Results<TestType> r = score(logits, targets, vocab, head);
  differentiate(logits, targets, vocab, head, r.summary, static_cast<const T*>(nullptr), d_logits);

  CHECK(std::isnan(r.logps[0]));
  CHECK(r.logps[1] == T(0));
  CHECK(r.logps[2] == T(-infinity));
  for (const std::int64_t i : {1, 2}) {
    check(logits, i, targets, head, r, d_logits, 1.0);
  }
}

TEMPLATE_TEST_CASE("gradients in place, and beside rows of another alignment, have the same bits",
                   "[device]", float, double, Bfloat16) {
  using T = accumulation_t<TestType>;
  constexpr std::int64_t vocab = 32001;
  const std::vector<std::int64_t> targets{0, 32000, 12345};
  const std::vector<T> upstream{T(0.5), T(-2), T(0.125)};
  Rows<TestType> logits(3, vocab, 1, 0);
  Rows<TestType> aligned_alike(3, vocab, 1, 0);
  Rows<TestType> aligned_otherwise(3, vocab, 0, 0);
  for (std::int64_t i = 0; i < 3; ++i) {
    logits.set(i, make_row("language", vocab, unsigned(i)));
  }
  const Results<TestType> r = score(logits, targets, vocab, {});
  const auto write = [&](Rows<TestType>& d_logits) {
    differentiate(logits, targets, vocab, {}, r.summary, upstream.data(), d_logits);
  };
  write(aligned_alike);
  write(aligned_otherwise);
  write(logits);
  for (std::int64_t i = 0; i < 3; ++i) {
    CHECK(aligned_otherwise.get(i) == aligned_alike.get(i));
    CHECK(logits.get(i) == aligned_alike.get(i));
  }
}

TEMPLATE_TEST_CASE("the same row gives the same bits, whatever the other rows are", "[device]",
                   float, double, Bfloat16) {
  constexpr std::int64_t vocab = 50257;
  constexpr std::int64_t period = 16 / sizeof(TestType);  // rows aligned alike
  const std::vector<double> row = make_row("language", vocab, 1);
  std::vector<std::int64_t> targets(period + 1, ignore_index);
  targets.front() = targets.back() = 9;
  Rows<TestType> logits(period + 1, vocab, 0, 0);
  logits.fill(not_a_number);
  logits.set(0, row);
  logits.set(period, row);
  const Results<TestType> r = score(logits, targets, vocab, {});
  const Results<TestType> again = score(logits, targets, vocab, {});
  CHECK(r.logps.front() == r.logps.back());
  CHECK(r.entropy.front() == r.entropy.back());
  CHECK(again.logps == r.logps);
  CHECK(again.summary == r.summary);
  CHECK(again.entropy == r.entropy);
}

TEMPLATE_TEST_CASE("a tie for the best token goes to the first", "[device]", float, Bfloat16) {
  constexpr std::int64_t vocab = 5000;
  std::vector<double> row(vocab, 0.0);
  row[1234] = row[1235] = row[4999] = 3.0;
  Rows<TestType> logits(2, vocab, 1, 0);
  logits.set(0, row);
  logits.set(1, row);
  const Results<TestType> r = score(logits, {1234, 1235}, vocab, {});
  CHECK(r.is_top1[0] == 1);
  CHECK(r.is_top1[1] == 0);
}
