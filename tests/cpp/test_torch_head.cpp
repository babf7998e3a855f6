#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <limits>

#include "catch.hpp"
#include "native/head.hpp"

// What CUDA's half-precision products are given, on the CPU.

namespace {

using selm::ops::Narrowed;

/// Gradients of 4 rows of logits as they are: a confident row among others, most columns tiny.
at::Tensor gradients(double upstream) {
  const at::Tensor logits = (at::arange(4 * 5000, at::kDouble) * 1.7).sin().view({4, 5000}) * 6.0;
  at::Tensor probs = logits.softmax(-1);
  probs[2].mul_(1e-5);
  return (probs * upstream).to(at::kFloat);
}

at::Tensor row_bound(const at::Tensor& wide) {
  return wide.abs().amax({1}, true);
}

/// The largest error of values / scale, relative to one rounding of float16 and to what is 2^-39 of
/// the bound, where float16's smallest number lies.
double error(const at::Tensor& wide, const Narrowed& narrowed, const at::Tensor& bound) {
  const at::Tensor exact = wide.to(at::kDouble);
  const at::Tensor got = narrowed.values.to(at::kDouble) / narrowed.scale.to(at::kDouble);
  const at::Tensor promised =
      exact.abs() * std::ldexp(1.0, -11) + bound.to(at::kDouble) * std::ldexp(1.0, -39) + 1e-300;
  return ((got - exact).abs() / promised).max().item<double>();
}

}  // namespace

TEST_CASE("float16 keeps the digits of gradients of any size", "[torch][head]") {
  for (const double upstream : {1e-20, 1e-12, 1e-8, 1e-4, 1.0, 1e6, 1e30}) {
    CAPTURE(upstream);
    const at::Tensor wide = gradients(upstream);
    for (const at::Tensor& bound : {row_bound(wide), row_bound(wide).max()}) {
      const Narrowed narrowed = Narrowed::make(wide, at::kHalf, bound);
      CHECK(narrowed.values.scalar_type() == at::kHalf);
      CHECK(error(wide, narrowed, bound) <= 1.0);
    }
  }
}

TEST_CASE("a product of tiny float16 gradients is the product of the gradients", "[torch][head]") {
  const at::Tensor wide = gradients(1e-9);
  const at::Tensor weight = (at::arange(5000 * 3, at::kDouble) * 0.9).sin().view({5000, 3});
  const at::Tensor exact = wide.to(at::kDouble).mm(weight);
  const at::Tensor rounding = wide.to(at::kDouble).abs().mm(weight.abs()) * std::ldexp(1.0, -11);
  const Narrowed narrowed = Narrowed::make(wide, at::kHalf, row_bound(wide));
  const at::Tensor got = narrowed.unscaled(narrowed.values.to(at::kDouble).mm(weight));
  CHECK(((got - exact).abs() / rounding).max().item<double>() <= 1.0);
  CHECK(wide.to(at::kHalf).count_nonzero().item<std::int64_t>() == 0);  // all of it, as it is
}

TEST_CASE("scales are powers of two that bring the bound below the largest float16",
          "[torch][head]") {
  const at::Tensor bound =
      at::tensor({0.0, 1e-45, 1e-20, 0.5, 1.0, 3.0, 65504.0, 3e38}, at::kFloat);
  const at::Tensor scale = Narrowed::scale_to_half_range(bound);
  CHECK(scale.log2().frac().count_nonzero().item<std::int64_t>() == 0);
  CHECK((bound * scale).max().item<double>() < 65504.0);
  CHECK((bound * scale).slice(0, 2).min().item<double>() >= 16384.0);
}

TEST_CASE("a row that is not a number leaves the others alone", "[torch][head]") {
  at::Tensor wide = gradients(1.0);
  const at::Tensor good = Narrowed::make(wide, at::kHalf, row_bound(wide)).values;
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    wide[1].fill_(bad);
    const at::Tensor values = Narrowed::make(wide, at::kHalf, row_bound(wide)).values;
    CHECK(values[1].isfinite().count_nonzero().item<std::int64_t>() == 0);
    for (const std::int64_t row : {0, 2, 3}) {
      CHECK(values[row].equal(good[row]));
    }
  }
}

TEST_CASE("bfloat16 has the range of float32 and is not scaled", "[torch][head]") {
  const at::Tensor wide = gradients(1e-12);
  const Narrowed narrowed = Narrowed::make(wide, at::kBFloat16, {});
  CHECK_FALSE(narrowed.scale.defined());
  CHECK(narrowed.values.equal(wide.to(at::kBFloat16)));
  CHECK(narrowed.unscaled(wide).is_same(wide));
}

TEST_CASE("float16 gradients of logits just fit, whatever the transform is", "[torch][head]") {
  const at::Tensor weight = at::full({2, 2}, 1.0, at::kHalf);
  for (const double temperature : {1e-3, 0.7, 1.0, 3.0, 1e4}) {
    CAPTURE(temperature);
    const selm::ops::ScoredRows rows{{}, {}, weight, {}, {temperature, 1.0, 0.0}, -100, 0};
    const double scale = selm::ops::Head(rows).gradient_scale();
    CHECK(std::log2(scale) == std::floor(std::log2(scale)));
    CHECK(scale / temperature < 32769.0);
    CHECK(scale / temperature >= 16384.0);
    const selm::ops::ScoredRows wide{{},   {}, weight.to(at::kDouble), {}, {temperature, 1.0, 0.0},
                                     -100, 0};
    CHECK(selm::ops::Head(wide).gradient_scale() == 1.0);
  }
}
