// What the attention kernels get, and the two things all of them do: find a plan's parts, and merge partial states.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "attention/cuda/packed_plan.h"
#include "cuda/ptx.cuh"

namespace deftree::attention {

struct Launch {
  const char* plan;  // PackedPlanHeader
  const __nv_bfloat16* q;
  __nv_bfloat16* out;
  const __nv_bfloat16* k;
  const __nv_bfloat16* v;
  float* partial_o;    // [num_partials, num_qo_heads, head_dim]
  float* partial_lse;  // [num_partials, num_qo_heads] base 2, of scores times scale_log2
  uint32_t* arrivals;  // [num_queries, num_kv_heads]
  int q_stride, num_qo_heads, num_kv_heads, group_size;
  float scale_log2;    // sm_scale * log2(e)
  uint32_t round;      // 1 for the first layer of a step: arrivals are counted over all layers
};

struct PlanView {
  const PackedPlanHeader* header;
  const char* base;

  __device__ explicit PlanView(const char* plan)
      : header(reinterpret_cast<const PackedPlanHeader*>(plan)), base(plan) {}
  __device__ const int32_t* bin_indptr() const { return at<int32_t>(header->bin_indptr); }
  __device__ const int32_t* bin_items() const { return at<int32_t>(header->bin_items); }
  __device__ const PackedItem* items() const { return at<PackedItem>(header->items); }
  __device__ const KvTile* tiles() const { return at<KvTile>(header->tiles); }
  __device__ const int32_t* group_queries() const { return at<int32_t>(header->group_queries); }
  __device__ const uint64_t* mask_words() const { return at<uint64_t>(header->mask_words); }
  __device__ const PackedMerge* merges() const { return at<PackedMerge>(header->merges); }
  __device__ const int32_t* merge_slots() const { return at<int32_t>(header->merge_slots); }

 private:
  template <class T>
  __device__ const T* at(uint32_t offset) const {
    return reinterpret_cast<const T*>(base + offset);
  }
};

// Counts the item's partial states as written. All threads of the block call it after their stores.
__device__ inline void publish_partials(const Launch& launch, const PlanView& plan, const PackedItem& item,
                                        int kv_head, int thread, int num_threads) {
  for (int i = thread; i < item.num_queries; i += num_threads) {
    const int query = plan.group_queries()[item.query_begin + i];
    __threadfence();
    cuda::add_release(launch.arrivals + query * launch.num_kv_heads + kv_head, 1);
  }
}

// One warp merges the states of one query head: O = sum 2^(lse_i - max) O_i / sum 2^(lse_i - max).
template <int kHeadDim>
__device__ inline void merge_states(const Launch& launch, const int32_t* slots, int num_slots, int head,
                                    __nv_bfloat16* out) {
  constexpr int kLaneDims = kHeadDim / 32;
  const int lane = threadIdx.x % 32;
  float sum = 0, max = -INFINITY;
  float o[kLaneDims] = {};
  for (int begin = 0; begin < num_slots; begin += 32) {
    const int count = min(32, num_slots - begin);
    const int slot = lane < count ? slots[begin + lane] : 0;
    const int row = slot * launch.num_qo_heads + head;
    const float lse = lane < count ? __ldcg(launch.partial_lse + row) : -INFINITY;
    float new_max = lse;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
      new_max = fmaxf(new_max, __shfl_xor_sync(0xffffffffu, new_max, offset));
    new_max = fmaxf(new_max, max);
    const float base = new_max == -INFINITY ? 0 : new_max;
    const float weight = cuda::exp2_approx(lse - base);
    const float old_weight = cuda::exp2_approx(max - base);
    max = new_max;
    float weights = weight;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) weights += __shfl_xor_sync(0xffffffffu, weights, offset);
    sum = sum * old_weight + weights;
#pragma unroll
    for (int d = 0; d < kLaneDims; ++d) o[d] *= old_weight;
#pragma unroll 8
    for (int i = 0; i < count; ++i) {
      const float w = __shfl_sync(0xffffffffu, weight, i);
      const int64_t from = static_cast<int64_t>(__shfl_sync(0xffffffffu, row, i)) * kHeadDim + lane * kLaneDims;
      if constexpr (kLaneDims == 4) {
        const float4 part = __ldcg(reinterpret_cast<const float4*>(launch.partial_o + from));
        o[0] += w * part.x;
        o[1] += w * part.y;
        o[2] += w * part.z;
        o[3] += w * part.w;
      } else {
        const float2 part = __ldcg(reinterpret_cast<const float2*>(launch.partial_o + from));
        o[0] += w * part.x;
        o[1] += w * part.y;
      }
    }
  }
  const float scale = sum > 0 ? 1 / sum : 0;
#pragma unroll
  for (int d = 0; d < kLaneDims; d += 2)
    *reinterpret_cast<uint32_t*>(out + lane * kLaneDims + d) = cuda::pack_bf16(o[d] * scale, o[d + 1] * scale);
}

// The merges of this block's bin, once the block has computed its items. Blocks wait here for blocks that are computing,
// never for one that waits, so they all come to an end as long as all are on the GPU.
template <int kHeadDim>
__device__ inline void merge_bin(const Launch& launch, const PlanView& plan, int bin, int kv_head, int warp,
                                 int num_warps) {
  const int num_bins = plan.header->num_bins, num_merges = plan.header->num_merges;
  for (int m = bin; m < num_merges; m += num_bins) {
    const PackedMerge merge = plan.merges()[m];
    const uint32_t* arrived = launch.arrivals + merge.query * launch.num_kv_heads + kv_head;
    const uint32_t wanted = static_cast<uint32_t>(merge.num_slots) * launch.round;
    while (cuda::load_acquire(arrived) < wanted) {
    }
    for (int g = warp; g < launch.group_size; g += num_warps) {
      const int head = kv_head * launch.group_size + g;
      merge_states<kHeadDim>(launch, plan.merge_slots() + merge.slot_begin, merge.num_slots, head,
                             launch.out + (static_cast<int64_t>(merge.query) * launch.num_qo_heads + head) * kHeadDim);
    }
  }
}

}  // namespace deftree::attention
