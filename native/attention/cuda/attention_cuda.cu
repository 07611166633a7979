#include "attention/cuda/attention_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "attention/cuda/attend_mma.cuh"
#include "attention/cuda/attend_wgmma.cuh"
#include "attention/cuda/packed_append.h"
#include "common/error.h"
#include "cuda/launch.cuh"

namespace deftree::attention {
namespace {

// A kernel and how it is launched.
struct Kernel {
  void (*run)(Launch);
  int num_threads, shared_bytes;
  bool overlaps;  // starts while the kernel in front still runs
};

bool has_wgmma(int compute_capability) { return compute_capability == 90; }

template <int kHeadDim>
Kernel choose_kernel(int compute_capability) {
  if (has_wgmma(compute_capability))
    return {tree_attention_wgmma_kernel<kHeadDim>, kWgmmaThreads, sizeof(WgmmaShared<kHeadDim>), true};
  return {tree_attention_mma_kernel<kHeadDim>, kMmaThreads, mma_shared_bytes(kHeadDim), false};
}

Kernel choose_kernel(int head_dim, int compute_capability) {
  if (head_dim == 64) return choose_kernel<64>(compute_capability);
  if (head_dim == 128) return choose_kernel<128>(compute_capability);
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

int CudaDevice::num_bins() const { return num_processors * blocks_per_processor; }

CudaDevice query_cuda_device(int device_index, int head_dim) {
  cuda::check(cudaSetDevice(device_index), "cannot use the GPU");
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, device_index), "cannot read the GPU's properties");
  CudaDevice device;
  device.num_processors = properties.multiProcessorCount;
  device.compute_capability = properties.major * 10 + properties.minor;
  const Kernel kernel = choose_kernel(head_dim, device.compute_capability);
  cuda::check(cudaFuncSetAttribute(kernel.run, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.shared_bytes),
              "the GPU has too little shared memory for attention");
  cuda::check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&device.blocks_per_processor, kernel.run,
                                                            kernel.num_threads, kernel.shared_bytes),
              "cannot run the attention kernel on this GPU");
  return device;
}

PlanDevice cuda_plan_device(const CudaDevice& device) {
  PlanDevice plan{.num_processors = device.num_processors * device.blocks_per_processor,
                  .min_chunk_len = kTileLen,
                  .max_group_rows = kMmaMaxRows,
                  .chunk_align = kTilePages,
                  .read_cost = 128,
                  .state_cost = 64,
                  .lateness = 0};
  if (!has_wgmma(device.compute_capability)) return plan;
  plan.max_group_rows = kWgmmaMaxRows;
  plan.row_step = kPartRows;
  plan.read_cost = 160;
  plan.reads_ahead = true;
  plan.wide_tokens = 160;
  plan.enough_tasks = 4;
  return plan;
}

DevicePlan::DevicePlan(const AttentionShape& shape, const CudaDevice& device) : shape_(shape), device_(device) {
  choose_kernel(shape.head_dim, device.compute_capability);
  cuda::check(cudaEventCreateWithFlags(&uploaded_, cudaEventDisableTiming), "cannot create a CUDA event");
}

DevicePlan::~DevicePlan() { cudaEventDestroy(uploaded_); }

bool DevicePlan::reserve(size_t plan_bytes, int num_partials) {
  const size_t num_states = static_cast<size_t>(num_partials) * shape_.num_qo_heads;
  if (plan_bytes <= bytes_.size() && num_states <= partial_lse_.size()) return false;
  cuda::check(cudaEventSynchronize(uploaded_), "work on the GPU failed");
  // All or nothing: when memory runs out, graphs that name the old memory stay good.
  cuda::PinnedBuffer<std::byte> staging;
  cuda::DeviceBuffer<std::byte> bytes;
  cuda::DeviceBuffer<float> lse;
  cuda::DeviceBuffer<__half> o;
  const bool more_bytes = plan_bytes > bytes_.size(), more_states = num_states > partial_lse_.size();
  if (more_bytes) {
    staging = cuda::PinnedBuffer<std::byte>(plan_bytes);
    bytes = cuda::DeviceBuffer<std::byte>(plan_bytes);
  }
  if (more_states) {
    lse = cuda::DeviceBuffer<float>(num_states);
    o = cuda::DeviceBuffer<__half>(num_states * shape_.head_dim);
  }
  if (more_bytes) {
    staging_ = std::move(staging);
    bytes_ = std::move(bytes);
  }
  if (more_states) {
    partial_lse_ = std::move(lse);
    partial_o_ = std::move(o);
  }
  return true;
}

bool DevicePlan::upload(const Plan& plan, cudaStream_t stream) {
  pack_plan(plan, shape_, device_.num_bins(), packed_);
  const bool wide = has_wgmma(device_.compute_capability);
  const int part_rows = kPartRows / shape_.group_size() * shape_.group_size();
  const int max_rows = wide ? kWgmmaParts * part_rows : kMmaMaxRows;
  if (packed_.header().max_rows > max_rows)
    throw Error(ErrorCode::kBadArgument, "attention plan: a group of " + std::to_string(packed_.header().max_rows) +
                                             " rows; the kernels take " + std::to_string(max_rows));
  const bool moved = reserve(packed_.bytes.size(), plan.num_partials);
  num_states_ = static_cast<size_t>(plan.num_partials) * shape_.num_qo_heads;
  copy_to_device(stream);
  begin_step(stream);
  return moved;
}

std::optional<int64_t> DevicePlan::append(std::span<const AppendedToken> appended) {
  const std::optional<int64_t> more = append_to_packed_plan(packed_, appended);
  return more && packed_.bytes.size() <= bytes_.size() ? more : std::nullopt;
}

void DevicePlan::upload_appended(cudaStream_t stream) {
  copy_to_device(stream);
  begin_step(stream);
}

void DevicePlan::copy_to_device(cudaStream_t stream) {
  cuda::check(cudaEventSynchronize(uploaded_), "the copy of the attention plan failed");
  std::memcpy(staging_.data(), packed_.bytes.data(), packed_.bytes.size());
  cuda::check(cudaMemcpyAsync(bytes_.data(), staging_.data(), packed_.bytes.size(), cudaMemcpyHostToDevice, stream),
              "cannot copy the attention plan to the GPU");
  cuda::check(cudaEventRecord(uploaded_, stream), "cannot record a CUDA event");
}

void DevicePlan::begin_step(cudaStream_t stream) {
  launches_ = 0;
  if (num_states_ == 0) return;
  // All bits set: of the epoch before the first layer's.
  const size_t bytes = num_states_ * shape_.head_dim * sizeof(__half);
  cuda::check(cudaMemsetAsync(partial_lse_.data(), 0xff, num_states_ * sizeof(float), stream), "cannot clear states");
  cuda::check(cudaMemsetAsync(partial_o_.data(), 0xff, bytes, stream), "cannot clear states");
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
                      .q_stride = params.q_stride,
                      .num_qo_heads = shape.num_qo_heads,
                      .num_kv_heads = shape.num_kv_heads,
                      .group_size = shape.group_size(),
                      .scale_log2 = params.sm_scale * kLog2E,
                      .epoch = plan.launches_++ % 2};
  const Kernel kernel = choose_kernel(shape.head_dim, plan.device_.compute_capability);
  cuda::launch_chained(kernel.run, dim3(plan.device_.num_bins()), dim3(kernel.num_threads),
                       kernel.shared_bytes, stream, kernel.overlaps, "cannot launch attention", launch);
}

void append_kv(const AttentionShape& shape, const CudaKvLayer& kv, const __nv_bfloat16* k, const __nv_bfloat16* v,
               int stride, const int32_t* slots, int num_tokens, cudaStream_t stream) {
  choose_kernel(shape.head_dim, 0);
  if (num_tokens == 0) return;
  const auto kernel = shape.head_dim == 64 ? append_kv_kernel<64> : append_kv_kernel<128>;
  kernel<<<num_tokens, 128, 0, stream>>>(shape, kv, k, v, stride, slots);
  cuda::check_launch("cannot launch append_kv");
}

}  // namespace deftree::attention
