#include "cuda/check.h"
#include "cuda/ptx.cuh"
#include "model/cuda/random_weights_cuda.h"

namespace deftree {
namespace {

constexpr int kThreads = 256, kBlocks = 2048;

__global__ void fill_random_kernel(RandomTensor tensor, uint64_t count, __nv_bfloat16* dst) {
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x * 8;
  for (uint64_t i = (uint64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 8; i < count; i += step) {
    uint32_t pairs[4];
    for (int pair = 0; pair < 4; ++pair) {
      float value[2];
      for (int k = 0; k < 2; ++k) value[k] = tensor.offset + tensor.scale * random_code(tensor.seed, i + 2 * pair + k);
      pairs[pair] = cuda::pack_bf16(value[0], value[1]);
    }
    *reinterpret_cast<uint4*>(dst + i) = {pairs[0], pairs[1], pairs[2], pairs[3]};
  }
}

}  // namespace

void fill_random(const RandomTensor& tensor, uint64_t count, __nv_bfloat16* dst, cudaStream_t stream) {
  fill_random_kernel<<<kBlocks, kThreads, 0, stream>>>(tensor, count, dst);
  cuda::check_launch("cannot launch the making of random weights");
}

}  // namespace deftree
