#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <type_traits>

#include "cpu/kernels.hpp"
#include "cpu/parallel.hpp"
#include "cpu/row_math.hpp"

namespace selm::cpu {
namespace {

/// Values of one pass: few enough to stay in the first-level cache together with the next ones. As
/// many bytes as are read, or for float16 written as float.
template <typename Storage>
constexpr std::int64_t block_size = 8192 / (std::is_same_v<Storage, c10::BFloat16> ? 2 : 4);

/// Visits a row in blocks, which begin at multiples of their size: where a row begins at a multiple
/// of 64 bytes, so do they.
template <typename Storage, typename Visit>
void for_each_block(std::int64_t vocab, Visit visit) {
  for (std::int64_t first = 0; first < vocab; first += block_size<Storage>) {
    visit(first, std::min(block_size<Storage>, vocab - first));
  }
}

/// The same without the token `target`, which divides its block.
template <typename Storage, typename Visit>
void for_each_block_but(std::int64_t target, std::int64_t vocab, Visit visit) {
  for_each_block<Storage>(vocab, [&](std::int64_t first, std::int64_t count) {
    const std::int64_t before = target - first;
    if (before < 0 || before >= count) {
      visit(first, count);
      return;
    }
    visit(first, before);
    visit(target + 1, count - before - 1);
  });
}

/// One row by the scalar functors of core.
struct DoubleRow {
  const double* s;
  const LogitTransform<double>& transform;

  double at(std::int64_t v) const { return s[v]; }

  LogSumExp<double> sum_of_others(std::int64_t target, std::int64_t vocab) const {
    LogSumExp<double> total;
    for_each_block_but<double>(target, vocab, [&](std::int64_t first, std::int64_t count) {
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
  static constexpr bool is_half = std::is_same_v<Storage, c10::Half>;  // has no passes of its own

  const Storage* s;
  const LogitTransform<float>& transform;

  float at(std::int64_t v) const { return static_cast<float>(s[v]); }

  LogSumExp<float> sum_of_block(std::int64_t first, std::int64_t count, float origin) const {
    const Storage* const block = s + first;
    const UpcomingValues next{reinterpret_cast<const char*>(block + count), sizeof(Storage)};
    if constexpr (is_half) {
      float buffer[block_size<Storage>];
      std::copy(block, block + count, buffer);
      return row_math().from_float.log_sum_exp(buffer, count, transform.scale, origin, next);
    } else {
      return row_math().from<Storage>().log_sum_exp(block, count, transform.scale, origin, next);
    }
  }

  /// Block sums are merged in double: a serial float sum over 128k values loses three digits.
  LogSumExp<float> sum_of_others(std::int64_t target, std::int64_t vocab) const {
    LogSumExp<double> total;
    const LogitTransform<double> wide{transform.scale, 0.0, 0.0};
    for_each_block_but<Storage>(target, vocab, [&](std::int64_t first, std::int64_t count) {
      const LogSumExp<float> block = sum_of_block(first, count, static_cast<float>(total.max));
      total = merge(total, LogSumExp<double>{block.max, block.sum}, wide);
    });
    return {static_cast<float>(total.max), static_cast<float>(total.sum)};
  }

  void gradient(std::int64_t vocab, const TokenLogp<float>& row, float grad, Storage* out) const {
    const float factor = -grad * transform.scale;
    for_each_block<Storage>(vocab, [&](std::int64_t first, std::int64_t count) {
      const Storage* const block = s + first;
      if constexpr (is_half) {
        float buffer[block_size<Storage>];
        std::copy(block, block + count, buffer);
        row_math().from_float.scaled_softmax(buffer, count, row, transform.scale, factor, buffer);
        std::copy(buffer, buffer + count, out + first);
      } else {
        row_math().from<Storage>().scaled_softmax(block, count, row, transform.scale, factor,
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
      const LogSumExp<Acc> rest = row.sum_of_others(target, vocab);
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
