#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <type_traits>

#include "cpu/kernels.hpp"
#include "cpu/parallel.hpp"
#include "cpu/row_math.hpp"

namespace selm::cpu {
namespace {

/// Values of one vectorised pass: small enough for its float copy to stay in the first-level cache.
constexpr std::int64_t block_size = 2048;

/// A block as float: in place for float storage, else converted into `buffer`.
const float* as_float(const float* s, std::int64_t, float*) {
  return s;
}
const float* as_float(const c10::BFloat16* s, std::int64_t count, float* buffer) {
  row_math().widen(s, count, buffer);
  return buffer;
}
const float* as_float(const c10::Half* s, std::int64_t count, float* buffer) {
  std::copy(s, s + count, buffer);
  return buffer;
}

template <typename Visit>
void for_each_block(std::int64_t begin, std::int64_t end, Visit visit) {
  for (std::int64_t first = begin; first < end; first += block_size) {
    visit(first, std::min(block_size, end - first));
  }
}

/// One row by the scalar functors of core.
struct DoubleRow {
  const double* s;
  const LogitTransform<double>& transform;

  double at(std::int64_t v) const { return s[v]; }

  LogSumExp<double> sum(std::int64_t begin, std::int64_t end) const {
    LogSumExp<double> total;
    for_each_block(begin, end, [&](std::int64_t first, std::int64_t count) {
      LogSumExp<double> block;
      for (std::int64_t v = first; v < first + count; ++v) {
        block = merge(block, LogSumExp<double>::of(at(v)), transform);
      }
      total = merge(total, block, transform);
    });
    return total;
  }

  void gradient(std::int64_t vocab, const TokenLogp<double>& row, double grad, double* out) const {
    for (std::int64_t v = 0; v < vocab; ++v) {
      out[v] = grad * token_logp_grad(s[v], row, transform);
    }
  }
};

/// One row by the vectorised passes; no softcap, which linear_logps alone has (head_rows.hpp).
template <typename Storage>
struct VectorRow {
  const Storage* s;
  const LogitTransform<float>& transform;

  float at(std::int64_t v) const { return static_cast<float>(s[v]); }

  /// Block sums are merged in double: a serial float sum over 128k values loses three digits.
  LogSumExp<float> sum(std::int64_t begin, std::int64_t end) const {
    LogSumExp<double> total;
    const LogitTransform<double> wide{transform.scale, 0.0, 0.0};
    float buffer[block_size];
    for_each_block(begin, end, [&](std::int64_t first, std::int64_t count) {
      const auto* const next = reinterpret_cast<const char*>(s + first + count);
      const LogSumExp<float> block =
          row_math().log_sum_exp(as_float(s + first, count, buffer), count, transform.scale,
                                 {next, static_cast<std::int64_t>(sizeof(Storage))});
      total = merge(total, LogSumExp<double>{block.max, block.sum}, wide);
    });
    return {static_cast<float>(total.max), static_cast<float>(total.sum)};
  }

  void gradient(std::int64_t vocab, const TokenLogp<float>& row, float grad, Storage* out) const {
    const ProbFactor factor{-grad * transform.scale, 0.0f};
    float buffer[block_size];
    for_each_block(0, vocab, [&](std::int64_t first, std::int64_t count) {
      const float* block = as_float(s + first, count, buffer);
      if constexpr (std::is_same_v<Storage, c10::Half>) {
        row_math().to_float.softmax(block, count, row, transform.scale, factor, nullptr, buffer);
        std::copy(buffer, buffer + count, out + first);
      } else {
        row_math().to<Storage>().softmax(block, count, row, transform.scale, factor, nullptr,
                                         out + first);
      }
    });
  }
};

template <typename Storage>
using Row = std::conditional_t<std::is_same_v<Storage, double>, DoubleRow, VectorRow<Storage>>;

}  // namespace

template <typename Storage>
void token_logps(const RowView<const Storage>& logits, const std::int64_t* targets,
                 std::int64_t rows, std::int64_t vocab, std::int64_t ignore_index,
                 const LogitTransform<accumulation_t<Storage>>& transform,
                 accumulation_t<Storage>* logps, accumulation_t<Storage>* summary) {
  using Acc = accumulation_t<Storage>;
  at::parallel_for(0, rows, grain(vocab), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t target = targets[i];
      if (target == ignore_index) {
        logps[i] = Acc(0);
        TokenLogp<Acc>{}.store_summary(summary, i);
        continue;
      }
      const Row<Storage> row{logits[i], transform};
      const LogSumExp<Acc> rest = merge(row.sum(0, target), row.sum(target + 1, vocab), transform);
      const TokenLogp<Acc> token = token_logp(rest, row.at(target), transform);
      logps[i] = token.logp;
      token.store_summary(summary, i);
    }
  });
}

template <typename Storage>
void token_logps_backward(const RowView<const Storage>& logits, const std::int64_t* targets,
                          std::int64_t rows, std::int64_t vocab, std::int64_t ignore_index,
                          const LogitTransform<accumulation_t<Storage>>& transform,
                          const accumulation_t<Storage>* summary,
                          const accumulation_t<Storage>* grad, const RowView<Storage>& d_logits) {
  using Acc = accumulation_t<Storage>;
  at::parallel_for(0, rows, grain(vocab), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t target = targets[i];
      if (target == ignore_index) {
        std::fill_n(d_logits[i], vocab, Storage(0));
        continue;
      }
      const auto token = TokenLogp<Acc>::from_summary(summary, i);
      const Row<Storage> row{logits[i], transform};
      const Acc s = row.at(target);  // read before `gradient` may overwrite it
      row.gradient(vocab, token, grad[i], d_logits[i]);
      d_logits[i][target] = static_cast<Storage>(grad[i] * target_logp_grad(s, token, transform));
    }
  });
}

#define SELM_INSTANTIATE(Storage)                                                         \
  template void token_logps<Storage>(const RowView<const Storage>&, const std::int64_t*,  \
                                     std::int64_t, std::int64_t, std::int64_t,            \
                                     const LogitTransform<accumulation_t<Storage>>&,      \
                                     accumulation_t<Storage>*, accumulation_t<Storage>*); \
  template void token_logps_backward<Storage>(                                            \
      const RowView<const Storage>&, const std::int64_t*, std::int64_t, std::int64_t,     \
      std::int64_t, const LogitTransform<accumulation_t<Storage>>&,                       \
      const accumulation_t<Storage>*, const accumulation_t<Storage>*, const RowView<Storage>&)

SELM_INSTANTIATE(float);
SELM_INSTANTIATE(double);
SELM_INSTANTIATE(c10::Half);
SELM_INSTANTIATE(c10::BFloat16);

}  // namespace selm::cpu
