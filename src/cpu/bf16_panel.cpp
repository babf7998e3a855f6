#include "cpu/bf16_panel.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace selm::cpu {

#if defined(__x86_64__)
#define SELM_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace {

constexpr std::int64_t lanes = 16;

// ---------------------------------------------------------------------------------------------
// Packing

// Lines of a rectangle lie too far apart for the processor to foresee the next ones. Addresses
// beyond the matrix do no harm.
constexpr std::int64_t values_ahead = 128;
constexpr std::int64_t rows_ahead = 16;

#if defined(__GNUC__) && !defined(__clang__)  // g++ 12 warns of its own intrinsics
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

/// 16 pairs of each of 16 columns, `stride` apart, into 16 rows of a panel.
SELM_TARGET void pack_square(const c10::BFloat16* columns, std::int64_t stride, Pair* packed) {
  __m512i a[lanes], b[lanes];
  for (int j = 0; j < lanes; ++j) {
    a[j] = _mm512_loadu_si512(columns + j * stride);
    _mm_prefetch(columns + j * stride + values_ahead, _MM_HINT_T0);
  }
  for (int j = 0; j < lanes; j += 2) {
    b[j] = _mm512_unpacklo_epi32(a[j], a[j + 1]);
    b[j + 1] = _mm512_unpackhi_epi32(a[j], a[j + 1]);
  }
  for (int j = 0; j < lanes; j += 4) {
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

/// One panel of columns that are contiguous, 16 at a time, each from its beginning.
SELM_TARGET void pack_columns(const Rectangle& from, Pair* packed) {
  const std::int64_t pairs = from.count / 2;
  const std::int64_t whole_pairs = pairs / lanes * lanes,
                     whole_columns = from.lines / lanes * lanes;
  for (std::int64_t j = 0; j < whole_columns; j += lanes) {
    for (std::int64_t p = 0; p < whole_pairs; p += lanes) {
      pack_square(from.data + j * from.stride + 2 * p, from.stride, packed + p * panel_columns + j);
    }
  }
  for (std::int64_t j = 0; j < from.lines; ++j) {
    for (std::int64_t p = j < whole_columns ? whole_pairs : 0; p < pairs; ++p) {
      std::memcpy(&packed[p * panel_columns + j], from.data + j * from.stride + 2 * p,
                  sizeof(Pair));
    }
  }
}

/// `count` pairs of two rows.
SELM_TARGET void pack_two_rows(const c10::BFloat16* even, const c10::BFloat16* odd,
                               std::int64_t count, Pair* packed) {
  for (std::int64_t j = 0; j < count; ++j) {
    packed[j] = static_cast<Pair>(even[j].x) | static_cast<Pair>(odd[j].x) << 16;
  }
}

/// Panels of rows that are contiguous.
SELM_TARGET void pack_rows(const Rectangle& from, std::int64_t panel_pairs, Pair* packed) {
  for (std::int64_t p = 0; p < from.lines / 2; ++p) {
    const c10::BFloat16* const even = from.data + 2 * p * from.stride;
    const c10::BFloat16* const odd = even + from.stride;
    for (std::int64_t first = 0; first < from.count; first += panel_columns) {
      for (const c10::BFloat16* row : {even, odd}) {
        const c10::BFloat16* const ahead = row + rows_ahead * from.stride + first;
        _mm_prefetch(ahead, _MM_HINT_T0);
        _mm_prefetch(ahead + panel_columns / 2, _MM_HINT_T0);
      }
      pack_two_rows(even + first, odd + first, std::min(panel_columns, from.count - first),
                    packed + first / panel_columns * panel_pairs + p * panel_columns);
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Sums

/// Rows whose sums fit the registers, beside the vectors of a panel.
constexpr int register_rows = 6;
constexpr int vectors = panel_columns / lanes;

/// What is read soon: the next rectangle to pack, and the next rows.
struct Upcoming {
  EarlyFetch rectangle;
  EarlyFetch rows;
};

/// One chain of products. All loops but that over pairs must be unrolled: sums are registers.
template <int Rows>
SELM_TARGET void multiply_rows(const PanelProduct& product, bool accumulate, Upcoming& upcoming) {
  __m512 sums[Rows][vectors];
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      sums[i][j] = _mm512_setzero_ps();
    }
  }
  Upcoming next = upcoming;  // a copy can stay in registers
  for (std::int64_t p = 0; p < product.pairs; ++p) {
    next.rectangle.step();
    next.rows.step();
    __m512bh b[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      b[j] = (__m512bh)_mm512_loadu_si512(product.panel + p * panel_columns + j * lanes);
    }
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) {
      std::int32_t pair;
      std::memcpy(&pair, product.a + i * product.a_stride + 2 * p, sizeof(pair));
      const auto a = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) {
        sums[i][j] = _mm512_dpbf16_ps(sums[i][j], a, b[j]);
      }
    }
  }
  upcoming = next;
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      const auto left = static_cast<int>(product.columns) - j * static_cast<int>(lanes);
      const auto mask =
          static_cast<__mmask16>(left >= lanes ? 0xffff : (1 << std::max(left, 0)) - 1);
      float* const c = product.c + i * product.c_stride + j * lanes;
      if (accumulate) {
        sums[i][j] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), sums[i][j]);
      }
      _mm512_mask_storeu_ps(c, mask, sums[i][j]);
    }
  }
}

void multiply_any_rows(const PanelProduct& product, bool accumulate, Upcoming& upcoming) {
  using Kernel = void (*)(const PanelProduct&, bool, Upcoming&);
  constexpr Kernel kernels[register_rows] = {multiply_rows<1>, multiply_rows<2>, multiply_rows<3>,
                                             multiply_rows<4>, multiply_rows<5>, multiply_rows<6>};
  kernels[product.rows - 1](product, accumulate, upcoming);
}

}  // namespace

void pack(const Rectangle& from, std::int64_t panel_pairs, Pair* packed) {
  if (!from.by_columns) {
    pack_rows(from, panel_pairs, packed);
    return;
  }
  for (std::int64_t first = 0; first < from.lines; first += panel_columns) {
    Rectangle panel = from;
    panel.data += first * from.stride;
    panel.lines = std::min(panel_columns, from.lines - first);
    pack_columns(panel, packed + first / panel_columns * panel_pairs);
  }
}

void multiply(const PanelProduct& product, bool accumulate, EarlyFetch& upcoming) {
  const std::int64_t parts = (product.rows + register_rows - 1) / register_rows;
  const auto begin = [&](std::int64_t part) {  // as even as they can be
    return std::min(part, parts) * product.rows / parts;
  };
  Upcoming next{upcoming, {}};
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t first = begin(part), end = begin(part + 1);
    PanelProduct one = product;
    one.rows = end - first;
    one.a += first * product.a_stride;
    one.c += first * product.c_stride;
    next.rows = EarlyFetch(product.a + end * product.a_stride, product.a_stride,
                           begin(part + 2) - end, 2 * product.pairs);
    for (std::int64_t p = 0; p < product.pairs; p += chain / 2) {
      one.pairs = std::min(chain / 2, product.pairs - p);
      multiply_any_rows(one, accumulate || p > 0, next);
      one.a += chain;
      one.panel += chain / 2 * panel_columns;
    }
  }
  upcoming = next.rectangle;
}

#else  // has_bf16_mm() is false
void pack(const Rectangle&, std::int64_t, Pair*) {}
void multiply(const PanelProduct&, bool, EarlyFetch&) {}
#endif

}  // namespace selm::cpu
