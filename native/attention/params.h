// What one attention call reads and writes. Dimensions, here and in the whole family:
//   num_queries   query tokens of the step, in snapshot order
//   num_qo_heads, num_kv_heads, group_size = num_qo_heads / num_kv_heads, head_dim (64 or 128)
//   LSE is the natural logarithm of the sum of exp(sm_scale * q.k); a query with no keys has LSE = -inf and O = 0.
#pragma once

#include <cstdint>

namespace deftree::attention {

enum class KvType : uint8_t { kF32, kF16, kBf16 };

struct AttentionShape {
  int num_qo_heads, num_kv_heads, head_dim, page_size;
  int group_size() const { return num_qo_heads / num_kv_heads; }
};

// One layer's KV pages on the CPU. K is stored transposed inside a page, so that one vector holds one dimension of
// consecutive keys and scores need no horizontal sum.
struct CpuKvLayer {
  void* k;  // [num_pages, num_kv_heads, head_dim, page_size] of KvType
  void* v;  // [num_pages, num_kv_heads, page_size, head_dim] of KvType
  KvType type;
};

struct CpuAttentionParams {
  AttentionShape shape;
  float sm_scale;
  const float* q;  // [num_queries, num_qo_heads, head_dim]
  float* out;      // [num_queries, num_qo_heads, head_dim]
  CpuKvLayer kv;
};

}  // namespace deftree::attention
