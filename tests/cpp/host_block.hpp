#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "selm/cuda/row_pass.hpp"

// A block of GPU threads played by threads of the host.

namespace selm::test {

using cuda::RowThread;

/// What the threads of one block share.
class Meeting {
 public:
  explicit Meeting(int threads) : threads_(threads), slots_(static_cast<std::size_t>(threads)) {}

  /// Waits for all threads.
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const unsigned round = round_;
    if (++arrived_ == threads_) {
      arrived_ = 0;
      ++round_;
      all_arrived_.notify_all();
    } else {
      all_arrived_.wait(lock, [&] { return round_ != round; });
    }
  }

  struct Slot {
    alignas(16) unsigned char bytes[64];
  };
  std::vector<Slot>& slots() { return slots_; }

 private:
  int threads_;
  std::vector<Slot> slots_;
  std::mutex mutex_;
  std::condition_variable all_arrived_;
  int arrived_ = 0;
  unsigned round_ = 0;
};

class HostBlock {
 public:
  HostBlock(Meeting& meeting, RowThread thread) : meeting_(meeting), thread_(thread) {}

  RowThread thread() const { return thread_; }

  /// CudaBlock::reduce: a tree over each warp of 32, then a tree over the warps.
  template <typename Value, typename Merge>
  Value reduce(const Value& value, const Merge& merge) const {
    static_assert(sizeof(Value) <= sizeof(Meeting::Slot));
    std::memcpy(&meeting_.slots()[static_cast<std::size_t>(thread_.index)], &value, sizeof(Value));
    meeting_.wait();
    std::vector<Value> warps;
    for (int first = 0; first < thread_.count; first += 32) {
      std::vector<Value> lanes(32);
      for (std::size_t lane = 0; lane < 32; ++lane) {
        std::memcpy(static_cast<void*>(&lanes[lane]),
                    &meeting_.slots()[static_cast<std::size_t>(first) + lane], sizeof(Value));
      }
      warps.push_back(tree(lanes, merge));
    }
    meeting_.wait();
    return tree(warps, merge);
  }

 private:
  template <typename Value, typename Merge>
  static Value tree(std::vector<Value> values, const Merge& merge) {
    for (std::size_t distance = values.size() / 2; distance > 0; distance /= 2) {
      for (std::size_t lane = 0; lane < distance; ++lane) {
        values[lane] = merge(values[lane], values[lane + distance]);
      }
    }
    return values[0];
  }

  Meeting& meeting_;
  RowThread thread_;
};

/// Runs `body(block)` in each thread of a block.
template <typename Body>
void run_block(int threads, const Body& body) {
  Meeting meeting(threads);
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&meeting, &body, i, threads] {
      body(HostBlock(meeting, RowThread{i, threads}));
    });
  }
  for (std::thread& thread : running) {
    thread.join();
  }
}

}  // namespace selm::test
