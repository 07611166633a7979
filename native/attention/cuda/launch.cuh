// What the attention kernels get, and the two things all of them do: find a plan's parts, and merge partial states.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

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
  __half* partial_o;   // [num_partials, num_qo_heads, head_dim], a row in the order of partial_dim
  float* partial_lse;  // [num_partials, num_qo_heads] base 2, of scores times scale_log2
  uint32_t* arrivals;  // [num_queries, num_kv_heads]
  int q_stride, num_qo_heads, num_kv_heads, group_size;
  float scale_log2;    // sm_scale * log2(e)
  uint32_t round;      // 1 for the first layer of a step: arrivals are counted over all layers
};

// A partial state is a mean of values of V, so half precision holds it four times finer than the bf16 of the output,
// at half the traffic of floats, which for short steps with many queries exceeds that of K and V. Its dims stand in the
// order in which a thread holds them after a matrix product: pair i of a row is dims partial_dim(i), + 1.
__device__ constexpr int partial_dim(int pair) { return (pair / 16 * 4 + pair % 4) * 8 + pair / 4 % 4 * 2; }

struct PlanView {
  const PackedPlanHeader* header;
  const char* base;

  __device__ explicit PlanView(const char* plan)
      : header(reinterpret_cast<const PackedPlanHeader*>(plan)), base(plan) {}
  __device__ const PackedBin* bins() const { return at<PackedBin>(sizeof(PackedPlanHeader)); }
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
    cuda::add_release(launch.arrivals + query * launch.num_kv_heads + kv_head, 1);
  }
}

// One warp merges the states of one query head: O = sum 2^(lse_i - max) O_i / sum 2^(lse_i - max). The first states are
// asked for together with their LSEs. slot: of this lane among the first 32.
template <int kHeadDim>
__device__ inline void merge_states(const Launch& launch, const int32_t* slots, int num_slots, int slot, int head,
                                    __nv_bfloat16* out) {
  constexpr int kLaneDims = kHeadDim / 32, kLoads = 16;
  uint2 parts[kLoads];  // kLaneDims halves
  const int lane = threadIdx.x % 32;
  float sum = 0, max = -INFINITY;
  float o[kLaneDims] = {};
  for (int begin = 0; begin < num_slots; begin += 32) {
    const int count = min(32, num_slots - begin);
    if (begin > 0) slot = lane < count ? slots[begin + lane] : 0;
    const int row = slot * launch.num_qo_heads + head;
    const float lse = lane < count ? __ldcg(launch.partial_lse + row) : -INFINITY;
    auto load_parts = [&](int first) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int64_t from =
            static_cast<int64_t>(__shfl_sync(0xffffffffu, row, (first + i) % 32)) * kHeadDim + lane * kLaneDims;
        parts[i] = {};
        if (first + i >= count) continue;
        if constexpr (kLaneDims == 4) parts[i] = __ldcg(reinterpret_cast<const uint2*>(launch.partial_o + from));
        else parts[i].x = __ldcg(reinterpret_cast<const uint32_t*>(launch.partial_o + from));
      }
    };
    if (begin == 0) load_parts(0);
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
    for (int first = 0; first < count; first += kLoads) {
      if (first > 0 || begin > 0) load_parts(first);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const float w = __shfl_sync(0xffffffffu, weight, first + i);
        const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&parts[i].x));
        o[0] += w * low.x;
        o[1] += w * low.y;
        if constexpr (kLaneDims == 4) {
          const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&parts[i].y));
          o[2] += w * high.x;
          o[3] += w * high.y;
        }
      }
    }
  }
  const float scale = sum > 0 ? 1 / sum : 0;
#pragma unroll
  for (int d = 0; d < kLaneDims; d += 2)
    *reinterpret_cast<uint32_t*>(out + partial_dim((lane * kLaneDims + d) / 2)) =
        cuda::pack_bf16(o[d] * scale, o[d + 1] * scale);
}

// A merge and, in each lane, one of its first 32 slots. Plans do not change while a kernel runs, so the first is read
// before there is anything to merge.
struct NextMerge {
  PackedMerge merge{};
  int slot = 0;

  __device__ void load(const PlanView& plan, int m) {
    if (m >= plan.header->num_merges) return;
    merge = plan.merges()[m];
    const int lane = threadIdx.x % 32;
    slot = lane < merge.num_slots ? plan.merge_slots()[merge.slot_begin + lane] : 0;
  }
};

// The merges of this block's bin, once the block has computed its items. Blocks wait here for blocks that are computing,
// never for one that waits, so they all come to an end as long as all are on the GPU.
template <int kHeadDim>
__device__ inline void merge_bin(const Launch& launch, const PlanView& plan, NextMerge& next, int bin, int kv_head,
                                 int warp, int num_warps) {
  const int num_merges = plan.header->num_merges, num_bins = plan.header->num_bins;
  // One thread waits for one query, so that a block with many of them waits once.
  for (int m = bin + threadIdx.x * num_bins; m < num_merges; m += num_warps * 32 * num_bins) {
    const PackedMerge merge = m == bin ? next.merge : plan.merges()[m];
    const uint32_t* arrived = launch.arrivals + merge.query * launch.num_kv_heads + kv_head;
    const uint32_t wanted = static_cast<uint32_t>(merge.num_slots) * launch.round;
    while (cuda::load_acquire(arrived) < wanted) {
    }
  }
  __syncthreads();
  for (int m = bin; m < num_merges; m += num_bins) {
    const PackedMerge merge = next.merge;
    const int slot = next.slot;
    next.load(plan, m + num_bins);
    for (int g = warp; g < launch.group_size; g += num_warps) {
      const int head = kv_head * launch.group_size + g;
      merge_states<kHeadDim>(launch, plan.merge_slots() + merge.slot_begin, merge.num_slots, slot, head,
                             launch.out + (static_cast<int64_t>(merge.query) * launch.num_qo_heads + head) * kHeadDim);
    }
  }
}

}  // namespace deftree::attention
