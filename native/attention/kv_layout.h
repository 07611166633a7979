// Where an element of K and V lies inside a layer (see CpuKvLayer), for code that goes element by element.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/half.h"
#include "attention/params.h"

namespace deftree::attention {

// First element of a page's head: K [head_dim, page_size] or V [page_size, head_dim] follow.
inline size_t page_offset(const AttentionShape& shape, int32_t page, int kv_head) {
  return (static_cast<size_t>(page) * shape.num_kv_heads + kv_head) * shape.head_dim * shape.page_size;
}
inline size_t k_offset(const AttentionShape& shape, int32_t page, int kv_head, int slot, int dim) {
  return page_offset(shape, page, kv_head) + static_cast<size_t>(dim) * shape.page_size + slot;
}
inline size_t v_offset(const AttentionShape& shape, int32_t page, int kv_head, int slot, int dim) {
  return page_offset(shape, page, kv_head) + static_cast<size_t>(slot) * shape.head_dim + dim;
}

inline float load_element(const void* base, KvType type, size_t offset) {
  return type == KvType::kF16 ? half_to_float(static_cast<const uint16_t*>(base)[offset])
                              : static_cast<const float*>(base)[offset];
}

}  // namespace deftree::attention
