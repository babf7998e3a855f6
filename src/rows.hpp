#pragma once

#include <ATen/core/Tensor.h>

#include "selm/core/row_view.hpp"

/// @file
/// Tensors as the row views that kernels take.

namespace selm::ops {

/// Rows of a (rows, n) or (batch, time, n) tensor whose last dimension is contiguous.
template <typename Element, typename Tensor>
RowView<Element> row_view(Element* data, const Tensor& rows) {
  const bool nested = rows.dim() == 3;
  const std::int64_t last = rows.dim() - 2;
  return {data, std::max<std::int64_t>(rows.size(last), 1), nested ? rows.stride(0) : 0,
          rows.stride(last)};
}

/// `rows` itself where its last dimension is contiguous, else a copy: kernels read rows in order.
inline at::Tensor with_contiguous_rows(const at::Tensor& rows) {
  return rows.size(-1) <= 1 || rows.stride(-1) == 1 ? rows : rows.contiguous();
}

/// float32 for half precision and float32, float64 for float64.
inline at::ScalarType accumulation_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace selm::ops
