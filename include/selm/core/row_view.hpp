#pragma once

#include <cstdint>

#include "selm/core/macros.hpp"

/// @file
/// Rows of a larger array, so that `logits[:, :-1]` needs no copy.

namespace selm {

/// outer x inner rows; each row's elements are contiguous. Offsets are 64-bit: rows x vocabulary
/// passes 2^31 in practice.
template <typename Element>
struct RowView {
  Element* data;
  std::int64_t inner;         ///< rows per outer index
  std::int64_t outer_stride;  ///< in elements
  std::int64_t inner_stride;  ///< in elements

  SELM_HOST_DEVICE Element* operator[](std::int64_t row) const {
    return data + (row / inner) * outer_stride + (row % inner) * inner_stride;
  }
};

/// Rows stored one after the other.
template <typename Element>
RowView<Element> contiguous_rows(Element* data, std::int64_t row_length) {
  return {data, 1, row_length, 0};
}

}  // namespace selm
