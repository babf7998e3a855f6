#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "device_memory.hpp"
#include "selm/core/accumulation.hpp"
#include "selm/core/row_view.hpp"
#include "token_reference.hpp"

// Rows of logits on a GPU.

namespace selm::test {

template <typename Storage>
Storage store(double x) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double largest = std::is_same_v<Storage, __half> ? 65504.0 : infinity;
  const double clamped = std::isfinite(x) ? std::max(-largest, std::min(largest, x)) : x;
  return static_cast<Storage>(static_cast<accumulation_t<Storage>>(clamped));
}

template <typename Storage>
double as_double(Storage x) {
  return static_cast<double>(static_cast<accumulation_t<Storage>>(x));
}

template <typename Storage>
Precision precision_of() {
  constexpr double sums = std::numeric_limits<float>::epsilon();
  if constexpr (std::is_same_v<Storage, __nv_bfloat16>) {
    return {sums, std::ldexp(1.0, -7), std::ldexp(1.0, -133)};
  } else if constexpr (std::is_same_v<Storage, __half>) {
    return {sums, std::ldexp(1.0, -10), std::ldexp(1.0, -24)};
  } else {
    return Precision::of<Storage>();
  }
}

/// Rows on the device: `outer` x `inner` rows, `gap` values after each and one row more after each
/// group of `inner`, as logits[:, :-1] has it.
template <typename Storage>
class DeviceRows {
 public:
  DeviceRows(std::int64_t outer, std::int64_t inner, std::int64_t vocab, std::int64_t gap,
             std::int64_t offset = 0)
      : inner_(inner),
        vocab_(vocab),
        stride_(vocab + gap),
        offset_(offset),
        host_(static_cast<std::size_t>(offset + outer * (inner + 1) * stride_),
              store<Storage>(5.0)),
        device_(host_) {}

  RowView<Storage> view() const {
    return {device_.get() + offset_, inner_, (inner_ + 1) * stride_, stride_};
  }
  RowView<const Storage> const_view() const {
    return {device_.get() + offset_, inner_, (inner_ + 1) * stride_, stride_};
  }
  void set(std::int64_t row, const std::vector<double>& values) {
    std::transform(values.begin(), values.end(), host_.begin() + place(row), store<Storage>);
  }
  std::vector<double> get(std::int64_t row) const {
    std::vector<double> values(static_cast<std::size_t>(vocab_));
    std::transform(host_.begin() + place(row), host_.begin() + place(row) + vocab_, values.begin(),
                   as_double<Storage>);
    return values;
  }
  void upload() {
    require(cudaMemcpy(device_.get(), host_.data(), host_.size() * sizeof(Storage),
                       cudaMemcpyHostToDevice));
  }
  void download() { host_ = device_.copy(); }
  /// Values outside of the rows that are no longer 5.
  std::int64_t changed_gaps(std::int64_t rows) const {
    std::vector<bool> in_row(host_.size(), false);
    for (std::int64_t i = 0; i < rows; ++i) {
      std::fill_n(in_row.begin() + place(i), vocab_, true);
    }
    std::int64_t changed = 0;
    for (std::size_t k = 0; k < host_.size(); ++k) {
      changed += !in_row[k] && as_double(host_[k]) != 5.0;
    }
    return changed;
  }

 private:
  std::int64_t place(std::int64_t row) const {
    return offset_ + (row / inner_) * (inner_ + 1) * stride_ + (row % inner_) * stride_;
  }

  std::int64_t inner_, vocab_, stride_, offset_;
  std::vector<Storage> host_;
  Device<Storage> device_;
};

}  // namespace selm::test
