#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "device_memory.hpp"
#include "device_rows.hpp"
#include "selm/cuda/launch.hpp"
#include "token_reference.hpp"

// Log-probabilities and gradients from one read, on a GPU.

using namespace selm;
using namespace selm::cuda;
using namespace selm::test;

namespace {

constexpr std::int64_t ignore_index = -100;

/// One block, clusters of each size, and a row that no cluster holds.
constexpr std::int64_t vocabularies[] = {1,     31,     33,     20000,  32001,
                                         50257, 100000, 151936, 256000, 500001};

template <typename First, typename Second>
struct Types {
  using Storage = First;
  using Gradient = Second;
};

template <typename T>
struct Results {
  std::vector<T> logps, summary;
  std::vector<float> entropy, log_sum_sq_probs, mean_logits;
  std::vector<unsigned char> is_top1;

  TokenResult row(std::size_t i, std::vector<double> d_logits) const {
    return {double(logps[i]), entropy[i],      log_sum_sq_probs[i],
            mean_logits[i],   is_top1[i] != 0, std::move(d_logits)};
  }
  bool operator==(const Results& other) const {
    return logps == other.logps && summary == other.summary && entropy == other.entropy &&
           log_sum_sq_probs == other.log_sum_sq_probs && mean_logits == other.mean_logits &&
           is_top1 == other.is_top1;
  }
};

/// `d_logits` of which the data are null is not wanted.
template <typename Storage, typename Gradient>
Results<Storage> run(const DeviceRows<Storage>& logits, const std::vector<std::int64_t>& targets,
                     std::int64_t vocab, const HeadOptions& head, Storage scale,
                     const RowView<Gradient>& d_logits, cudaStream_t stream = nullptr) {
  const std::size_t rows = targets.size();
  const Device<std::int64_t> where(targets);
  const Device<Storage> logps(rows), summary(3 * rows);
  const Device<float> entropy(rows), squares(rows), means(rows);
  const Device<unsigned char> top1(rows);
  const auto transform =
      LogitTransform<Storage>::make(head.temperature, head.logit_scale, head.softcap);
  require(token_logps_with_grad(
      logits.const_view(), where.get(), static_cast<std::int64_t>(rows), vocab, ignore_index,
      transform, scale, logps.get(), summary.get(),
      {entropy.get(), squares.get(), means.get(), reinterpret_cast<bool*>(top1.get())}, d_logits,
      stream));
  return {logps.copy(), summary.copy(), entropy.copy(), squares.copy(), means.copy(), top1.copy()};
}

}  // namespace

TEMPLATE_TEST_CASE("one read on the device agrees with a two-pass reference", "[cuda]",
                   (Types<float, float>), (Types<float, __half>), (Types<float, __nv_bfloat16>),
                   (Types<double, double>)) {
  SELM_SKIP_WITHOUT_DEVICE();
  using Storage = typename TestType::Storage;
  using Gradient = typename TestType::Gradient;
  const std::int64_t vocab = GENERATE(from_range(std::begin(vocabularies), std::end(vocabularies)));
  const HeadOptions head = GENERATE(HeadOptions{}, HeadOptions{0.9, 1.5, 30.0});
  const std::int64_t offset = GENERATE(0, 1);
  const auto count = static_cast<std::int64_t>(row_kinds().size());
  const std::int64_t gap = 7 - (vocab + 7) % 8;
  DeviceRows<Storage> logits(2, count / 2, vocab, gap, offset);
  DeviceRows<Gradient> d_logits(2, count / 2, vocab, gap);
  const std::vector<std::int64_t> targets = fill_with_every_kind(logits, vocab);
  logits.upload();
  const Storage scale = Storage(sizeof(Gradient) == 2 ? 8192 : 1);
  const Results<Storage> r = run(logits, targets, vocab, head, scale, d_logits.view());
  d_logits.download();
  CHECK(d_logits.changed_gaps(count) == 0);
  Precision precision = precision_of<Gradient>();
  precision.sum_epsilon = std::numeric_limits<Storage>::epsilon();
  for (std::int64_t i = 0; i < count; ++i) {
    const auto k = static_cast<std::size_t>(i);
    CAPTURE(vocab, head.softcap, offset, row_kinds()[k], targets[k]);
    check_row(r.row(k, d_logits.get(i)), logits.get(i), targets[k], head, double(scale), precision);
  }
}

TEST_CASE("the same bits without a gradient, on a side stream and again", "[cuda]") {
  SELM_SKIP_WITHOUT_DEVICE();
  const std::int64_t vocab = GENERATE(20000, 50257, 256000, 500001);
  const auto count = static_cast<std::int64_t>(row_kinds().size());
  const std::int64_t gap = 7 - (vocab + 7) % 8;
  DeviceRows<float> logits(1, count, vocab, gap);
  const std::vector<std::int64_t> targets = fill_with_every_kind(logits, vocab);
  logits.upload();
  DeviceRows<__nv_bfloat16> first(1, count, vocab, gap), second(1, count, vocab, gap);
  cudaStream_t side = nullptr;
  require(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
  const auto with = run(logits, targets, vocab, {}, 1.0f, first.view());
  CHECK(run(logits, targets, vocab, {}, 1.0f, second.view(), side) == with);
  CHECK(run(logits, targets, vocab, {}, 1.0f, RowView<__nv_bfloat16>{nullptr, 1, 0, 0}) == with);
  require(cudaStreamDestroy(side));
  first.download();
  second.download();
  for (std::int64_t i = 0; i < count; ++i) {
    CHECK(first.get(i) == second.get(i));
  }
}

TEST_CASE("rows that are not scored, in a cluster", "[cuda]") {
  SELM_SKIP_WITHOUT_DEVICE();
  constexpr std::int64_t vocab = 128256;
  const double bad = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::int64_t> targets{ignore_index, 7, -1, vocab, 7};
  DeviceRows<float> logits(1, 5, vocab, 0);
  DeviceRows<__half> d_logits(1, 5, vocab, 0);
  std::vector<double> row = make_row("language", vocab, 1);
  for (std::int64_t i = 1; i < 4; ++i) {
    logits.set(i, row);
  }
  logits.set(0, std::vector<double>(vocab, bad));
  row[100000] = bad;
  logits.set(4, row);
  logits.upload();
  const auto r = run(logits, targets, vocab, {}, 1.0f, d_logits.view());
  d_logits.download();
  CHECK(r.logps[0] == 0.0f);
  CHECK(r.entropy[0] == 0.0f);
  CHECK(d_logits.get(0) == std::vector<double>(vocab, 0.0));
  check_row(r.row(1, d_logits.get(1)), logits.get(1), 7, {}, 1.0, precision_of<__half>());
  for (const std::int64_t i : {2, 3, 4}) {
    CAPTURE(i);
    CHECK(std::isnan(r.logps[static_cast<std::size_t>(i)]));
    CHECK(std::isnan(d_logits.get(i).front()));
    CHECK(std::isnan(d_logits.get(i).back()));
  }
}

TEMPLATE_TEST_CASE("blocks of the vocabulary have the gradients of the whole", "[cuda]", float,
                   __half, __nv_bfloat16) {
  SELM_SKIP_WITHOUT_DEVICE();
  constexpr std::int64_t vocab = 50257, middle = 16384;
  const auto count = static_cast<std::int64_t>(row_kinds().size());
  DeviceRows<float> logits(1, count, vocab, 7);
  const std::vector<std::int64_t> targets = fill_with_every_kind(logits, vocab);
  logits.upload();
  DeviceRows<TestType> whole(1, count, vocab, 7), parts(1, count, vocab, 7);
  const auto r = run(logits, targets, vocab, {}, 1.0f, whole.view());
  const Device<float> summary(r.summary);
  const Device<std::int64_t> where(targets);
  for (const auto& [first, width] :
       {std::pair<std::int64_t, std::int64_t>{0, middle}, {middle, vocab - middle}}) {
    RowView<const float> block = logits.const_view();
    RowView<TestType> d_block = parts.view();
    block.data += first;
    d_block.data += first;
    require(token_logps_backward(block, where.get(), count, first, width, ignore_index,
                                 LogitTransform<float>{1.0f, 0.0f, 0.0f}, summary.get(),
                                 static_cast<const float*>(nullptr), d_block, nullptr));
  }
  whole.download();
  parts.download();
  for (std::int64_t i = 0; i < count; ++i) {
    CHECK(parts.get(i) == whole.get(i));
  }
}
