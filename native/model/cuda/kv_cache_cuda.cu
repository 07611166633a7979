#include <algorithm>

#include "common/error.h"
#include "model/cuda/kv_cache_cuda.h"

namespace deftree {
namespace {

using attention::AttentionShape;
using attention::cuda_kv_offset;
using attention::kCudaPageSize;

constexpr int kMaxPairs = 8192;
constexpr int kThreads = 128;

// Block (pair, layer); a thread moves 16 bytes of K and of V at a time.
__global__ void copy_slots_kernel(AttentionShape shape, __nv_bfloat16* memory, size_t layer_values, const int2* pairs) {
  const int2 pair = pairs[blockIdx.x];
  __nv_bfloat16* k = memory + 2 * blockIdx.y * layer_values;
  __nv_bfloat16* v = k + layer_values;
  const int pieces = shape.head_dim / 8;
  for (int i = threadIdx.x; i < shape.num_kv_heads * pieces; i += blockDim.x) {
    const int head = i / pieces, dim = i % pieces * 8;
    const size_t from = cuda_kv_offset(shape, pair.x / kCudaPageSize, head, pair.x % kCudaPageSize, dim);
    const size_t to = cuda_kv_offset(shape, pair.y / kCudaPageSize, head, pair.y % kCudaPageSize, dim);
    *reinterpret_cast<uint4*>(k + to) = *reinterpret_cast<const uint4*>(k + from);
    *reinterpret_cast<uint4*>(v + to) = *reinterpret_cast<const uint4*>(v + from);
  }
}

}  // namespace

CudaKvCache::CudaKvCache(const AttentionShape& shape, int num_layers, int num_pages, int fill_byte)
    : shape_(shape),
      num_slots_(num_pages * kCudaPageSize),
      layer_values_(static_cast<size_t>(num_slots_) * shape.num_kv_heads * shape.head_dim),
      memory_(2 * num_layers * layer_values_),
      staging_(kMaxPairs),
      pairs_(kMaxPairs) {
  for (int i = 0; i < num_layers; ++i) {
    __nv_bfloat16* k = memory_.data() + 2 * i * layer_values_;
    layers_.push_back({.k = k, .v = k + layer_values_});
  }
  cuda::check(cudaMemset(memory_.data(), fill_byte, memory_.bytes()), "cannot clear the KV pages");
}

void CudaKvCache::copy_slots(std::span<const SlotCopy> copies, const cuda::Stream& stream) {
  for (const SlotCopy& copy : copies) {
    if (copy.len < 0 || copy.from_slot < 0 || copy.to_slot < 0 || copy.len > num_slots_ - copy.from_slot ||
        copy.len > num_slots_ - copy.to_slot) {
      throw Error(ErrorCode::kBadArgument, "copy_slots reaches past the pages");
    }
  }
  for (const SlotCopy& copy : copies) {
    for (int i = 0; i < copy.len; ++i) {
      staging_.data()[num_pairs_++] = {copy.from_slot + i, copy.to_slot + i};
      if (num_pairs_ == kMaxPairs) copy_pairs(stream);
    }
  }
  copy_pairs(stream);
}

// Waits, since the staging memory is used again; copies are rare beside steps.
void CudaKvCache::copy_pairs(const cuda::Stream& stream) {
  if (num_pairs_ == 0) return;
  cuda::check(
      cudaMemcpyAsync(pairs_.data(), staging_.data(), num_pairs_ * sizeof(int2), cudaMemcpyHostToDevice, stream.get()),
      "cannot copy slots to the GPU");
  const dim3 grid(num_pairs_, static_cast<unsigned>(layers_.size()));
  copy_slots_kernel<<<grid, kThreads, 0, stream.get()>>>(shape_, memory_.data(), layer_values_, pairs_.data());
  cuda::check_launch("cannot launch the copy of slots");
  num_pairs_ = 0;
  stream.synchronize();
}

}  // namespace deftree
