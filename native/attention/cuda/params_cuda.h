// What one attention call on a GPU reads and writes. Dimension names as in attention/params.h.
#pragma once

#include <cuda_bf16.h>

#include <cstddef>
#include <cstdint>

#include "attention/params.h"

#if defined(__CUDACC__)
#define DEFTREE_HOST_DEVICE __host__ __device__
#else
#define DEFTREE_HOST_DEVICE
#endif

namespace deftree::attention {

// A page is 16 slots; kernels take KV in tiles of 4 pages.
inline constexpr int kCudaPageSize = 16;
inline constexpr int kTilePages = 4;
inline constexpr int kTileLen = kTilePages * kCudaPageSize;

// One layer's KV pages: [num_pages, num_kv_heads, head_dim / 64, 16, 64] for both K and V. A row of 64 elements is 128
// bytes, and its eight 16-byte pieces stand at piece ^ (slot % 8): the order in which shared memory must hold a tile so
// that tensor cores read it without bank conflicts (the 128-byte swizzle of wgmma). Because memory holds it too, a tile
// arrives by plain copies of 2048 consecutive bytes.
struct CudaKvLayer {
  __nv_bfloat16* k;
  __nv_bfloat16* v;
};

// Element `dim` of `slot` of a page in K or V.
DEFTREE_HOST_DEVICE inline size_t cuda_kv_offset(const AttentionShape& shape, int32_t page, int kv_head, int slot,
                                                 int dim) {
  const size_t block = (static_cast<size_t>(page) * shape.num_kv_heads + kv_head) * (shape.head_dim / 64) + dim / 64;
  const int piece = (dim % 64 / 8) ^ (slot % 8);
  return block * kCudaPageSize * 64 + slot * 64 + piece * 8 + dim % 8;
}

struct CudaAttentionParams {
  AttentionShape shape;
  float sm_scale;
  const __nv_bfloat16* q;  // [num_queries, num_qo_heads, head_dim], query rows q_stride elements apart
  int q_stride;            // num_qo_heads * head_dim, or more when q is part of a wider matrix; a multiple of 8
  __nv_bfloat16* out;      // [num_queries, num_qo_heads, head_dim]
  CudaKvLayer kv;
};

}  // namespace deftree::attention
