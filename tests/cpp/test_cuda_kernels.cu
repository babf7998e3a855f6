#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "accuracy.hpp"
#include "catch.hpp"
#include "device_memory.hpp"
#include "golden.hpp"
#include "selm/core/divergence.hpp"
#include "selm/core/reward.hpp"
#include "selm/cuda/launch.hpp"
#include "selm/cuda/pair_kernels.cuh"

// The launchers' answers without a GPU, and the kernels over pairs with one.

using namespace selm;
using namespace selm::cuda;
using namespace selm::test;

namespace {

/// One pair and its results on the device, in the order of PreferenceInputs and PreferenceOutputs.
template <typename Storage>
class OnePair {
 public:
  explicit OnePair(const GoldenRow& row)
      : inputs_(values(row)),
        lengths_(
            std::vector<std::int64_t>{static_cast<std::int64_t>(row.number("chosen_length")),
                                      static_cast<std::int64_t>(row.number("rejected_length"))}),
        outputs_(std::vector<Storage>(9, Storage(77))) {}

  PreferenceInputs<Storage> in() const {
    const Storage* x = inputs_.get();
    const std::int64_t* n = lengths_.get();
    return {x, x + 1, x + 2, x + 3, x + 4, x + 5, n, n + 1};
  }
  PreferenceOutputs<Storage> out() const {
    Storage* y = outputs_.get();
    return {y, y + 1, y + 2, y + 3, y + 4, y + 5, y + 6, y + 7, y + 8};
  }
  std::vector<Storage> results() const { return outputs_.copy(); }

 private:
  static std::vector<Storage> values(const GoldenRow& row) {
    std::vector<Storage> all;
    for (const char* column : {"policy_chosen", "policy_rejected", "policy_response", "ref_chosen",
                               "ref_rejected", "ref_response"}) {
      all.push_back(static_cast<Storage>(row.number(column)));
    }
    return all;
  }

  Device<Storage> inputs_;
  Device<std::int64_t> lengths_;
  Device<Storage> outputs_;
};

template <typename Storage>
bool is_exact_in(const GoldenRow& row) {
  for (const char* column : {"policy_chosen", "policy_rejected", "policy_response", "ref_chosen",
                             "ref_rejected", "ref_response"}) {
    if (!is_representable<Storage>(row.number(column))) {
      return false;
    }
  }
  return true;
}

/// A loss that the library does not have: squared distance of the log-ratio difference from 1.
struct SquaredLoss {
  SELM_HOST_DEVICE ValueAndGrad<double> operator()(double logratio_diff) const {
    const double error = logratio_diff - 1.0;
    return {error * error, 2.0 * error};
  }
};

}  // namespace

TEST_CASE("a launcher without a device returns an error", "[cuda]") {
  if (has_device()) {
    return;  // the other tests call it with one
  }
  double x = -1.0, y[9];
  const std::int64_t target = 0;
  const PreferenceInputs<double> in{&x, &x, nullptr, &x, &x, nullptr, nullptr, nullptr};
  const PreferenceOutputs<double> out{y, y + 1, y + 2, y + 3, y + 4, y + 5, y + 6, y + 7, y + 8};
  const LogitTransform<double> plain{1.0, 0.0, 0.0};
  const RowStatisticsOutputs none{};
  const RowView<const double> logits = contiguous_rows<const double>(&x, 1);
  const RowView<double> d_logits = contiguous_rows(y, 1);
  for (const cudaError_t status :
       {preference(PreferenceOptions{}, ExplorationOptions{}, in, out, 1, nullptr),
        logratio_term(ImplicitReward<double>{0.1}, &x, &x, y, y + 1, 1, nullptr),
        token_logps<double>(logits, &target, 1, 1, -100, plain, y, nullptr, none, nullptr),
        token_logps_with_grad<double>(logits, &target, 1, 1, -100, plain, 1.0, y, nullptr, none,
                                      d_logits, nullptr),
        token_logps_backward<double>(logits, &target, 1, 0, 1, -100, plain, y, nullptr, d_logits,
                                     nullptr)}) {
    CHECK(status != cudaSuccess);
    CHECK(status != cudaErrorInvalidValue);
  }
  CHECK(cudaGetLastError() != cudaErrorInvalidValue);
}

TEST_CASE("nothing to do succeeds, with or without a device", "[cuda]") {
  const LogitTransform<float> plain{1.0f, 0.0f, 0.0f};
  const RowView<const float> logits{nullptr, 1, 0, 0};
  CHECK(preference<float>({}, {}, {}, {}, 0, nullptr) == cudaSuccess);
  CHECK(logratio_term<float>(ImplicitReward<double>{0.1}, nullptr, nullptr, nullptr, nullptr, 0,
                             nullptr) == cudaSuccess);
  CHECK(token_logps<float>(logits, nullptr, 0, 10, -100, plain, nullptr, nullptr, {}, nullptr) ==
        cudaSuccess);
  const RowView<float> d_logits{nullptr, 1, 0, 0};
  CHECK(token_logps_with_grad<float>(logits, nullptr, 0, 10, -100, plain, 1.0f, nullptr, nullptr,
                                     {}, d_logits, nullptr) == cudaSuccess);
  CHECK(token_logps_backward<float>(logits, nullptr, 0, 0, 10, -100, plain, nullptr, nullptr,
                                    d_logits, nullptr) == cudaSuccess);
}

TEST_CASE("arguments that cannot be right are refused before the launch", "[cuda]") {
  double x = -1.0, y[9];
  const std::int64_t target = 0;
  const PreferenceInputs<double> pair{&x, &x, nullptr, &x, &x, nullptr, nullptr, nullptr};
  const PreferenceOutputs<double> out{y, y + 1, y + 2, y + 3, y + 4, y + 5, y + 6, y + 7, y + 8};
  const auto run = [&](const std::string& loss, const ExplorationOptions& exploration,
                       const PreferenceInputs<double>& in, std::int64_t batch) {
    return preference(PreferenceOptions{loss, 0.1, 0.0}, exploration, in, out, batch, nullptr);
  };
  CHECK(run("no such loss", {}, pair, 1) == cudaErrorInvalidValue);
  CHECK(run("no such loss", {}, pair, 0) == cudaErrorInvalidValue);
  CHECK(run("sigmoid", {1e-3, "no such term"}, pair, 1) == cudaErrorInvalidValue);
  CHECK(run("sigmoid", {1e-3, "selm"}, pair, 1) == cudaErrorInvalidValue);  // no response
  CHECK(run("ipo", {}, pair, 1) == cudaErrorInvalidValue);                  // no lengths
  CHECK(run("sigmoid", {}, pair, -1) == cudaErrorInvalidValue);
  CHECK(run("sigmoid", {}, {}, 1) == cudaErrorInvalidValue);
  CHECK(logratio_term<double>(ImplicitReward<double>{0.1}, nullptr, &x, y, y, 1, nullptr) ==
        cudaErrorInvalidValue);

  const LogitTransform<double> plain{1.0, 0.0, 0.0};
  const RowView<const double> logits = contiguous_rows<const double>(&x, 1);
  const auto rows = [&](const RowView<const double>& view, std::int64_t count, std::int64_t vocab) {
    return token_logps<double>(view, &target, count, vocab, -100, plain, y, nullptr, {}, nullptr);
  };
  CHECK(rows(logits, -1, 1) == cudaErrorInvalidValue);
  CHECK(rows(logits, 1, 0) == cudaErrorInvalidValue);
  CHECK(rows({&x, 0, 1, 0}, 1, 1) == cudaErrorInvalidValue);
  CHECK(rows({nullptr, 1, 1, 0}, 1, 1) == cudaErrorInvalidValue);
  const RowView<double> d_logits = contiguous_rows(y, 1);
  CHECK(token_logps_with_grad<double>(logits, &target, 1, 1, -100, plain, 1.0, nullptr, nullptr, {},
                                      d_logits, nullptr) == cudaErrorInvalidValue);
  CHECK(token_logps_with_grad<double>(logits, &target, 1, 1, -100, plain, 1.0, y, nullptr, {},
                                      RowView<double>{y, 0, 1, 0},
                                      nullptr) == cudaErrorInvalidValue);
  CHECK(token_logps_backward<double>(logits, &target, 1, 0, 1, -100, plain, nullptr, nullptr,
                                     d_logits, nullptr) == cudaErrorInvalidValue);
  CHECK(token_logps_backward<double>(logits, &target, 1, -1, 1, -100, plain, y, nullptr, d_logits,
                                     nullptr) == cudaErrorInvalidValue);
}

TEMPLATE_TEST_CASE("preference losses meet the golden table", "[cuda]", float, double) {
  SELM_SKIP_WITHOUT_DEVICE();
  int used = 0;
  for (const GoldenRow& row : read_golden("preference.csv")) {
    if (!is_exact_in<TestType>(row)) {
      continue;
    }
    ++used;
    const OnePair<TestType> pair(row);
    require(preference(
        PreferenceOptions{row.text("loss_type"), row.number("beta"), row.number("label_smoothing")},
        ExplorationOptions{row.number("alpha"), row.text("exploration")}, pair.in(), pair.out(), 1,
        nullptr));
    const std::vector<TestType> got = pair.results();
    const char* columns[] = {"loss",          "dpo_loss",        "exploration_term",
                             "chosen_reward", "rejected_reward", "response_reward",
                             "d_chosen",      "d_rejected",      "d_response"};
    for (std::size_t k = 0; k < got.size(); ++k) {
      const std::string column = columns[k];
      if (k >= 6 && std::isnan(row.number("dpo_loss"))) {
        continue;  // the gradient of a loss without a value is not promised
      }
      CAPTURE(row.text("loss_type"), row.number("policy_chosen"), column);
      CHECK(keeps_promise(got[k], row.number(column), row.number(column + "_scale")));
    }
  }
  CHECK(used > 50);
}

TEST_CASE("a batch larger than a block, without a response", "[cuda]") {
  SELM_SKIP_WITHOUT_DEVICE();
  constexpr std::size_t batch = 1000;
  std::vector<double> policy(batch), ref(batch, -20.0);
  for (std::size_t i = 0; i < batch; ++i) {
    policy[i] = -20.0 + 0.01 * static_cast<double>(i);
  }
  const Device<double> chosen(policy), other(ref), y(9 * batch);
  const auto at = [&](std::size_t k) { return y.get() + k * batch; };
  require(preference<double>(
      {"hinge", 0.5, 0.0}, {},
      {chosen.get(), other.get(), nullptr, other.get(), other.get(), nullptr, nullptr, nullptr},
      {at(0), at(1), at(2), at(3), at(4), nullptr, at(6), at(7), nullptr}, batch, nullptr));
  const std::vector<double> got = y.copy();
  int wrong = 0;
  for (std::size_t i = 0; i < batch; ++i) {
    const double reward = 0.5 * (policy[i] + 20.0);
    const double loss = std::max(0.0, 1.0 - reward);
    wrong += std::fabs(got[i] - loss) > 1e-14 || got[i] != got[batch + i] ||
             got[2 * batch + i] != 0.0 || std::fabs(got[3 * batch + i] - reward) > 1e-14 ||
             got[4 * batch + i] != 0.0 || got[6 * batch + i] != (loss > 0.0 ? -0.5 : 0.0);
  }
  CHECK(wrong == 0);
}

TEST_CASE("a loss of the caller's runs in the kernel as on the host", "[cuda]") {
  SELM_SKIP_WITHOUT_DEVICE();
  const GoldenRow row = read_golden("preference.csv").front();
  const OnePair<double> pair(row);
  const Preference<SquaredLoss> mine{{}, {ExplorationKind::none, 0.0, 0.1}, {0.1}};
  require(launch_preference(mine, pair.in(), pair.out(), 1, nullptr));
  const std::vector<double> got = pair.results();
  const double difference = (row.number("policy_chosen") - row.number("ref_chosen")) -
                            (row.number("policy_rejected") - row.number("ref_rejected"));
  CHECK(got[0] == (difference - 1.0) * (difference - 1.0));
  CHECK(got[6] == 2.0 * (difference - 1.0));
  CHECK(got[7] == -got[6]);
}

TEMPLATE_TEST_CASE("KL estimates meet the golden table", "[cuda]", float, double) {
  SELM_SKIP_WITHOUT_DEVICE();
  for (const GoldenRow& row : read_golden("kl.csv")) {
    if (!is_representable<TestType>(row.number("policy")) ||
        !is_representable<TestType>(row.number("ref"))) {
      continue;
    }
    const Device<TestType> x(std::vector<TestType>{static_cast<TestType>(row.number("policy")),
                                                   static_cast<TestType>(row.number("ref"))});
    const Device<TestType> y(2);
    const KlEstimate<double> estimate{find_kl_estimator(row.text("kind"))->kind};
    require(logratio_term(estimate, x.get(), x.get() + 1, y.get(), y.get() + 1, 1, nullptr));
    const std::vector<TestType> got = y.copy();
    CAPTURE(row.text("kind"), row.number("policy"), row.number("ref"));
    CHECK(keeps_promise(got[0], row.number("estimate"), row.number("estimate_scale")));
    CHECK(keeps_promise(got[1], row.number("d_policy"), row.number("d_policy_scale")));
  }
}

TEST_CASE("a term that does not read the reference takes none", "[cuda]") {
  SELM_SKIP_WITHOUT_DEVICE();
  const Device<float> policy(std::vector<float>{-8.0f, -0.5f});
  const Device<float> value(2), grad(2);
  require(logratio_term(ExplorationTerm<double>{ExplorationKind::xpo, 0.25, 0.1}, policy.get(),
                        static_cast<const float*>(nullptr), value.get(), grad.get(), 2, nullptr));
  CHECK(value.copy() == std::vector<float>{-2.0f, -0.125f});
  CHECK(grad.copy() == std::vector<float>{0.25f, 0.25f});
}
