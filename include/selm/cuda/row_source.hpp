#pragma once

#include <cstdint>

#include "selm/cuda/row_cut.hpp"

/// @file
/// Where a thread has the values of a row from: global memory, or what it has stashed of them. A
/// source has `load<Width>(place, round)`, of the packet that begins at `place` of the row and is
/// the thread's packet (or single value) number `round`, and `keep(packet, round)`, which is called
/// for each packet after it was loaded.

namespace selm::cuda {

/// Shared memory of one block, aligned to 16 bytes; null if the row is to be read again.
struct StashMemory {
  unsigned char* bytes;
  int threads;  ///< of the block
};

/// Bytes that each of `blocks` blocks needs to stash its share of a row.
template <typename Storage>
SELM_HOST_DEVICE std::int64_t stash_bytes(std::int64_t length, int threads, int blocks) {
  constexpr std::int64_t width = RowCut<Storage>::width;
  const std::int64_t all = std::int64_t(threads) * blocks;
  const std::int64_t rounds = (length / width + all - 1) / all;
  const std::int64_t rounds_of_singles = (2 * (width - 1) + all - 1) / all;
  return threads * (rounds * 16 + rounds_of_singles * std::int64_t(sizeof(Storage)));
}

/// One thread's slots in its block's memory. Nobody else reads or writes them, so that there is
/// nothing to wait for; neighbours' slots lie side by side.
template <typename Storage>
class RowStash {
 public:
  SELM_HOST_DEVICE RowStash(const StashMemory& memory, const RowCut<Storage>& cut, RowThread thread)
      : packets_(memory.bytes),
        singles_(memory.bytes +
                 (cut.packets + thread.count - 1) / thread.count * memory.threads * 16),
        place_(thread.index % memory.threads),
        threads_(memory.threads) {}

  template <int Width>
  SELM_HOST_DEVICE Packet<Storage, Width>& slot(int round) const {
    unsigned char* region = Width == 1 ? singles_ : packets_;
    return reinterpret_cast<Packet<Storage, Width>*>(region)[place_ + round * threads_];
  }

 private:
  unsigned char* packets_;
  unsigned char* singles_;
  int place_;
  int threads_;
};

/// A row in global memory.
template <typename Storage>
struct GlobalRow {
  const Storage* row;

  template <int Width>
  SELM_HOST_DEVICE Packet<Storage, Width> load(std::int64_t place, int) const {
    return load_packet<Storage, Width>(row + place);
  }
  template <int Width>
  SELM_HOST_DEVICE void keep(const Packet<Storage, Width>&, int) const {}
};

/// A row in global memory that is stashed as it is loaded.
template <typename Storage>
struct StashingRow {
  const Storage* row;
  RowStash<Storage> stash;

  template <int Width>
  SELM_HOST_DEVICE Packet<Storage, Width> load(std::int64_t place, int) const {
    return load_packet<Storage, Width>(row + place);
  }
  template <int Width>
  SELM_HOST_DEVICE void keep(const Packet<Storage, Width>& packet, int round) const {
    stash.template slot<Width>(round) = packet;
  }
};

/// A row that has been stashed, cut and divided in the same way.
template <typename Storage>
struct StashedRow {
  RowStash<Storage> stash;

  template <int Width>
  SELM_HOST_DEVICE Packet<Storage, Width> load(std::int64_t, int round) const {
    return stash.template slot<Width>(round);
  }
  template <int Width>
  SELM_HOST_DEVICE void keep(const Packet<Storage, Width>&, int) const {}
};

/// How rows are divided among blocks.
struct RowSplit {
  int blocks;                ///< of the cluster that shares a row
  std::int64_t stash_bytes;  ///< of each block; 0: a row does not fit, and is read again
};

/// For rows of `length` values on a device with `shared_bytes` for a block and clusters of up to
/// `most_blocks` blocks. A multiprocessor shall hold two blocks, one of which loads while the
/// other stores, if that can be; `reserved_bytes` is what it sets aside for each.
template <typename Storage>
RowSplit split_row(std::int64_t length, int threads, std::int64_t shared_bytes,
                   std::int64_t reserved_bytes, int most_blocks) {
  for (const std::int64_t limit : {shared_bytes / 2 - reserved_bytes, shared_bytes}) {
    for (int blocks = 1; blocks <= most_blocks; blocks *= 2) {
      const std::int64_t bytes = stash_bytes<Storage>(length, threads, blocks);
      if (bytes <= limit) {
        return {blocks, bytes};
      }
    }
  }
  return {1, 0};
}

}  // namespace selm::cuda
