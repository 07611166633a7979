// Oracles on the GPU, key by key from the snapshot, for tests and benchmarks of trees that are too large for the CPU's.
#pragma once

#include "attention/cuda/params_cuda.h"
#include "cache/tree_snapshot.h"

namespace deftree::attention {

enum class ReferencePrecision {
  kF64,   // scores, softmax and sums in double precision, the output in float
  kBf16,  // what a fused kernel does in the storage type: scores in f32, weights rounded to bf16 before they meet V,
          // sums in f32, the output rounded to bf16
};

// out: [num_queries, num_qo_heads, head_dim] on the device; params.out is not used. Waits for the result.
void reference_dense(const CudaAttentionParams& params, const TreeSnapshot& tree, ReferencePrecision precision,
                     float* out);

// Normally distributed values, the same for the same seed. Waits for the result.
void fill_random(__nv_bfloat16* data, size_t size, uint32_t seed);

}  // namespace deftree::attention
