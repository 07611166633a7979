// Owners of device memory and of page-locked host memory.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "cuda/check.h"

namespace deftree::cuda {

// `size` elements of T in device memory, not initialised.
template <class T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Throws kOutOfMemory with the figures wanted_bytes and free_bytes.
  explicit DeviceBuffer(size_t size) : size_(size) {
    if (size == 0) return;
    const cudaError_t status = cudaMalloc(reinterpret_cast<void**>(&data_), size * sizeof(T));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // the error is sticky until it is read
      size_t free_bytes = 0, total_bytes = 0;
      cudaMemGetInfo(&free_bytes, &total_bytes);
      throw Error(ErrorCode::kOutOfMemory,
                  "the GPU has no memory for " + std::to_string(size * sizeof(T)) + " bytes; " +
                      std::to_string(free_bytes) + " are free",
                  {{"wanted_bytes", static_cast<double>(size * sizeof(T))},
                   {"free_bytes", static_cast<double>(free_bytes)}});
    }
    check(status, "cannot allocate GPU memory");
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

// Page-locked host memory: what a copy to the device must come from to run beside the host.
template <class T>
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(size_t size) : size_(size) {
    if (size > 0)
      check(cudaMallocHost(reinterpret_cast<void**>(&data_), size * sizeof(T)), "cannot allocate page-locked memory");
  }
  ~PinnedBuffer() { cudaFreeHost(data_); }
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace deftree::cuda
