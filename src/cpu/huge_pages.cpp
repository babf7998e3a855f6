#include "cpu/huge_pages.hpp"

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace selm::cpu {

void prefer_huge_pages(const at::Tensor& tensor) {
#if defined(__linux__)
  if (!tensor.is_cpu()) {
    return;
  }
  constexpr std::uintptr_t page = std::uintptr_t{1} << 21;
  const auto begin = reinterpret_cast<std::uintptr_t>(tensor.storage().mutable_data());
  const std::uintptr_t first = (begin + page - 1) / page * page;
  const std::uintptr_t last = (begin + tensor.storage().nbytes()) / page * page;
  if (first < last) {
    // A system that does not do it refuses, and nothing else changes.
    static_cast<void>(madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE));
  }
#else
  static_cast<void>(tensor);
#endif
}

}  // namespace selm::cpu
