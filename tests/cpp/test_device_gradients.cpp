#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "host_block.hpp"
#include "host_rows.hpp"
#include "selm/cuda/token_rows.hpp"
#include "token_reference.hpp"

// Log-probabilities and gradients from one read, on the host: a cluster is a group of threads, each
// block of it with its own memory for what its threads stash.

using namespace selm;
using namespace selm::cuda;
using namespace selm::test;

namespace {

constexpr std::int64_t ignore_index = -100;
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr int threads = 64;  ///< of a block

template <typename First, typename Second>
struct Types {
  using Storage = First;
  using Gradient = Second;
};

/// Blocks of a cluster, and whether they stash what they read.
struct Cluster {
  int blocks;
  bool stashes;
};

/// The shared memory of a cluster's blocks, exactly as large as it has to be.
class Stashes {
 public:
  Stashes(const Cluster& cluster, std::int64_t bytes)
      : bytes_(cluster.stashes ? bytes : 0),
        packets_(static_cast<std::size_t>(cluster.blocks),
                 std::vector<Packet<double, 2>>(static_cast<std::size_t>(bytes_ / 16 + 2),
                                                Packet<double, 2>{{guard, guard}})) {}

  StashMemory of(int thread) {
    return {bytes_ == 0 ? nullptr : data(static_cast<std::size_t>(thread / threads)), threads};
  }
  bool is_overrun() {
    bool changed = false;
    for (std::size_t block = 0; block < packets_.size(); ++block) {
      double behind;
      std::memcpy(&behind, data(block) + (bytes_ + 7) / 8 * 8, sizeof(behind));
      changed = changed || behind != guard;
    }
    return changed;
  }

 private:
  static constexpr double guard = 12345.0;

  unsigned char* data(std::size_t block) {
    return reinterpret_cast<unsigned char*>(packets_[block].data());
  }

  std::int64_t bytes_;
  std::vector<std::vector<Packet<double, 2>>> packets_;
};

template <typename T>
struct Results {
  std::vector<T> logps, summary;
  std::vector<float> entropy, log_sum_sq_probs, mean_logits;
  std::vector<unsigned char> is_top1;

  explicit Results(std::size_t count)
      : logps(count, T(77)),
        summary(3 * count, T(77)),
        entropy(count, 77.0f),
        log_sum_sq_probs(count, 77.0f),
        mean_logits(count, 77.0f),
        is_top1(count, 1) {}

  TokenLogpOutputs<T> outputs() {
    return {logps.data(),
            summary.data(),
            {entropy.data(), log_sum_sq_probs.data(), mean_logits.data(),
             reinterpret_cast<bool*>(is_top1.data())}};
  }
  bool operator==(const Results& other) const {
    return logps == other.logps && summary == other.summary && entropy == other.entropy &&
           log_sum_sq_probs == other.log_sum_sq_probs && mean_logits == other.mean_logits &&
           is_top1 == other.is_top1;
  }
};

template <typename T>
LogitTransform<T> transform_of(const HeadOptions& head) {
  return LogitTransform<T>::make(head.temperature, head.logit_scale, head.softcap);
}

/// The kernel with one cluster for all rows; a null `d_logits` is not wanted.
template <typename Storage, typename Gradient>
Results<accumulation_t<Storage>> run(Rows<Storage>& logits,
                                     const std::vector<std::int64_t>& targets, std::int64_t vocab,
                                     const HeadOptions& head, const Cluster& cluster,
                                     Rows<Gradient>* d_logits, accumulation_t<Storage> scale = 1) {
  using T = accumulation_t<Storage>;
  Results<T> results(targets.size());
  const TokenRows<Storage> rows{
      logits.const_view(), targets.data(),       static_cast<std::int64_t>(targets.size()), vocab,
      ignore_index,        transform_of<T>(head)};
  const TokenGradients<Gradient, T> gradients{
      d_logits == nullptr ? RowView<Gradient>{nullptr, 1, 0, 0} : d_logits->view(), scale};
  Stashes stashes(cluster, stash_bytes<Storage>(vocab, threads, cluster.blocks));
  run_block(cluster.blocks * threads, [&](const HostBlock& block) {
    for (std::int64_t row = 0; row < rows.count; ++row) {
      score_and_differentiate_row(block, rows, rows.transform, row,
                                  stashes.of(block.thread().index), results.outputs(), gradients);
    }
  });
  CHECK_FALSE(stashes.is_overrun());
  return results;
}

template <typename T>
TokenResult result_of(const Results<T>& r, std::size_t i, const std::vector<double>& d_logits) {
  return {double(r.logps[i]), r.entropy[i],      r.log_sum_sq_probs[i],
          r.mean_logits[i],   r.is_top1[i] != 0, d_logits};
}

}  // namespace

TEMPLATE_TEST_CASE("one read, by a block or a cluster, agrees with a two-pass reference",
                   "[device]", (Types<float, float>), (Types<float, Bfloat16>),
                   (Types<double, double>)) {
  using Storage = typename TestType::Storage;
  using Gradient = typename TestType::Gradient;
  const std::int64_t vocab = GENERATE(1, 5, 31, 33, 1000, 4099, 32001);
  const Cluster cluster = GENERATE(Cluster{1, false}, Cluster{4, false}, Cluster{1, true},
                                   Cluster{2, true}, Cluster{4, true});
  const HeadOptions head = GENERATE(HeadOptions{}, HeadOptions{0.9, 1.5, 30.0});
  const std::int64_t offset = GENERATE(0, 1);
  const std::int64_t gap = 7 - (vocab + 7) % 8;  // rows begin aligned where the first one does
  const auto count = static_cast<std::int64_t>(row_kinds().size());
  Rows<Storage> logits(count, vocab, offset, gap);
  const std::vector<std::int64_t> targets = fill_with_every_kind(logits, vocab);
  Rows<Gradient> d_logits(count, vocab, 0, gap);
  d_logits.fill(5.0);
  const auto r = run(logits, targets, vocab, head, cluster, &d_logits);
  CHECK(d_logits.changed_gaps(count, 5.0) == 0);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto k = static_cast<std::size_t>(i);
    CAPTURE(vocab, cluster.blocks, cluster.stashes, head.softcap, offset, row_kinds()[k]);
    Precision precision = precision_of<Gradient>();
    precision.sum_epsilon = std::numeric_limits<accumulation_t<Storage>>::epsilon();
    check_row(result_of(r, k, d_logits.get(i)), logits.get(i), targets[k], head, 1.0, precision);
  }
}

TEMPLATE_TEST_CASE("a stashed row is not read again", "[device]", float, double, Bfloat16) {
  const std::int64_t vocab = GENERATE(1, 33, 4099);
  const std::int64_t offset = GENERATE(0, 1, 3);
  const bool with_packets = GENERATE(true, false);
  constexpr int blocks = 2;
  Rows<TestType> row(1, vocab, offset, 0);
  const std::vector<double> values = make_row("language", vocab, 3);
  row.set(0, values);
  const std::vector<double> stored = row.get(0);
  auto cut = RowCut<TestType>::of(row.data(), vocab);
  cut = with_packets ? cut : RowCut<TestType>{vocab, 0, vocab};
  Stashes stashes({blocks, true}, stash_bytes<TestType>(vocab, threads, blocks));
  const auto slots = [&](int thread) {
    return RowStash<TestType>(stashes.of(thread), cut, {thread, threads * blocks});
  };
  const auto ignore = [](const auto&, std::int64_t, std::int64_t) {};
  for (int t = 0; t < threads * blocks; ++t) {
    visit_row(StashingRow<TestType>{row.data(), slots(t)}, cut, {t, threads * blocks}, ignore);
  }
  row.fill(not_a_number);
  std::vector<double> seen(static_cast<std::size_t>(vocab));
  for (int t = 0; t < threads * blocks; ++t) {
    visit_row(StashedRow<TestType>{slots(t)}, cut, {t, threads * blocks},
              [&](const auto& packets, std::int64_t first, std::int64_t stride) {
                for (const auto& packet : packets) {
                  std::int64_t place = first;
                  for (const TestType value : packet.values) {
                    seen[static_cast<std::size_t>(place++)] = as_double(value);
                  }
                  first += stride;
                }
              });
  }
  CHECK(seen == stored);
  CHECK_FALSE(stashes.is_overrun());
}

TEST_CASE("ignored, invalid and hopeless rows of a cluster", "[device]") {
  constexpr std::int64_t vocab = 1001;
  const Cluster cluster = GENERATE(Cluster{2, false}, Cluster{2, true});
  const std::vector<std::int64_t> targets{
      ignore_index, 7, -1, vocab, std::numeric_limits<std::int64_t>::min(), 7, 7};
  const auto count = static_cast<std::int64_t>(targets.size());
  Rows<float> logits(count, vocab, 3, 0);
  std::vector<double> row = make_row("language", vocab, 5);
  for (std::int64_t i = 1; i < 5; ++i) {
    logits.set(i, row);
  }
  logits.set(0, std::vector<double>(vocab, not_a_number));
  logits.set(5, std::vector<double>(vocab, -infinity));
  row[900] = not_a_number;
  logits.set(6, row);
  Rows<Bfloat16> d_logits(count, vocab, 3, 0);
  d_logits.fill(5.0);
  const auto r = run(logits, targets, vocab, {}, cluster, &d_logits);
  CHECK(r.logps[0] == 0.0f);
  CHECK(r.entropy[0] == 0.0f);
  CHECK(r.is_top1[0] == 0);
  CHECK(d_logits.get(0) == std::vector<double>(vocab, 0.0));
  check_row(result_of(r, 1, d_logits.get(1)), logits.get(1), 7, {}, 1.0, precision_of<Bfloat16>());
  for (std::int64_t i = 2; i < count; ++i) {
    CAPTURE(i);
    CHECK(std::isnan(r.logps[static_cast<std::size_t>(i)]));
    CHECK(std::isnan(r.entropy[static_cast<std::size_t>(i)]));
    for (const double d : d_logits.get(i)) {
      REQUIRE(std::isnan(d));
    }
  }
}

TEST_CASE("results have the same bits without a gradient, and again", "[device]") {
  constexpr std::int64_t vocab = 4099;
  const auto count = static_cast<std::int64_t>(row_kinds().size());
  Rows<float> logits(count, vocab, 0, 5);
  const std::vector<std::int64_t> targets = fill_with_every_kind(logits, vocab);
  Rows<Bfloat16> d_logits(count, vocab, 0, 5), again(count, vocab, 0, 5);
  for (const Cluster cluster : {Cluster{1, false}, Cluster{1, true}, Cluster{4, true}}) {
    const auto with = run(logits, targets, vocab, {}, cluster, &d_logits);
    CHECK(run(logits, targets, vocab, {}, cluster, static_cast<Rows<Bfloat16>*>(nullptr)) == with);
    CHECK(run(logits, targets, vocab, {}, cluster, &again) == with);
    for (std::int64_t i = 0; i < count; ++i) {
      CHECK(again.get(i) == d_logits.get(i));
    }
  }
}

TEST_CASE("a power of two scales gradients exactly", "[device]") {
  constexpr std::int64_t vocab = 1000;
  const auto count = static_cast<std::int64_t>(row_kinds().size());
  Rows<double> logits(count, vocab, 0, 0);
  const std::vector<std::int64_t> targets = fill_with_every_kind(logits, vocab);
  Rows<double> plain(count, vocab, 0, 0), scaled(count, vocab, 0, 0);
  run(logits, targets, vocab, {}, {2, true}, &plain);
  run(logits, targets, vocab, {}, {2, true}, &scaled, 1024.0);
  for (std::int64_t i = 0; i < count; ++i) {
    std::vector<double> expected = plain.get(i);
    for (double& d : expected) {
      d *= 1024.0;
    }
    CHECK(scaled.get(i) == expected);
  }
}

TEMPLATE_TEST_CASE("gradients of blocks of the vocabulary are those of the whole", "[device]",
                   (Types<float, float>), (Types<float, Bfloat16>), (Types<double, double>)) {
  using Storage = typename TestType::Storage;
  using Gradient = typename TestType::Gradient;
  using T = accumulation_t<Storage>;
  constexpr std::int64_t vocab = 1003;
  Rows<Storage> logits(6, vocab, 0, 5);
  fill_with_every_kind(logits, vocab);
  const std::vector<std::int64_t> targets{
      0, 511, 512, vocab - 1, ignore_index, std::numeric_limits<std::int64_t>::min()};
  Rows<Gradient> d_logits(6, vocab, 0, 5);
  const auto r = run(logits, targets, vocab, {}, {1, true}, &d_logits);
  for (const auto& [first, width] : {std::pair<std::int64_t, std::int64_t>{0, 512}, {512, 491}}) {
    Rows<Storage> block(6, width, 0, 3);
    Rows<Gradient> d_block(6, width, 0, 3);
    for (std::int64_t i = 0; i < 6; ++i) {
      const std::vector<double> row = logits.get(i);
      block.set(i, {row.begin() + first, row.begin() + first + width});
    }
    const TokenRows<Storage> rows{block.const_view(), targets.data(),      6,    width,
                                  ignore_index,       transform_of<T>({}), first};
    run_block(threads, [&, whole = d_block.view()](const HostBlock& threads_of_block) {
      for (std::int64_t i = 0; i < 6; ++i) {
        differentiate_row(threads_of_block, rows, rows.transform, i, r.summary.data(),
                          static_cast<const T*>(nullptr), whole);
      }
    });
    for (std::int64_t i = 0; i < 5; ++i) {
      const std::vector<double> expected = d_logits.get(i);
      CHECK(d_block.get(i) ==
            std::vector<double>(expected.begin() + first, expected.begin() + first + width));
    }
    CHECK(std::isnan(d_block.get(5)[7]));
  }
}

TEST_CASE("rows go to the fewest blocks of which two share a multiprocessor", "[device]") {
  constexpr std::int64_t shared = 227 * 1024, reserved = 2048;
  const auto split = [](std::int64_t vocab, int largest) {
    return split_row<float>(vocab, 512, shared, reserved, largest);
  };
  CHECK(split(1000, 8).blocks == 1);
  CHECK(split(32000, 8).blocks == 2);
  CHECK(split(128256, 8).blocks == 8);
  CHECK(split(256000, 8).blocks == 8);
  CHECK(split(32000, 1).blocks == 1);
  for (const std::int64_t vocab : {1000, 32000, 256000}) {
    CHECK(split(vocab, 8).stash_bytes <= shared);
    CHECK(split(vocab, 8).stash_bytes * split(vocab, 8).blocks >= vocab * 4);
  }
  for (const RowSplit& too_long : {split(500000, 8), split(100000, 1)}) {
    CHECK(too_long.blocks == 1);
    CHECK(too_long.stash_bytes == 0);
  }
}
