#pragma once

#include <cmath>
#include <cstdint>

#include "selm/core/log_sum_exp.hpp"
#include "selm/core/row_statistics.hpp"
#include "selm/core/token_logp.hpp"
#include "selm/cuda/row_source.hpp"

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

/// Hands a thread's share of a row to `visit(packets, first, stride)`: value k of packets[u] is
/// number first + u * stride + k of the row. Several loads are in flight before the first value is
/// used. `source` is one of selm/cuda/row_source.hpp.
template <typename Source, typename Storage, typename Visit>
SELM_HOST_DEVICE void visit_row(const Source& source, const RowCut<Storage>& cut, RowThread thread,
                                Visit&& visit) {
  constexpr int width = RowCut<Storage>::width;
  constexpr int group = sizeof(Storage) == 2 ? 2 : 4;
  using Wide = Packet<Storage, width>;
  const auto load = [&](std::int64_t packet, int round) {
    return source.template load<width>(cut.packet_begin(packet), round);
  };
  const std::int64_t threads = thread.count;
  const std::int64_t stride = threads * width;
  std::int64_t packet = thread.index;
  int round = 0;
  for (; packet + (group - 1) * threads < cut.packets; packet += group * threads, round += group) {
    Wide packets[group];
    SELM_UNROLL
    for (int u = 0; u < group; ++u) {
      packets[u] = load(packet + u * threads, round + u);
    }
    SELM_UNROLL
    for (int u = 0; u < group; ++u) {
      source.keep(packets[u], round + u);
    }
    visit(packets, cut.packet_begin(packet), stride);
  }
  SELM_ROLL
  for (; packet < cut.packets; packet += threads, ++round) {
    const Wide packets[1] = {load(packet, round)};
    source.keep(packets[0], round);
    visit(packets, cut.packet_begin(packet), stride);
  }
  round = 0;
  SELM_ROLL
  for (std::int64_t i = thread.index; i < cut.singles(); i += thread.count, ++round) {
    const Packet<Storage, 1> packets[1] = {source.template load<1>(cut.single(i), round)};
    source.keep(packets[0], round);
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
/// the row that it visits. A `target` outside of the row is in none of its places.
template <typename T, typename Gradient>
struct GradientWriter {
  const TokenLogp<T>& row;
  const LogitTransform<T>& transform;
  std::int64_t target;
  T grad;
  Gradient* out;

  template <typename Storage, int Width, int Count>
  SELM_HOST_DEVICE void operator()(const Packet<Storage, Width> (&packets)[Count],
                                   std::int64_t first, std::int64_t stride) const {
    SELM_UNROLL
    for (int u = 0; u < Count; ++u) {
      const std::int64_t begin = first + u * stride;
      Packet<Gradient, Width> d;
      const auto set = [&](int k, auto derivative) {
        const T s = static_cast<T>(packets[u].values[k]);
        d.values[k] = static_cast<Gradient>(grad * derivative(s, row, transform));
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
