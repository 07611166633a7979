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
  int q_stride, num_qo_heads, num_kv_heads, group_size;
  float scale_log2;    // sm_scale * log2(e)
  uint32_t epoch;      // 0 or 1, not that of the layer before
};

// A partial state is a mean of values of V, so half precision holds it four times finer than the bf16 of the output,
// at half the traffic of floats, which for short steps with many queries exceeds that of K and V. Its dims stand in the
// order in which a thread holds them after a matrix product: pair i of a row is dims partial_dim(i), + 1.
//
__device__ constexpr int partial_dim(int pair) { return (pair / 16 * 4 + pair % 4) * 8 + pair / 4 % 4 * 2; }

// The lowest bit of each 4-byte word of a state is the epoch of the layer that wrote it. Who merges a state looks at
// the data itself until all of it is of this layer (as NCCL's LL protocol does): no counter, no fence, one trip through
// L2.
__device__ __forceinline__ uint32_t stamp(uint32_t word, uint32_t epoch) { return (word & ~1u) | epoch; }

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

// Writes this thread's share of a row's result, to the output or as a partial state. in_group: the query's place in the
// item's group; lse in base 2; pair(n): what the thread holds of dims [8 n, 8 n + 8), not yet times `scale`.
template <int kHeadDim, class Pair>
__device__ __forceinline__ void write_row(const Launch& launch, const PackedItem& item, int in_group, int query,
                                          int head, float lse, float scale, Pair pair) {
  const int lane = threadIdx.x % 32;
  if (item.partial_begin < 0) {
    __nv_bfloat16* out = launch.out + (static_cast<int64_t>(query) * launch.num_qo_heads + head) * kHeadDim;
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      const float2 o = pair(n);
      *reinterpret_cast<uint32_t*>(out + n * 8 + lane % 4 * 2) = cuda::pack_bf16(o.x * scale, o.y * scale);
    }
    return;
  }
  const int64_t row = static_cast<int64_t>(item.partial_begin + in_group) * launch.num_qo_heads + head;
  __half* to = launch.partial_o + row * kHeadDim + lane % 4 * 8;
#pragma unroll
  for (int n = 0; n < kHeadDim / 8; n += 4) {
    uint32_t halves[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 o = pair(n + j);
      const __half2 rounded = __floats2half2_rn(o.x * scale, o.y * scale);
      halves[j] = stamp(*reinterpret_cast<const uint32_t*>(&rounded), launch.epoch);
    }
    cuda::store_relaxed_16(to + n * 8, make_uint4(halves[0], halves[1], halves[2], halves[3]));
  }
  constexpr float kLowest = -3e38f;  // for -inf, which stamped would be NaN
  if (lane % 4 == 0)
    cuda::store_relaxed(launch.partial_lse + row, stamp(__float_as_uint(fmaxf(lse, kLowest)), launch.epoch));
}

// Merges what falls to this block of the (query, KV head) pairs: O = sum 2^(lse_i - max) O_i / sum 2^(lse_i - max). The
// block's first num_threads call run() once they have computed the block's items. They wait for blocks that are
// computing, never for one that waits, so all come to an end as long as all are on the GPU.
//
// A thread takes 16 bytes of a row (one query head of a query), and its rows' states kBatch at a time: it asks for a
// batch before it adds the one before.
template <int kHeadDim>
class Merger {
  static constexpr int kRowThreads = kHeadDim / 8, kBatch = PackedMerge::kFirstSlots;

  struct Row {
    PackedMerge merge;
    int head;
  };
  struct Batch {
    int count;
    int at[kBatch];  // state and query head
    uint32_t lse[kBatch];
    uint4 part[kBatch];
  };
  struct Sum {
    float o[8] = {};
    float weight = 0, max = -INFINITY;
  };

 public:
  // Reads the plan only: plans do not change while a kernel runs.
  __device__ Merger(const Launch& launch, const PlanView& plan, int bin, int num_threads)
      : launch_(launch),
        plan_(plan),
        bin_(bin),
        stride_(num_threads / kRowThreads),
        num_bins_(plan.header->num_bins),
        num_pairs_(plan.header->num_merges * launch.num_kv_heads) {
    for (int r = first_row(); has_row(r) && r < 2 * stride_; r += stride_) cuda::prefetch_l1(merge_of(r));
  }

  __device__ void run() const {
    int r = first_row();
    if (!has_row(r)) return;
    Row row = read_row(r), next_row{};
    if (has_row(r + stride_)) next_row = read_row(r + stride_);
    Batch batch, next_batch;
    next_batch.count = 0;
    load(row, 0, batch);
    Sum sum;
    for (int begin = 0;;) {
      const bool ends_row = begin + kBatch >= row.merge.num_slots;
      const bool ends = ends_row && !has_row(r + stride_);
      Row row_after{};
      if (ends_row && has_row(r + 2 * stride_)) row_after = read_row(r + 2 * stride_);
      if (!ends_row) load(row, begin + kBatch, next_batch);
      else if (!ends) load(next_row, 0, next_batch);
      else next_batch.count = 0;
      wait_until_written(batch, next_batch);
      add(batch, sum);
      batch = next_batch;
      begin += kBatch;
      if (!ends_row) continue;
      write(row, sum);
      if (ends) return;
      r += stride_;
      row = next_row;
      next_row = row_after;
      sum = {};
      begin = 0;
    }
  }

 private:
  __device__ int first_row() const { return threadIdx.x / kRowThreads; }
  __device__ int pair_of(int r) const { return bin_ + r / launch_.group_size * num_bins_; }
  __device__ bool has_row(int r) const { return pair_of(r) < num_pairs_; }
  __device__ const PackedMerge* merge_of(int r) const { return plan_.merges() + pair_of(r) / launch_.num_kv_heads; }
  __device__ Row read_row(int r) const {
    return {*merge_of(r), pair_of(r) % launch_.num_kv_heads * launch_.group_size + r % launch_.group_size};
  }

  __device__ void load_lse(Batch& batch, int i) const {
    batch.lse[i] = cuda::load_relaxed(launch_.partial_lse + batch.at[i]);
  }
  __device__ void load_part(Batch& batch, int i) const {
    const int64_t from = static_cast<int64_t>(batch.at[i]) * kHeadDim + threadIdx.x % kRowThreads * 8;
    batch.part[i] = cuda::load_relaxed_16(launch_.partial_o + from);
  }
  __device__ bool is_written(uint32_t word) const { return (word & 1) == launch_.epoch; }
  __device__ bool is_written(const uint4& words) const {
    return is_written(words.x) && is_written(words.y) && is_written(words.z) && is_written(words.w);
  }

  // States [begin, begin + kBatch) of the row, written or not.
  __device__ void load(const Row& row, int begin, Batch& batch) const {
    batch.count = min(kBatch, row.merge.num_slots - begin);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (i >= batch.count) break;
      const int slot =
          begin == 0 ? row.merge.first_slots[i] : __ldg(plan_.merge_slots() + row.merge.slot_begin + begin + i);
      batch.at[i] = slot * launch_.num_qo_heads + row.head;
      load_lse(batch, i);
      load_part(batch, i);
    }
  }

  // Asks again for what was not written, for all of both batches at once: one trip through L2 after the other would
  // take longer than the states themselves. While any LSE is missing it asks for nothing else, and leaves L2 to those
  // who compute.
  __device__ void wait_until_written(Batch& batch, Batch& next_batch) const {
    while (ask_again_for_lse(batch) | ask_again_for_lse(next_batch)) {}
    while (ask_again_for_part(batch) | ask_again_for_part(next_batch)) {}
  }
  __device__ bool ask_again_for_lse(Batch& batch) const {
    bool missing = false;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (i >= batch.count || is_written(batch.lse[i])) continue;
      load_lse(batch, i);
      missing = true;
    }
    return missing;
  }
  __device__ bool ask_again_for_part(Batch& batch) const {
    bool missing = false;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (i >= batch.count || is_written(batch.part[i])) continue;
      load_part(batch, i);
      missing = true;
    }
    return missing;
  }

  __device__ void add(const Batch& batch, Sum& sum) const {
    float max = sum.max;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (i < batch.count) max = fmaxf(max, __uint_as_float(batch.lse[i]));
    }
    const float old_weight = sum.max == -INFINITY ? 0 : cuda::exp2_approx(sum.max - max);
    sum.max = max;
    sum.weight *= old_weight;
#pragma unroll
    for (float& x : sum.o) x *= old_weight;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (i >= batch.count) break;
      const float weight = cuda::exp2_approx(__uint_as_float(batch.lse[i]) - max);
      sum.weight += weight;
      const uint32_t words[4] = {batch.part[i].x, batch.part[i].y, batch.part[i].z, batch.part[i].w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float2 values = __half22float2(*reinterpret_cast<const __half2*>(&words[w]));
        sum.o[2 * w] += weight * values.x;
        sum.o[2 * w + 1] += weight * values.y;
      }
    }
  }

  __device__ void write(const Row& row, const Sum& sum) const {
    const float scale = sum.weight > 0 ? 1 / sum.weight : 0;
    const int piece = threadIdx.x % kRowThreads;
    const int64_t out_row = static_cast<int64_t>(row.merge.query) * launch_.num_qo_heads + row.head;
    __nv_bfloat16* out = launch_.out + out_row * kHeadDim;
#pragma unroll
    for (int w = 0; w < 4; ++w)
      *reinterpret_cast<uint32_t*>(out + partial_dim(piece * 4 + w)) =
          cuda::pack_bf16(sum.o[2 * w] * scale, sum.o[2 * w + 1] * scale);
  }

  const Launch& launch_;
  const PlanView& plan_;
  const int bin_, stride_, num_bins_, num_pairs_;
};

}  // namespace deftree::attention
