#include "cpu/bf16_mm.hpp"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/parallel.hpp"
#include "cpu/row_math.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// oneDNN's small product kernel reads its second operand in panels, in which two consecutive rows
// are interleaved so that a pair of bfloat16 fills 32 bits. The kernel's own packing function
// serves other machines only, so panels are packed here.

namespace selm::cpu {
namespace {

/// Columns of a panel. A panel and a block of rows stay in the second-level cache together.
constexpr std::int64_t panel_columns = 64;
constexpr std::int64_t most_rows = 128;

/// Products that the kernel adds up one after the other. Longer sums are made of such parts, as a
/// float32 product makes them: a chain of 4,096 has five times its error.
constexpr std::int64_t chain = 256;

/// Products that are added to what is there, at once: a panel has as many rows.
constexpr std::int64_t longest_sum = 1024;

/// Two values of one column, in consecutive rows.
using Pair = std::uint32_t;

#if defined(__x86_64__)
#define SELM_PACKS __attribute__((target("avx512f,avx512bw,avx512vl")))

constexpr std::int64_t square = 16;

// A panel's columns, or rows, lie too far apart for the processor to foresee the next ones.
constexpr std::int64_t columns_ahead = 128;
constexpr std::int64_t rows_ahead = 16;

/// One row of a panel, two lines of the cache; addresses beyond the matrix do no harm.
SELM_PACKS void prefetch(const at::BFloat16* from) {
  _mm_prefetch(from, _MM_HINT_T0);
  _mm_prefetch(from + panel_columns / 2, _MM_HINT_T0);
}

#if defined(__GNUC__) && !defined(__clang__)  // g++ 12 warns of its own intrinsics
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

/// 16 pairs of each of 16 columns, `stride` apart, into 16 rows of a panel.
SELM_PACKS void pack_square(const at::BFloat16* columns, std::int64_t stride, Pair* packed) {
  __m512i a[square], b[square];
  for (int j = 0; j < square; ++j) {
    a[j] = _mm512_loadu_si512(columns + j * stride);
    _mm_prefetch(columns + j * stride + columns_ahead, _MM_HINT_T0);
  }
  for (int j = 0; j < square; j += 2) {
    b[j] = _mm512_unpacklo_epi32(a[j], a[j + 1]);
    b[j + 1] = _mm512_unpackhi_epi32(a[j], a[j + 1]);
  }
  for (int j = 0; j < square; j += 4) {
    a[j] = _mm512_unpacklo_epi64(b[j], b[j + 2]);
    a[j + 1] = _mm512_unpackhi_epi64(b[j], b[j + 2]);
    a[j + 2] = _mm512_unpacklo_epi64(b[j + 1], b[j + 3]);
    a[j + 3] = _mm512_unpackhi_epi64(b[j + 1], b[j + 3]);
  }
  for (int j = 0; j < 4; ++j) {  // quarters, of four columns each, come together
    const __m512i even_low = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
    Pair* const row = packed + j * panel_columns;
    _mm512_storeu_si512(row, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
    _mm512_storeu_si512(row + 4 * panel_columns, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
    _mm512_storeu_si512(row + 8 * panel_columns, _mm512_shuffle_i32x4(even_low, even_high, 0xdd));
    _mm512_storeu_si512(row + 12 * panel_columns, _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd));
  }
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/// Columns [0, count) of a matrix of k rows whose columns are contiguous.
SELM_PACKS void pack_columns(const at::BFloat16* b, std::int64_t stride, std::int64_t k,
                             std::int64_t count, Pair* packed) {
  const std::int64_t pairs = k / 2;
  const std::int64_t whole_pairs = pairs / square * square;
  const std::int64_t whole_columns = count / square * square;
  for (std::int64_t j = 0; j < whole_columns; j += square) {  // 16 columns, each from its beginning
    for (std::int64_t p = 0; p < whole_pairs; p += square) {
      pack_square(b + j * stride + 2 * p, stride, packed + p * panel_columns + j);
    }
  }
  for (std::int64_t j = 0; j < count; ++j) {
    for (std::int64_t p = j < whole_columns ? whole_pairs : 0; p < pairs; ++p) {
      std::memcpy(&packed[p * panel_columns + j], b + j * stride + 2 * p, sizeof(Pair));
    }
  }
}

/// Columns [0, count) of a matrix of k rows that are contiguous.
SELM_PACKS void pack_rows(const at::BFloat16* b, std::int64_t stride, std::int64_t k,
                          std::int64_t count, Pair* packed) {
  for (std::int64_t p = 0; p < k / 2; ++p) {
    const at::BFloat16* const even = b + 2 * p * stride;
    const at::BFloat16* const odd = even + stride;
    prefetch(even + rows_ahead * stride);
    prefetch(odd + rows_ahead * stride);
    for (std::int64_t j = 0; j < count; ++j) {
      packed[p * panel_columns + j] = static_cast<Pair>(even[j].x) | static_cast<Pair>(odd[j].x)
                                                                         << 16;
    }
  }
}

/// c += part, of `rows` rows of a panel; those of c are `stride` apart.
SELM_PACKS void add_part(const float* part, std::int64_t rows, std::int64_t columns, float* c,
                         std::int64_t stride) {
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      c[i * stride + j] += part[i * panel_columns + j];
    }
  }
}
#else
void add_part(const float*, std::int64_t, std::int64_t, float*, std::int64_t) {}
void pack_columns(const at::BFloat16*, std::int64_t, std::int64_t, std::int64_t, Pair*) {}
void pack_rows(const at::BFloat16*, std::int64_t, std::int64_t, std::int64_t, Pair*) {}
#endif

}  // namespace

bool has_bf16_mm() {
  // Once for all: a backward pass must find what the forward pass has kept in the same type.
  static const bool available = at::globalContext().userEnabledMkldnn() && multiplies_bfloat16();
  return available;
}

void bf16_mm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, bool accumulate) {
  const std::int64_t k = a.size(1);
  if (accumulate && k > longest_sum) {
    for (std::int64_t first = 0; first < k; first += longest_sum) {
      const std::int64_t count = std::min(longest_sum, k - first);
      bf16_mm(a.narrow(1, first, count), b.narrow(0, first, count), c, true);
    }
    return;
  }
  if (k % 2 != 0) {
    bf16_mm(at::constant_pad_nd(a, {0, 1}), at::constant_pad_nd(b, {0, 0, 0, 1}), c, accumulate);
    return;
  }
  const std::int64_t m = c.size(0), n = c.size(1);
  const std::int64_t panels = (n + panel_columns - 1) / panel_columns;
  const std::int64_t blocks = (m + most_rows - 1) / most_rows;
  const std::int64_t block_rows = (m + blocks - 1) / blocks;
  const std::int64_t panel_pairs = k / 2 * panel_columns;
  const std::int64_t parts = accumulate ? 1 : (k + chain - 1) / chain;
  const std::int64_t depth = (k / 2 + parts - 1) / parts * 2;
  const at::Tensor scratch =
      at::empty({at::get_num_threads(), panel_pairs}, b.options().dtype(at::kInt));
  Pair* const pairs = reinterpret_cast<Pair*>(scratch.mutable_data_ptr<std::int32_t>());
  const at::BFloat16* const a_data = a.const_data_ptr<at::BFloat16>();
  const at::BFloat16* const b_data = b.const_data_ptr<at::BFloat16>();
  float* const c_data = c.mutable_data_ptr<float>();
  // A thread packs a panel when it comes to the first of its blocks; a panel at the border of two
  // threads is packed by both.
  const std::int64_t cost = std::min(m, block_rows) * k;  // of a column; 64 are done at once
  at::parallel_for(0, panels * blocks, grain(cost), [&](std::int64_t begin, std::int64_t end) {
    Pair* const packed = pairs + at::get_thread_num() * panel_pairs;
    std::vector<float> part(static_cast<std::size_t>(block_rows * panel_columns));
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t panel = task / blocks, row = task % blocks * block_rows;
      const std::int64_t column = panel * panel_columns;
      const std::int64_t count = std::min(panel_columns, n - column);
      if (task == begin || row == 0) {
        const bool by_columns = b.stride(0) == 1;
        (by_columns ? pack_columns : pack_rows)(b_data + column * b.stride(1),
                                                by_columns ? b.stride(1) : b.stride(0), k, count,
                                                packed);
      }
      const std::int64_t rows = std::min(block_rows, m - row);
      float* const out = c_data + row * c.stride(0) + column;
      for (std::int64_t first = 0; first < k; first += depth) {
        // Gradients add to one sum in one chain: they are rounded to bfloat16 in the end.
        const bool apart = first > 0 && !accumulate;
        at::native::cpublas::brgemm(
            rows, count, std::min(depth, k - first), a.stride(0), panel_columns,
            apart ? panel_columns : c.stride(0), accumulate, a_data + row * a.stride(0) + first,
            reinterpret_cast<const at::BFloat16*>(packed + first / 2 * panel_columns),
            apart ? part.data() : out);
        if (apart) {
          add_part(part.data(), rows, count, out, c.stride(0));
        }
      }
    }
    at::native::cpublas::brgemm_release();
  });
}

}  // namespace selm::cpu
