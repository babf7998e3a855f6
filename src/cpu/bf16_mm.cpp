#include "cpu/bf16_mm.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/row_math.hpp"

// oneDNN's small product kernel reads its second operand in panels, in which two consecutive rows
// are interleaved so that a pair of bfloat16 fills 32 bits. The kernel's own packing function
// serves other machines only, so panels are packed here.

namespace selm::cpu {
namespace {

/// Columns of a panel. A panel and a block of rows stay in the second-level cache together.
constexpr std::int64_t panel_columns = 64;
constexpr std::int64_t block_rows = 128;

using Pair = std::uint32_t;

/// Columns [0, count) of a matrix whose columns are contiguous: pairs are copied, transposed.
void pack_columns(const at::BFloat16* b, std::int64_t stride, std::int64_t k, std::int64_t count,
                  Pair* packed) {
  constexpr std::int64_t tile = 16;  // a square of pairs, so that both sides use whole cache lines
  const std::int64_t pairs = k / 2;
  for (std::int64_t first = 0; first < pairs; first += tile) {
    const std::int64_t last = std::min(first + tile, pairs);
    for (std::int64_t j = 0; j < count; ++j) {
      const at::BFloat16* const column = b + j * stride;
      for (std::int64_t p = first; p < last; ++p) {
        std::memcpy(&packed[p * panel_columns + j], column + 2 * p, sizeof(Pair));
      }
    }
  }
}

/// Columns [0, count) of a matrix whose rows are contiguous: two rows are interleaved.
void pack_rows(const at::BFloat16* b, std::int64_t stride, std::int64_t k, std::int64_t count,
               Pair* packed) {
  for (std::int64_t p = 0; p < k / 2; ++p) {
    const at::BFloat16* const even = b + 2 * p * stride;
    const at::BFloat16* const odd = even + stride;
    for (std::int64_t j = 0; j < count; ++j) {
      packed[p * panel_columns + j] = static_cast<Pair>(even[j].x) | static_cast<Pair>(odd[j].x)
                                                                         << 16;
    }
  }
}

}  // namespace

bool has_bf16_mm() {
  return at::globalContext().userEnabledMkldnn() && multiplies_bfloat16();
}

void bf16_mm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, bool accumulate) {
  const std::int64_t k = a.size(1);
  if (k % 2 != 0) {
    bf16_mm(at::constant_pad_nd(a, {0, 1}), at::constant_pad_nd(b, {0, 0, 0, 1}), c, accumulate);
    return;
  }
  const std::int64_t m = c.size(0), n = c.size(1);
  const std::int64_t panels = (n + panel_columns - 1) / panel_columns;
  const std::int64_t blocks = (m + block_rows - 1) / block_rows;
  const std::int64_t panel_pairs = k / 2 * panel_columns;
  const at::Tensor packed = at::empty({panels, panel_pairs}, b.options().dtype(at::kInt));
  Pair* const pairs = reinterpret_cast<Pair*>(packed.mutable_data_ptr<std::int32_t>());
  const at::BFloat16* const b_data = b.const_data_ptr<at::BFloat16>();
  const auto columns = [&](std::int64_t panel) {
    return std::min(panel_columns, n - panel * panel_columns);
  };
  at::parallel_for(0, panels, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel) {
      const at::BFloat16* const first = b_data + panel * panel_columns * b.stride(1);
      if (b.stride(0) == 1) {
        pack_columns(first, b.stride(1), k, columns(panel), pairs + panel * panel_pairs);
      } else {
        pack_rows(first, b.stride(0), k, columns(panel), pairs + panel * panel_pairs);
      }
    }
  });
  const at::BFloat16* const a_data = a.const_data_ptr<at::BFloat16>();
  float* const c_data = c.mutable_data_ptr<float>();
  at::parallel_for(0, panels * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t panel = task / blocks, first = task % blocks * block_rows;
      at::native::cpublas::brgemm(
          std::min(block_rows, m - first), columns(panel), k, a.stride(0), panel_columns,
          c.stride(0), accumulate, a_data + first * a.stride(0),
          reinterpret_cast<const at::BFloat16*>(pairs + panel * panel_pairs),
          c_data + first * c.stride(0) + panel * panel_columns);
    }
    at::native::cpublas::brgemm_release();
  });
}

}  // namespace selm::cpu
