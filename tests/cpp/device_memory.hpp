#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "catch.hpp"

// Arrays on the device for tests, which skip with a message where there is none.

namespace selm::test {

inline bool has_device() {
  int count = 0;
  const bool found = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  cudaGetLastError();  // a failure must not be taken for a later call's
  return found;
}

#define SELM_SKIP_WITHOUT_DEVICE()            \
  if (!has_device()) {                        \
    WARN("skipped: there is no CUDA device"); \
    return;                                   \
  }                                           \
  static_assert(true)

inline void require(cudaError_t status) {
  if (status != cudaSuccess) {
    throw std::runtime_error(cudaGetErrorString(status));
  }
}

/// An array on the device.
template <typename T>
class Device {
 public:
  explicit Device(std::size_t size) : size_(size) {
    void* data = nullptr;
    require(cudaMalloc(&data, std::max<std::size_t>(size, 1) * sizeof(T)));
    data_ = static_cast<T*>(data);
  }
  explicit Device(const std::vector<T>& values) : Device(values.size()) {
    require(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() { cudaFree(data_); }

  T* get() const { return data_; }
  std::size_t size() const { return size_; }
  std::vector<T> copy() const {
    std::vector<T> values(size_);
    require(cudaDeviceSynchronize());
    require(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

}  // namespace selm::test
