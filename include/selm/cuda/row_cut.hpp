#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "selm/core/macros.hpp"

/// @file
/// How the threads of a block divide a row among them, and the aligned packets that they move.

namespace selm::cuda {

/// Values moved by one aligned access.
template <typename Storage, int Width>
struct alignas(Width * sizeof(Storage)) Packet {
  Storage values[Width];
};

/// Reads a packet; `from` is aligned to its size.
template <typename Storage, int Width>
SELM_HOST_DEVICE Packet<Storage, Width> load_packet(const Storage* from) {
  return *reinterpret_cast<const Packet<Storage, Width>*>(from);
}

/// Writes a packet; `to` is aligned to its size.
template <typename Storage, int Width>
SELM_HOST_DEVICE void store_packet(const Packet<Storage, Width>& packet, Storage* to) {
#if defined(__CUDA_ARCH__)
  using Word = std::conditional_t<sizeof(packet) == sizeof(uint4), uint4, uint2>;
  if constexpr (sizeof(packet) == sizeof(Word)) {  // the compiler may split the copy of a struct
    Word bits;
    std::memcpy(&bits, &packet, sizeof(bits));
    __stcg(reinterpret_cast<Word*>(to), bits);
    return;
  }
#endif
  *reinterpret_cast<Packet<Storage, Width>*>(to) = packet;
}

/// A row cut at 16-byte boundaries: `packets` aligned packets between a head and a tail of single
/// values, so that rows of any length may begin anywhere.
template <typename Storage>
struct RowCut {
  static constexpr int width = 16 / sizeof(Storage);

  std::int64_t head;     ///< single values before the first packet
  std::int64_t packets;  ///< packets of `width` values
  std::int64_t length;   ///< values of the row

  SELM_HOST_DEVICE static RowCut of(const Storage* row, std::int64_t length) {
    const auto misaligned = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(row) % 16);
    const std::int64_t to_boundary =
        misaligned == 0 ? 0 : (16 - misaligned) / static_cast<std::int64_t>(sizeof(Storage));
    const std::int64_t head = to_boundary < length ? to_boundary : length;
    return {head, (length - head) / width, length};
  }

  /// A cut for two rows at once, maybe of different types: without packets unless those of both
  /// are aligned.
  template <typename Other>
  SELM_HOST_DEVICE static RowCut of(const Storage* row, const Other* other, std::int64_t length) {
    const RowCut cut = of(row, length);
    const auto address = reinterpret_cast<std::uintptr_t>(other + cut.head);
    return address % (width * sizeof(Other)) == 0 ? cut : RowCut{length, 0, length};
  }

  SELM_HOST_DEVICE std::int64_t packet_begin(std::int64_t packet) const {
    return head + packet * width;
  }
  SELM_HOST_DEVICE std::int64_t singles() const { return length - packets * width; }
  SELM_HOST_DEVICE std::int64_t single(std::int64_t i) const {
    return i < head ? i : i + packets * width;
  }
};

/// One thread among those that share a row.
struct RowThread {
  int index;
  int count;
};

}  // namespace selm::cuda
