#include "attention/cuda/reference_cuda.h"

#include <algorithm>
#include <vector>

#include "attention/cuda/attention_cuda.h"
#include "cuda/buffer.h"

namespace deftree::attention {
namespace {

constexpr int kThreads = 128;

template <class T>
cuda::DeviceBuffer<T> to_device(const std::vector<T>& values) {
  cuda::DeviceBuffer<T> buffer(values.size());
  if (!values.empty())
    cuda::check(cudaMemcpy(buffer.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
                "cannot copy to the GPU");
  return buffer;
}

// The keys of each query as slots: [key_indptr[q], key_indptr[q + 1]) of key_slots.
struct Keys {
  std::vector<int64_t> indptr = {0};
  std::vector<int32_t> slots;
};

Keys list_keys(const TreeSnapshot& tree) {
  Keys keys;
  for (int node = 0; node < tree.num_nodes(); ++node) {
    for (int q = tree.query_indptr[node]; q < tree.query_indptr[node + 1]; ++q) {
      const int own = q - tree.query_indptr[node];
      for (int above = node; above >= 0; above = tree.parent[above]) {
        int token = 0;
        for (int s = tree.span_indptr[above]; s < tree.span_indptr[above + 1]; ++s) {
          for (int slot = tree.spans[s].begin; slot < tree.spans[s].end; ++slot, ++token) {
            bool visible = above != node || tree.mask[node] == NodeMask::kNone;
            if (!visible && tree.mask[node] == NodeMask::kCausal) visible = token <= own;
            if (!visible && tree.mask[node] == NodeMask::kTree) {
              int up = own;
              while (up > token) up = tree.tree_parent[tree.tree_parent_indptr[node] + up];
              visible = up == token;
            }
            if (visible) keys.slots.push_back(tree.spans[s].page * tree.page_size + slot);
          }
        }
      }
      keys.indptr.push_back(static_cast<int64_t>(keys.slots.size()));
    }
  }
  return keys;
}

template <class T>
__device__ T block_reduce(T value, bool max, T* shared) {
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int offset = kThreads / 2; offset > 0; offset /= 2) {
    if (threadIdx.x < offset) {
      const T other = shared[threadIdx.x + offset];
      shared[threadIdx.x] = max ? (shared[threadIdx.x] > other ? shared[threadIdx.x] : other) : shared[threadIdx.x] + other;
    }
    __syncthreads();
  }
  const T result = shared[0];
  __syncthreads();
  return result;
}

// A block per (query, query head). scores: [blocks of the launch, max_keys]
template <class T, bool kRound>
__global__ void reference_kernel(CudaAttentionParams params, const int64_t* key_indptr, const int32_t* key_slots,
                                 T* scores, int64_t max_keys, int64_t first_row, float* out) {
  __shared__ T shared[kThreads];
  const int64_t row = first_row + blockIdx.x;
  const AttentionShape shape = params.shape;
  const int query = static_cast<int>(row / shape.num_qo_heads), head = static_cast<int>(row % shape.num_qo_heads);
  const int kv_head = head / (shape.num_qo_heads / shape.num_kv_heads);
  const __nv_bfloat16* q = params.q + static_cast<int64_t>(query) * params.q_stride + head * shape.head_dim;
  const int32_t* slots = key_slots + key_indptr[query];
  const int64_t num_keys = key_indptr[query + 1] - key_indptr[query];
  T* score = scores + blockIdx.x * max_keys;

  T max = -INFINITY;
  for (int64_t i = threadIdx.x; i < num_keys; i += kThreads) {
    T sum = 0;
    for (int d = 0; d < shape.head_dim; ++d) {
      const size_t at = cuda_kv_offset(shape, slots[i] / kCudaPageSize, kv_head, slots[i] % kCudaPageSize, d);
      sum += static_cast<T>(__bfloat162float(q[d])) * static_cast<T>(__bfloat162float(params.kv.k[at]));
    }
    score[i] = sum * static_cast<T>(params.sm_scale);
    if (score[i] > max) max = score[i];
  }
  max = block_reduce<T>(max, true, shared);
  T weights = 0;
  for (int64_t i = threadIdx.x; i < num_keys; i += kThreads) {
    T weight;
    if constexpr (kRound) weight = expf(score[i] - max);
    else weight = exp(score[i] - max);
    weights += weight;
    score[i] = kRound ? static_cast<T>(__bfloat162float(__float2bfloat16(static_cast<float>(weight)))) : weight;
  }
  weights = block_reduce<T>(weights, false, shared);
  for (int d = threadIdx.x; d < shape.head_dim; d += kThreads) {
    T sum = 0;
    for (int64_t i = 0; i < num_keys; ++i) {
      const size_t at = cuda_kv_offset(shape, slots[i] / kCudaPageSize, kv_head, slots[i] % kCudaPageSize, d);
      sum += score[i] * static_cast<T>(__bfloat162float(params.kv.v[at]));
    }
    const float o = num_keys == 0 ? 0.0f : static_cast<float>(sum / weights);
    out[row * shape.head_dim + d] = kRound ? __bfloat162float(__float2bfloat16(o)) : o;
  }
}

__device__ uint32_t mix(uint32_t x) {  // the finaliser of MurmurHash3
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  return x ^ (x >> 16);
}

__global__ void fill_random_kernel(__nv_bfloat16* data, size_t size, uint32_t seed) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) {
    const uint32_t a = mix(static_cast<uint32_t>(i) ^ mix(seed + static_cast<uint32_t>(i >> 32))), b = mix(a + 0x9e3779b9u);
    const float radius = sqrtf(-2 * __logf((a + 1.0f) * 0x1p-32f));
    data[i] = __float2bfloat16(radius * __cosf(6.2831853f * b * 0x1p-32f));
  }
}

}  // namespace

void fill_random(__nv_bfloat16* data, size_t size, uint32_t seed) {
  if (size == 0) return;
  fill_random_kernel<<<1056, 256>>>(data, size, seed);
  cuda::check_launch("cannot launch fill_random");
  cuda::check(cudaDeviceSynchronize(), "fill_random failed");
}

void reference_dense(const CudaAttentionParams& params, const TreeSnapshot& tree, ReferencePrecision precision,
                     float* out) {
  const Keys keys = list_keys(tree);
  const cuda::DeviceBuffer<int64_t> indptr = to_device(keys.indptr);
  const cuda::DeviceBuffer<int32_t> slots = to_device(keys.slots);
  int64_t max_keys = 1;
  for (size_t q = 0; q + 1 < keys.indptr.size(); ++q)
    max_keys = std::max(max_keys, keys.indptr[q + 1] - keys.indptr[q]);
  const int64_t num_rows = static_cast<int64_t>(tree.num_queries()) * params.shape.num_qo_heads;
  constexpr int64_t kRowsPerLaunch = 4096;
  cuda::DeviceBuffer<double> scores(static_cast<size_t>(kRowsPerLaunch * max_keys));
  for (int64_t row = 0; row < num_rows; row += kRowsPerLaunch) {
    const unsigned blocks = static_cast<unsigned>(std::min(kRowsPerLaunch, num_rows - row));
    if (precision == ReferencePrecision::kF64)
      reference_kernel<double, false>
          <<<blocks, kThreads>>>(params, indptr.data(), slots.data(), scores.data(), max_keys, row, out);
    else
      reference_kernel<float, true><<<blocks, kThreads>>>(params, indptr.data(), slots.data(),
                                                          reinterpret_cast<float*>(scores.data()), max_keys, row, out);
    cuda::check_launch("cannot launch the reference");
  }
  cuda::check(cudaDeviceSynchronize(), "the reference failed");
}

}  // namespace deftree::attention
