#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "device_memory.hpp"
#include "device_rows.hpp"
#include "selm/cuda/launch.hpp"
#include "token_reference.hpp"

// The kernels over rows of logits, on a GPU.

using namespace selm;
using namespace selm::cuda;
using namespace selm::test;

namespace {

constexpr std::int64_t vocabularies[] = {1, 31, 33, 32001, 50257, 151936, 262145};
constexpr std::int64_t ignore_index = -100;
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

template <typename T>
struct RowResults {
  std::vector<T> logps, summary;
  std::vector<float> entropy, log_sum_sq_probs, mean_logits;
  std::vector<unsigned char> is_top1;
};

/// Forward and backward over all rows on one stream; `grad` empty stands for ones.
template <typename Storage, typename T = accumulation_t<Storage>>
RowResults<T> run_rows(const DeviceRows<Storage>& logits, const std::vector<std::int64_t>& targets,
                       std::int64_t vocab, const HeadOptions& head, const std::vector<T>& grad,
                       const DeviceRows<Storage>& d_logits, cudaStream_t stream = nullptr) {
  const auto rows = static_cast<std::int64_t>(targets.size());
  const Device<std::int64_t> where(targets);
  const Device<T> upstream(grad);
  const Device<T> logps(targets.size()), summary(3 * targets.size());
  const Device<float> entropy(targets.size()), squares(targets.size()), means(targets.size());
  const Device<unsigned char> top1(targets.size());
  const auto transform = LogitTransform<T>::make(head.temperature, head.logit_scale, head.softcap);
  require(token_logps<Storage>(
      logits.const_view(), where.get(), rows, vocab, ignore_index, transform, logps.get(),
      summary.get(),
      {entropy.get(), squares.get(), means.get(), reinterpret_cast<bool*>(top1.get())}, stream));
  require(token_logps_backward<Storage>(
      logits.const_view(), where.get(), rows, 0, vocab, ignore_index, transform, summary.get(),
      grad.empty() ? nullptr : upstream.get(), d_logits.view(), stream));
  return {logps.copy(), summary.copy(), entropy.copy(), squares.copy(), means.copy(), top1.copy()};
}

template <typename T>
TokenResult result_of(const RowResults<T>& r, std::size_t i, const std::vector<double>& d_logits) {
  return {double(r.logps[i]), r.entropy[i],      r.log_sum_sq_probs[i],
          r.mean_logits[i],   r.is_top1[i] != 0, d_logits};
}

}  // namespace

TEMPLATE_TEST_CASE("rows on the device agree with a two-pass reference", "[cuda]", float, double,
                   __half, __nv_bfloat16) {
  SELM_SKIP_WITHOUT_DEVICE();
  using T = accumulation_t<TestType>;
  const std::int64_t vocab = GENERATE(from_range(std::begin(vocabularies), std::end(vocabularies)));
  const HeadOptions head =
      GENERATE(HeadOptions{}, HeadOptions{0.7, 1.0, 0.0}, HeadOptions{0.9, 1.5, 30.0});
  const auto count = static_cast<std::int64_t>(row_kinds().size());
  DeviceRows<TestType> logits(2, count / 2, vocab, 1, 1);
  DeviceRows<TestType> d_logits(2, count / 2, vocab, 1, 1);
  std::vector<std::int64_t> targets;
  std::vector<T> upstream;
  for (std::int64_t i = 0; i < count; ++i) {
    std::vector<double> row = make_row(row_kinds()[static_cast<std::size_t>(i)], vocab,
                                       static_cast<unsigned>(97 * vocab + i));
    const auto best = std::max_element(row.begin(), row.end()) - row.begin();
    const std::int64_t choices[] = {0, best, vocab - 1, vocab / 2, best, vocab / 3};
    targets.push_back(choices[i]);
    upstream.push_back(T(0.37 - 0.25 * double(i)));
    double& scored = row[static_cast<std::size_t>(targets.back())];
    scored = std::isinf(scored) ? -1.0 : scored;
    logits.set(i, row);
  }
  logits.upload();
  const RowResults<T> r = run_rows(logits, targets, vocab, head, upstream, d_logits);
  d_logits.download();
  CHECK(d_logits.changed_gaps(count) == 0);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto k = static_cast<std::size_t>(i);
    CAPTURE(vocab, head.temperature, head.softcap, row_kinds()[k], targets[k]);
    check_row(result_of(r, k, d_logits.get(i)), logits.get(i), targets[k], head,
              double(upstream[k]), precision_of<TestType>());
  }
}

TEMPLATE_TEST_CASE("ignored, invalid and hopeless rows on the device", "[cuda]", float, double,
                   __half, __nv_bfloat16) {
  SELM_SKIP_WITHOUT_DEVICE();
  constexpr std::int64_t vocab = 4099;
  const std::vector<std::int64_t> targets{ignore_index, 7, -1, vocab, 7, 7};
  DeviceRows<TestType> logits(1, 6, vocab, 0);
  DeviceRows<TestType> d_logits(1, 6, vocab, 0);
  std::vector<double> row = make_row("language", vocab, 1);
  for (std::int64_t i = 0; i < 4; ++i) {
    logits.set(i, row);
  }
  logits.set(0, std::vector<double>(vocab, not_a_number));
  logits.set(4, std::vector<double>(vocab, -infinity));
  row[4000] = infinity;
  logits.set(5, row);
  logits.upload();
  const auto r = run_rows(logits, targets, vocab, {}, {}, d_logits);
  d_logits.download();
  CHECK(r.logps[0] == 0);
  CHECK(r.entropy[0] == 0.0f);
  CHECK(r.log_sum_sq_probs[0] == 0.0f);
  CHECK(r.mean_logits[0] == 0.0f);
  CHECK(r.is_top1[0] == 0);
  CHECK(d_logits.get(0) == std::vector<double>(vocab, 0.0));
  check_row(result_of(r, 1, d_logits.get(1)), logits.get(1), 7, {}, 1.0, precision_of<TestType>());
  for (const std::size_t i : {2, 3, 4, 5}) {
    CAPTURE(i);
    CHECK(std::isnan(r.logps[i]));
    CHECK(std::isnan(r.entropy[i]));
    CHECK(std::isnan(d_logits.get(static_cast<std::int64_t>(i))[7]));
    CHECK(std::isnan(d_logits.get(static_cast<std::int64_t>(i))[100]));
  }
  CHECK(r.is_top1[2] == 0);
}

TEMPLATE_TEST_CASE("the same bits in place, on a side stream and again", "[cuda]", float, double,
                   __half, __nv_bfloat16) {
  SELM_SKIP_WITHOUT_DEVICE();
  using T = accumulation_t<TestType>;
  constexpr std::int64_t vocab = 50257;
  const std::vector<std::int64_t> targets{0, 50256, 12345, ignore_index};
  const std::vector<T> upstream{T(0.5), T(-2), T(0.125), T(1)};
  DeviceRows<TestType> logits(2, 2, vocab, 0, 1);
  DeviceRows<TestType> beside(2, 2, vocab, 0, 1);
  DeviceRows<TestType> otherwise_aligned(2, 2, vocab, 0, 0);
  for (std::int64_t i = 0; i < 4; ++i) {
    logits.set(i, make_row("language", vocab, unsigned(i)));
  }
  logits.upload();
  cudaStream_t side = nullptr;
  require(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
  const RowResults<T> first = run_rows(logits, targets, vocab, {}, upstream, beside);
  const RowResults<T> second =
      run_rows(logits, targets, vocab, {}, upstream, otherwise_aligned, side);
  const RowResults<T> third = run_rows(logits, targets, vocab, {}, upstream, logits);
  require(cudaStreamDestroy(side));
  for (DeviceRows<TestType>* rows : {&logits, &beside, &otherwise_aligned}) {
    rows->download();
  }
  CHECK(second.logps == first.logps);
  CHECK(third.logps == first.logps);
  CHECK(second.summary == first.summary);
  CHECK(second.entropy == first.entropy);
  CHECK(second.is_top1 == first.is_top1);
  for (std::int64_t i = 0; i < 4; ++i) {
    CHECK(logits.get(i) == beside.get(i));
    CHECK(otherwise_aligned.get(i) == beside.get(i));
  }
}

TEST_CASE("more rows than any grid dimension but x holds", "[cuda]") {
  SELM_SKIP_WITHOUT_DEVICE();
  constexpr std::size_t rows = 70000;
  constexpr std::int64_t vocab = 33;
  const Device<float> logits(std::vector<float>(rows * vocab, 2.0f)), logps(rows);
  const Device<std::int64_t> targets(std::vector<std::int64_t>(rows, 32));
  require(token_logps<float>(contiguous_rows<const float>(logits.get(), vocab), targets.get(), rows,
                             vocab, ignore_index, {1.0f, 0.0f, 0.0f}, logps.get(), nullptr, {},
                             nullptr));
  int wrong = 0;
  for (const float logp : logps.copy()) {
    wrong += !keeps_logp_promise(logp, -std::log(33.0), Precision::of<float>());
  }
  CHECK(wrong == 0);
}

TEST_CASE("more logits than 32 bits count", "[cuda]") {
  SELM_SKIP_WITHOUT_DEVICE();
  constexpr std::size_t rows = 8200;
  constexpr std::int64_t vocab = 262145;
  constexpr std::size_t bytes = rows * vocab * sizeof(__nv_bfloat16);
  std::size_t available = 0, total = 0;
  require(cudaMemGetInfo(&available, &total));
  if (available < bytes + (std::size_t(1) << 28)) {
    WARN("skipped: needs 4.6 GB of free device memory");
    return;
  }
  const Device<__nv_bfloat16> logits(rows * vocab);
  require(cudaMemset(logits.get(), 0, bytes));
  const Device<std::int64_t> targets(std::vector<std::int64_t>(rows, vocab - 1));
  const Device<float> logps(rows), summary(3 * rows);
  const RowView<__nv_bfloat16> view = contiguous_rows(logits.get(), vocab);
  const LogitTransform<float> plain{1.0f, 0.0f, 0.0f};
  require(token_logps<__nv_bfloat16>({view.data, 1, vocab, 0}, targets.get(), rows, vocab,
                                     ignore_index, plain, logps.get(), summary.get(), {}, nullptr));
  require(token_logps_backward<__nv_bfloat16>({view.data, 1, vocab, 0}, targets.get(), rows, 0,
                                              vocab, ignore_index, plain, summary.get(), nullptr,
                                              view, nullptr));
  int wrong = 0;
  for (const float logp : logps.copy()) {
    wrong += !keeps_logp_promise(logp, -std::log(double(vocab)), Precision::of<float>());
  }
  CHECK(wrong == 0);
  __nv_bfloat16 last[2];
  require(cudaMemcpy(last, logits.get() + rows * vocab - 2, sizeof(last), cudaMemcpyDeviceToHost));
  CHECK(static_cast<float>(last[0]) < 0.0f);
  CHECK(static_cast<float>(last[1]) == 1.0f);
}
