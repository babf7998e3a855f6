#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include "checks.hpp"
#include "selm/host/values.hpp"

/// @file
/// Labels as the kernels take them.

namespace selm::ops {

/// int64 labels of one or two dimensions, in one piece. On the CPU every label is checked before
/// anything is computed; `first_column` is where the labels begin in the caller's rows.
inline at::Tensor checked_targets(const char* op, const char* name, const at::Tensor& labels,
                                  std::int64_t vocab, std::int64_t ignore_index,
                                  std::int64_t first_column = 0) {
  at::Tensor targets = labels.to(at::kLong).contiguous();
  if (!targets.is_cpu()) {
    return targets;
  }
  const auto position = [&](std::int64_t i) {
    const std::int64_t columns = targets.size(-1);
    return targets.dim() == 1 ? fmt::format("[{}]", i)
                              : fmt::format("[{}, {}]", i / columns, i % columns + first_column);
  };
  const std::int64_t* const data = targets.const_data_ptr<std::int64_t>();
  check::translated([&] {
    for (std::int64_t i = 0; i < targets.numel(); ++i) {
      check_target(op, name, data[i], vocab, ignore_index, [&] { return position(i); });
    }
  });
  return targets;
}

}  // namespace selm::ops
