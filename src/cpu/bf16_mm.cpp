#include "cpu/bf16_mm.hpp"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

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

/// Products that the kernel adds up one after the other. Longer sums are made of such parts, so that
/// they err as little as a float32 product does: a chain of 4,096 has four times its error.
/// Gradients, which are rounded to bfloat16 in the end, are added to what is there in longer ones.
constexpr std::int64_t chain = 512;
constexpr std::int64_t chain_of_gradients = 1024;

/// Rows of a panel that are packed at once.
constexpr std::int64_t most_depth = 1024;

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
#else
void pack_columns(const at::BFloat16*, std::int64_t, std::int64_t, std::int64_t, Pair*) {}
void pack_rows(const at::BFloat16*, std::int64_t, std::int64_t, std::int64_t, Pair*) {}
#endif

}  // namespace

bool has_bf16_mm() {
  // Once for all: a backward pass must find what the forward pass has kept in the same type.
  static const bool available = at::globalContext().userEnabledMkldnn() && multiplies_bfloat16();
  return available;
}

namespace {

/// c = a b or c += a b of an even depth k.
class Product {
 public:
  Product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, bool accumulate)
      : a_(a),
        b_(b),
        c_(c),
        accumulate_(accumulate),
        k_(a.size(1) / 2 * 2),
        blocks_((c.size(0) + most_rows - 1) / most_rows),
        block_rows_((c.size(0) + blocks_ - 1) / blocks_) {
    const std::int64_t longest = accumulate ? chain_of_gradients : chain;
    const std::int64_t parts = std::max<std::int64_t>((k_ + longest - 1) / longest, 1);
    chain_ = (k_ / 2 + parts - 1) / parts * 2;
    depth_ = most_depth / longest * chain_;
  }

  std::int64_t panels() const { return (c_.size(1) + panel_columns - 1) / panel_columns; }
  std::int64_t blocks() const { return blocks_; }
  std::int64_t pairs_of_panel() const { return depth_ / 2 * panel_columns; }

  /// Blocks [begin, end) of rows of one panel of c; `packed` holds `pairs_of_panel`.
  void panel(std::int64_t column, std::int64_t begin, std::int64_t end, Pair* packed) const {
    const std::int64_t columns = std::min(panel_columns, c_.size(1) - column);
    for (std::int64_t first = 0; first < k_; first += depth_) {
      const std::int64_t depth = std::min(depth_, k_ - first);
      pack(first, column, depth, columns, packed);
      for (std::int64_t block = begin; block < end; ++block) {
        multiply(block * block_rows_, column, columns, first, depth, packed);
      }
    }
  }

 private:
  void pack(std::int64_t row, std::int64_t column, std::int64_t depth, std::int64_t columns,
            Pair* packed) const {
    const auto* const b = b_.const_data_ptr<at::BFloat16>();
    const std::int64_t down = b_.stride(0), right = b_.stride(1);
    const bool by_columns = down == 1;
    (by_columns ? pack_columns : pack_rows)(b + row * down + column * right,
                                            by_columns ? right : down, depth, columns, packed);
  }

  /// One block of rows, up from `first` of k.
  void multiply(std::int64_t row, std::int64_t column, std::int64_t columns, std::int64_t first,
                std::int64_t depth, const Pair* packed) const {
    const std::int64_t rows = std::min(block_rows_, c_.size(0) - row);
    const auto* const a = a_.const_data_ptr<at::BFloat16>() + row * a_.stride(0);
    float* const c = c_.mutable_data_ptr<float>() + row * c_.stride(0) + column;
    for (std::int64_t k = 0; k < depth; k += chain_) {
      // The kernel sums from zero and adds what is there in the end: chains do not run on, but for
      // AMX, whose tiles begin with what is there.
      at::native::cpublas::brgemm(
          rows, columns, std::min(chain_, depth - k), a_.stride(0), panel_columns, c_.stride(0),
          accumulate_ || first + k > 0, a + first + k,
          reinterpret_cast<const at::BFloat16*>(packed + k / 2 * panel_columns), c);
    }
  }

  const at::Tensor& a_;
  const at::Tensor& b_;
  const at::Tensor& c_;
  bool accumulate_;
  std::int64_t k_;
  std::int64_t blocks_;
  std::int64_t block_rows_;
  std::int64_t chain_;
  std::int64_t depth_;
};

/// The product of the last column of a and the last row of b, which pairs leave out, on top.
void add_last(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, bool accumulate) {
  const std::int64_t last = a.size(1) - 1;
  bf16_mm(at::constant_pad_nd(a.narrow(1, last, 1), {0, 1}),
          at::constant_pad_nd(b.narrow(0, last, 1), {0, 0, 0, 1}), c, accumulate);
}

}  // namespace

void bf16_mm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, bool accumulate) {
  const Product product(a, b, c, accumulate);
  const std::int64_t panels = product.panels(), blocks = product.blocks();
  const std::int64_t pairs = product.pairs_of_panel();
  const at::Tensor scratch = at::empty({at::get_num_threads(), pairs}, b.options().dtype(at::kInt));
  Pair* const all = reinterpret_cast<Pair*>(scratch.mutable_data_ptr<std::int32_t>());
  // A panel at the border of two threads is packed by both.
  const std::int64_t cost = std::min(c.size(0), most_rows) * a.size(1);  // of a column of 64
  at::parallel_for(0, panels * blocks, grain(cost), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end;) {
      const std::int64_t panel = task / blocks;
      const std::int64_t stop = std::min(end, (panel + 1) * blocks);
      product.panel(panel * panel_columns, task - panel * blocks, stop - panel * blocks,
                    all + at::get_thread_num() * pairs);
      task = stop;
    }
    at::native::cpublas::brgemm_release();
  });
  if (a.size(1) % 2 != 0) {
    add_last(a, b, c, accumulate || a.size(1) > 1);
  }
}

}  // namespace selm::cpu
