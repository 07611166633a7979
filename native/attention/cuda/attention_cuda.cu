#include "attention/cuda/attention_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "attention/cuda/attend_mma.cuh"
#include "common/error.h"

namespace deftree::attention {
namespace {

using Kernel = void (*)(Launch);

Kernel choose_kernel(int head_dim) {
  if (head_dim == 64) return tree_attention_mma_kernel<64>;
  if (head_dim == 128) return tree_attention_mma_kernel<128>;
  throw Error(ErrorCode::kBadArgument,
              "attention on the GPU has kernels for head_dim 64 and 128, not " + std::to_string(head_dim));
}

template <int kHeadDim>
__global__ void append_kv_kernel(AttentionShape shape, CudaKvLayer kv, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                 int stride, const int32_t* slots) {
  const int slot = slots[blockIdx.x];
  if (slot < 0) return;
  // A thread moves 16 bytes of K and of V.
  for (int i = threadIdx.x; i < shape.num_kv_heads * (kHeadDim / 8); i += blockDim.x) {
    const int64_t from = static_cast<int64_t>(blockIdx.x) * stride + i * 8;
    const size_t to = cuda_kv_offset(shape, slot / kCudaPageSize, i / (kHeadDim / 8), slot % kCudaPageSize,
                                     i % (kHeadDim / 8) * 8);
    *reinterpret_cast<uint4*>(kv.k + to) = *reinterpret_cast<const uint4*>(k + from);
    *reinterpret_cast<uint4*>(kv.v + to) = *reinterpret_cast<const uint4*>(v + from);
  }
}

bool same_shape(const AttentionShape& a, const AttentionShape& b) {
  return a.num_qo_heads == b.num_qo_heads && a.num_kv_heads == b.num_kv_heads && a.head_dim == b.head_dim &&
         a.page_size == b.page_size;
}

}  // namespace

int CudaDevice::num_bins(const AttentionShape& shape) const {
  return std::max(num_processors * blocks_per_processor / shape.num_kv_heads, 1);
}

CudaDevice query_cuda_device(int device_index, int head_dim) {
  cuda::check(cudaSetDevice(device_index), "cannot use the GPU");
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, device_index), "cannot read the GPU's properties");
  const Kernel kernel = choose_kernel(head_dim);
  const int shared_bytes = mma_shared_bytes(head_dim);
  cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
              "the GPU has too little shared memory for attention");
  CudaDevice device;
  device.num_processors = properties.multiProcessorCount;
  device.compute_capability = properties.major * 10 + properties.minor;
  cuda::check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&device.blocks_per_processor, kernel, kMmaThreads,
                                                            shared_bytes),
              "cannot run the attention kernel on this GPU");
  return device;
}

PlanDevice cuda_plan_device(const CudaDevice& device) {
  return {.num_processors = device.num_processors * device.blocks_per_processor,
          .min_chunk_len = kTileLen,
          .max_group_rows = kMmaMaxRows,
          .chunk_align = kTilePages,
          .read_cost = 128,
          .state_cost = 64,
          .lateness = 0};
}

DevicePlan::DevicePlan(const AttentionShape& shape, const CudaDevice& device) : shape_(shape), device_(device) {
  choose_kernel(shape.head_dim);
  cuda::check(cudaEventCreateWithFlags(&uploaded_, cudaEventDisableTiming), "cannot create a CUDA event");
}

DevicePlan::~DevicePlan() { cudaEventDestroy(uploaded_); }

bool DevicePlan::reserve(size_t plan_bytes, int num_queries, int num_partials) {
  const size_t num_arrivals = static_cast<size_t>(num_queries) * shape_.num_kv_heads;
  const size_t num_states = static_cast<size_t>(num_partials) * shape_.num_qo_heads;
  if (plan_bytes <= bytes_.size() && num_arrivals <= arrivals_.size() && num_states <= partial_lse_.size())
    return false;
  cuda::check(cudaEventSynchronize(uploaded_), "work on the GPU failed");
  if (plan_bytes > bytes_.size()) {
    staging_ = cuda::PinnedBuffer<std::byte>(plan_bytes);
    bytes_ = cuda::DeviceBuffer<std::byte>(plan_bytes);
  }
  if (num_arrivals > arrivals_.size()) arrivals_ = cuda::DeviceBuffer<uint32_t>(num_arrivals);
  if (num_states > partial_lse_.size()) {
    partial_lse_ = cuda::DeviceBuffer<float>(num_states);
    partial_o_ = cuda::DeviceBuffer<__half>(num_states * shape_.head_dim);
  }
  return true;
}

bool DevicePlan::upload(const Plan& plan, cudaStream_t stream) {
  pack_plan(plan, shape_, device_.num_bins(shape_), packed_);
  if (packed_.header().max_rows > kMmaMaxRows)
    throw Error(ErrorCode::kBadArgument, "attention plan: a group of " + std::to_string(packed_.header().max_rows) +
                                             " rows; the kernels take " + std::to_string(kMmaMaxRows));
  const bool moved = reserve(packed_.bytes.size(), plan.counters.num_queries, plan.num_partials);
  cuda::check(cudaEventSynchronize(uploaded_), "the copy of the attention plan failed");
  std::memcpy(staging_.data(), packed_.bytes.data(), packed_.bytes.size());
  cuda::check(cudaMemcpyAsync(bytes_.data(), staging_.data(), packed_.bytes.size(), cudaMemcpyHostToDevice, stream),
              "cannot copy the attention plan to the GPU");
  cuda::check(cudaEventRecord(uploaded_, stream), "cannot record a CUDA event");
  begin_step(stream);
  return moved;
}

void DevicePlan::begin_step(cudaStream_t stream) {
  launches_ = 0;
  if (arrivals_.size() == 0) return;
  cuda::check(cudaMemsetAsync(arrivals_.data(), 0, arrivals_.bytes(), stream), "cannot clear the attention counters");
}

void run(const CudaAttentionParams& params, DevicePlan& plan, cudaStream_t stream) {
  const AttentionShape& shape = params.shape;
  if (!same_shape(shape, plan.shape()))
    throw Error(ErrorCode::kBadArgument, "attention: the call's heads, head_dim or page_size are not the plan's");
  if (params.q_stride % 8 != 0)
    throw Error(ErrorCode::kBadArgument,
                "attention: q_stride " + std::to_string(params.q_stride) + " is no multiple of 8");
  constexpr float kLog2E = 1.4426950408889634f;
  const Launch launch{.plan = reinterpret_cast<const char*>(plan.bytes_.data()),
                      .q = params.q,
                      .out = params.out,
                      .k = params.kv.k,
                      .v = params.kv.v,
                      .partial_o = plan.partial_o_.data(),
                      .partial_lse = plan.partial_lse_.data(),
                      .arrivals = plan.arrivals_.data(),
                      .q_stride = params.q_stride,
                      .num_qo_heads = shape.num_qo_heads,
                      .num_kv_heads = shape.num_kv_heads,
                      .group_size = shape.group_size(),
                      .scale_log2 = params.sm_scale * kLog2E,
                      .round = ++plan.launches_};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(plan.device_.num_bins(shape) * shape.num_kv_heads);
  config.blockDim = dim3(kMmaThreads);
  config.dynamicSmemBytes = mma_shared_bytes(shape.head_dim);
  config.stream = stream;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = plan.device_.compute_capability >= 90 ? 1 : 0;
  cuda::check(cudaLaunchKernelEx(&config, choose_kernel(shape.head_dim), launch), "cannot launch attention");
}

void append_kv(const AttentionShape& shape, const CudaKvLayer& kv, const __nv_bfloat16* k, const __nv_bfloat16* v,
               int stride, const int32_t* slots, int num_tokens, cudaStream_t stream) {
  choose_kernel(shape.head_dim);
  if (num_tokens == 0) return;
  const auto kernel = shape.head_dim == 64 ? append_kv_kernel<64> : append_kv_kernel<128>;
  kernel<<<num_tokens, 128, 0, stream>>>(shape, kv, k, v, stride, slots);
  cuda::check_launch("cannot launch append_kv");
}

}  // namespace deftree::attention
