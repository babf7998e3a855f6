#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "selm/core/log_sum_exp.hpp"
#include "selm/core/row_statistics.hpp"
#include "selm/core/token_logp.hpp"

/// @file
/// What one thread of a block does with a row of logits. Nothing here needs a GPU: the same
/// functions run on the host, thread by thread, where they are tested.

// Packets live in registers only where every index into them is known to the compiler.
#if defined(__CUDA_ARCH__)
#define SELM_UNROLL _Pragma("unroll")
#define SELM_ROLL _Pragma("unroll 1")
#else
#define SELM_UNROLL
#define SELM_ROLL
#endif

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
  if constexpr (sizeof(packet) == sizeof(uint4)) {  // the compiler may split the copy of a struct
    uint4 bits;
    std::memcpy(&bits, &packet, sizeof(bits));
    __stcg(reinterpret_cast<uint4*>(to), bits);
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

  /// A cut for two rows at once: without packets unless both are aligned alike.
  SELM_HOST_DEVICE static RowCut of(const Storage* row, const Storage* other, std::int64_t length) {
    const RowCut cut = of(row, length);
    return cut.head == of(other, length).head ? cut : RowCut{length, 0, length};
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

/// Hands a thread's share of a row to `visit(packets, first, stride)`: value k of packets[u] is
/// row[first + u * stride + k]. Several loads are in flight before the first value is used.
template <typename Storage, typename Visit>
SELM_HOST_DEVICE void visit_row(const Storage* row, const RowCut<Storage>& cut, RowThread thread,
                                Visit&& visit) {
  constexpr int width = RowCut<Storage>::width;
  constexpr int group = sizeof(Storage) == 2 ? 2 : 4;
  using Wide = Packet<Storage, width>;
  const auto load = [&](std::int64_t packet) {
    return load_packet<Storage, width>(row + cut.packet_begin(packet));
  };
  const std::int64_t threads = thread.count;
  const std::int64_t stride = threads * width;
  std::int64_t packet = thread.index;
  for (; packet + (group - 1) * threads < cut.packets; packet += group * threads) {
    Wide packets[group];
    SELM_UNROLL
    for (int u = 0; u < group; ++u) {
      packets[u] = load(packet + u * threads);
    }
    visit(packets, cut.packet_begin(packet), stride);
  }
  SELM_ROLL
  for (; packet < cut.packets; packet += threads) {
    const Wide packets[1] = {load(packet)};
    visit(packets, cut.packet_begin(packet), stride);
  }
  SELM_ROLL
  for (std::int64_t i = thread.index; i < cut.singles(); i += thread.count) {
    const Packet<Storage, 1> packets[1] = {load_packet<Storage, 1>(row + cut.single(i))};
    visit(packets, cut.single(i), std::int64_t(1));
  }
}

/// Calls `use(index)` if index is that of a value of a packet.
template <int Width, typename Use>
SELM_HOST_DEVICE void with_index(std::int64_t index, const Use& use) {
  if (index < 0 || index >= Width) {
    return;
  }
  SELM_UNROLL
  for (int k = 0; k < Width; ++k) {
    if (k == index) {
      use(k);
    }
  }
}

/// Visitor that sums over every token but one.
template <typename T>
class ExpSum {
 public:
  SELM_HOST_DEVICE ExpSum(std::int64_t excluded, const LogitTransform<T>& transform)
      : excluded_(excluded),
        transform_(transform),
        in_bits_{transform.scale * log2_e, transform.inner, transform.outer * log2_e} {}

  SELM_HOST_DEVICE const LogSumExp<T>& total() const { return total_; }

  template <typename Storage, int Width, int Count>
  SELM_HOST_DEVICE void operator()(const Packet<Storage, Width> (&packets)[Count],
                                   std::int64_t first, std::int64_t stride) {
    T values[Count][Width];
    T max = total_.max;
    SELM_UNROLL
    for (int u = 0; u < Count; ++u) {
      SELM_UNROLL
      for (int k = 0; k < Width; ++k) {
        values[u][k] = static_cast<T>(packets[u].values[k]);
      }
      with_index<Width>(excluded_ - (first + u * stride),
                        [&](int k) { values[u][k] = minus_infinity<T>; });
      SELM_UNROLL
      for (int k = 0; k < Width; ++k) {
        max = std::fmax(max, values[u][k]);  // passes over NaN, which the sum then shows
      }
    }
    if (max > total_.max) {
      total_ = merge(total_, LogSumExp<T>{max, T(0)}, transform_);
    }
    const T base = total_.max == minus_infinity<T> ? T(0) : total_.max;
    T sum = T(0);
    SELM_UNROLL
    for (int u = 0; u < Count; ++u) {
      SELM_UNROLL
      for (int k = 0; k < Width; ++k) {
        sum += std::exp2(in_bits_(values[u][k], base));
      }
    }
    total_.sum += sum;
  }

 private:
  static constexpr T log2_e = T(1.442695040888963407359924681002L);

  std::int64_t excluded_;
  LogitTransform<T> transform_;
  LogitTransform<T> in_bits_;  ///< exponents of 2: the hardware has no other exponential
  LogSumExp<T> total_;
};

/// Visitor that gathers statistics over every token.
template <typename T>
struct StatisticsSum {
  const TokenLogp<T>& row;
  const LogitTransform<T>& transform;
  RowStatistics<T> total;

  template <typename Storage, int Width, int Count>
  SELM_HOST_DEVICE void operator()(const Packet<Storage, Width> (&packets)[Count],
                                   std::int64_t first, std::int64_t stride) {
    SELM_UNROLL
    for (int u = 0; u < Count; ++u) {
      SELM_UNROLL
      for (int k = 0; k < Width; ++k) {
        total.add(static_cast<T>(packets[u].values[k]), first + u * stride + k, row, transform);
      }
    }
  }
};

/// Visitor that writes grad * d logp / d s to the place of each s in the row `out`, which may be
/// the row that it visits.
template <typename T, typename Storage>
struct GradientWriter {
  const TokenLogp<T>& row;
  const LogitTransform<T>& transform;
  std::int64_t target;
  T grad;
  Storage* out;

  template <int Width, int Count>
  SELM_HOST_DEVICE void operator()(const Packet<Storage, Width> (&packets)[Count],
                                   std::int64_t first, std::int64_t stride) const {
    SELM_UNROLL
    for (int u = 0; u < Count; ++u) {
      const std::int64_t begin = first + u * stride;
      Packet<Storage, Width> d;
      const auto set = [&](int k, auto derivative) {
        const T s = static_cast<T>(packets[u].values[k]);
        d.values[k] = static_cast<Storage>(grad * derivative(s, row, transform));
      };
      SELM_UNROLL
      for (int k = 0; k < Width; ++k) {
        set(k, token_logp_grad<T>);
      }
      with_index<Width>(target - begin, [&](int k) { set(k, target_logp_grad<T>); });
      store_packet(d, out + begin);
    }
  }
};

/// Writes `value` to a thread's share of a row.
template <typename Storage>
SELM_HOST_DEVICE void fill_row(Storage* row, const RowCut<Storage>& cut, RowThread thread,
                               Storage value) {
  constexpr int width = RowCut<Storage>::width;
  Packet<Storage, width> filled;
  SELM_UNROLL
  for (int k = 0; k < width; ++k) {
    filled.values[k] = value;
  }
  for (std::int64_t p = thread.index; p < cut.packets; p += thread.count) {
    store_packet(filled, row + cut.packet_begin(p));
  }
  SELM_ROLL
  for (std::int64_t i = thread.index; i < cut.singles(); i += thread.count) {
    row[cut.single(i)] = value;
  }
}

}  // namespace selm::cuda

#undef SELM_ROLL
#undef SELM_UNROLL
