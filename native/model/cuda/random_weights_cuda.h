// random_weights.h on the GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "model/random_weights.h"

namespace deftree {

// Enqueues dst[i] = value i of the tensor, i in [0, count); count is a multiple of 8 and dst of 16 bytes.
void fill_random(const RandomTensor& tensor, uint64_t count, __nv_bfloat16* dst, cudaStream_t stream);

}  // namespace deftree
