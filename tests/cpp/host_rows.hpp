#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "selm/core/accumulation.hpp"
#include "selm/core/row_view.hpp"
#include "token_reference.hpp"

// Rows of logits on the host, of a GPU's types and alignments.

namespace selm::test {

/// Two bytes per value, so that the packets of eight values are tested without a CUDA header.
struct Bfloat16 {
  std::uint16_t bits;

  Bfloat16() = default;
  explicit Bfloat16(float x) {
    std::uint32_t word;
    std::memcpy(&word, &x, sizeof(word));
    const std::uint32_t to_nearest_even = 0x7fffu + ((word >> 16) & 1u);
    bits = static_cast<std::uint16_t>(std::isnan(x) ? 0x7fc0u : (word + to_nearest_even) >> 16);
  }
  explicit operator float() const {
    const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &word, sizeof(x));
    return x;
  }
};

template <typename Storage>
Precision precision_of() {
  if constexpr (std::is_same_v<Storage, Bfloat16>) {
    return {std::numeric_limits<float>::epsilon(), std::ldexp(1.0, -7), std::ldexp(1.0, -133)};
  } else {
    return Precision::of<Storage>();
  }
}

template <typename Storage>
double as_double(Storage x) {
  return static_cast<double>(static_cast<accumulation_t<Storage>>(x));
}

/// Rows in one allocation that is aligned to 16 bytes, `offset` values from its begin and `gap`
/// values apart.
template <typename Storage>
class Rows {
 public:
  Rows(std::int64_t count, std::int64_t vocab, std::int64_t offset, std::int64_t gap)
      : vocab_(vocab),
        stride_(vocab + gap),
        offset_(offset),
        packets_(static_cast<std::size_t>(
            (offset + count * stride_) * std::int64_t(sizeof(Storage)) / 16 + 1)) {}

  Storage* data() { return reinterpret_cast<Storage*>(packets_.data()) + offset_; }
  Storage* row(std::int64_t i) { return data() + i * stride_; }
  RowView<Storage> view() { return {data(), 1, stride_, 0}; }
  RowView<const Storage> const_view() { return {data(), 1, stride_, 0}; }
  std::size_t size() const { return packets_.size() * (16 / sizeof(Storage)); }

  void fill(double x) {
    Storage* all = reinterpret_cast<Storage*>(packets_.data());
    std::fill_n(all, size(), static_cast<Storage>(static_cast<accumulation_t<Storage>>(x)));
  }
  void set(std::int64_t i, const std::vector<double>& values) {
    for (std::size_t v = 0; v < values.size(); ++v) {
      row(i)[v] = static_cast<Storage>(static_cast<accumulation_t<Storage>>(values[v]));
    }
  }
  std::vector<double> get(std::int64_t i) {
    std::vector<double> values;
    for (std::int64_t v = 0; v < vocab_; ++v) {
      values.push_back(as_double(row(i)[v]));
    }
    return values;
  }
  /// How many values outside of the rows differ from x.
  std::int64_t changed_gaps(std::int64_t count, double x) {
    const Storage* all = reinterpret_cast<Storage*>(packets_.data());
    std::int64_t changed = 0;
    for (std::int64_t k = 0; k < static_cast<std::int64_t>(size()); ++k) {
      const std::int64_t place = k - offset_;
      const bool in_row = place >= 0 && place / stride_ < count && place % stride_ < vocab_;
      changed += !in_row && as_double(all[k]) != x;
    }
    return changed;
  }

 private:
  struct alignas(16) Bytes {
    unsigned char bytes[16];
  };
  std::int64_t vocab_, stride_, offset_;
  std::vector<Bytes> packets_;
};

}  // namespace selm::test
