#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace selm::ops {

/// Memory behind a tensor of one byte: its size depends on the labels, and what autograd saves must
/// have a size that does not (torch.compile asks for it).
struct HiddenAway {
  static at::Tensor make(std::int64_t bytes, const at::TensorOptions& options) {
    return at::empty({std::max<std::int64_t>(bytes, 1)}, options.dtype(at::kByte)).narrow(0, 0, 1);
  }

  /// False where the byte came back without the memory behind it, because a hook has copied it.
  static bool is_whole(const at::Tensor& byte, std::int64_t bytes) {
    return byte.storage_offset() == 0 &&
           static_cast<std::int64_t>(byte.storage().nbytes()) == std::max<std::int64_t>(bytes, 1);
  }

  static std::byte* find(const at::Tensor& byte) {
    return static_cast<std::byte*>(byte.storage().mutable_data());
  }

  /// Another byte with the memory behind it. Behind the given one there is none from now on.
  static at::Tensor take(const at::Tensor& byte) {
    at::Tensor other = make(0, byte.options());
    const c10::Storage &from = byte.storage(), &to = other.storage();
    const c10::SymInt bytes = from.sym_nbytes();
    from.set_nbytes(to.sym_nbytes());
    to.set_nbytes(bytes);
    to.set_data_ptr(from.set_data_ptr(to.set_data_ptr(at::DataPtr())));
    return other;
  }

  /// (count, columns) at the beginning of the memory; without rows where it did not come back.
  static at::Tensor find(const at::Tensor& byte, std::int64_t count, std::int64_t columns,
                         const at::TensorOptions& options) {
    const auto size = static_cast<std::int64_t>(options.dtype().itemsize());
    return find(byte, is_whole(byte, count * columns * size) ? count : 0, columns, 0, options);
  }

  /// The same from `begin` on, a multiple of an element's bytes, of memory that is known to be
  /// there.
  static at::Tensor find(const at::Tensor& byte, std::int64_t count, std::int64_t columns,
                         std::int64_t begin, const at::TensorOptions& options) {
    const auto size = static_cast<std::int64_t>(options.dtype().itemsize());
    return at::empty({0}, options)
        .set_(byte.storage(), begin / size, {count, columns}, {columns, 1});
  }
};

}  // namespace selm::ops
