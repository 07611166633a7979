// The KV pages of all layers in GPU memory.
#pragma once

#include <cuda_bf16.h>
#include <vector_types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "attention/cuda/params_cuda.h"
#include "cache/tree_cache.h"
#include "cuda/buffer.h"
#include "cuda/stream.h"

namespace deftree {

class CudaKvCache {
 public:
  // `fill_byte` is what every byte begins as; 0xff makes NaN. Throws kOutOfMemory.
  CudaKvCache(const attention::AttentionShape& shape, int num_layers, int num_pages, int fill_byte);

  const attention::AttentionShape& shape() const { return shape_; }
  std::span<const attention::CudaKvLayer> layers() const { return layers_; }
  uint64_t bytes() const { return memory_.bytes(); }

  // Copies K and V of slots in all layers as work of `stream`. No copy may read what another one of the call writes.
  // Throws kBadArgument for slots past the pages.
  void copy_slots(std::span<const SlotCopy> copies, const cuda::Stream& stream);

 private:
  void copy_pairs(const cuda::Stream& stream);

  attention::AttentionShape shape_;
  int num_slots_;
  size_t layer_values_;                         // of K, and of V, of one layer
  cuda::DeviceBuffer<__nv_bfloat16> memory_;    // [num_layers, 2 (K, V), layer_values_]
  std::vector<attention::CudaKvLayer> layers_;  // [num_layers]
  cuda::PinnedBuffer<int2> staging_;            // [kMaxPairs] from, to
  cuda::DeviceBuffer<int2> pairs_;              // [kMaxPairs]
  int num_pairs_ = 0;                           // in staging_
};

}  // namespace deftree
