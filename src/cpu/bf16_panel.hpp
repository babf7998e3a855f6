#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

/// @file
/// What a product of bfloat16 matrices is made of on a machine that multiplies vectors of pairs:
/// the second operand in packed panels, and the sums of some rows with one panel.

namespace selm::cpu {

/// Two values of one column, in consecutive rows: 32 bits, of which the processor sums the products
/// with another pair.
using Pair = std::uint32_t;

/// A panel holds the pairs of so many columns, then those of the next two rows, and so on.
constexpr std::int64_t panel_columns = 64;

/// Part of a matrix, of an even number of rows.
struct Rectangle {
  const c10::BFloat16* data;
  std::int64_t stride;  ///< from line to line
  std::int64_t lines;   ///< its columns or its rows, whichever are contiguous
  std::int64_t count;   ///< values of a line
  bool by_columns;
};

/// Into panels, which begin `panel_pairs` apart. Columns that the last one lacks hold anything.
void pack(const Rectangle& from, std::int64_t panel_pairs, Pair* packed);

/// Brings lines of values into the cache, while something else is computed.
class EarlyFetch {
 public:
  EarlyFetch() = default;
  EarlyFetch(const c10::BFloat16* data, std::int64_t stride, std::int64_t lines, std::int64_t count)
      : line_(reinterpret_cast<const char*>(data)),
        next_(line_),
        bytes_(count * value_bytes),
        stride_(stride * value_bytes),
        lines_(lines) {}

  /// The next 64 bytes, as long as there are some.
  __attribute__((always_inline)) void step() {
    if (lines_ > 0) {
      __builtin_prefetch(next_);
      next_ += cache_line;
      if (next_ - line_ >= bytes_) {
        next_ = line_ += stride_;
        --lines_;
      }
    }
  }

 private:
  static constexpr std::int64_t cache_line = 64, value_bytes = sizeof(c10::BFloat16);

  const char* line_ = nullptr;
  const char* next_ = nullptr;
  std::int64_t bytes_ = 0;
  std::int64_t stride_ = 0;
  std::int64_t lines_ = 0;
};

/// c = a b, or c += a b: some rows of a, a panel of b.
struct PanelProduct {
  const c10::BFloat16* a;
  std::int64_t a_stride;
  std::int64_t rows;
  const Pair* panel;
  std::int64_t pairs;  ///< of a row of a, and of a column of the panel
  float* c;
  std::int64_t c_stride;
  std::int64_t columns;  ///< those of the panel that count; no others are written
};

/// Products that `multiply` sums one after the other, from zero. Longer sums are made of such
/// parts, so that they err as little as a float32 product does: a chain of 4,096 has four times its
/// error.
constexpr std::int64_t chain = 512;

/// By the instructions for pairs. What will be packed next is fetched meanwhile: nothing else reads
/// it, and packing would wait for memory.
void multiply(const PanelProduct& product, bool accumulate, EarlyFetch& upcoming);

}  // namespace selm::cpu
