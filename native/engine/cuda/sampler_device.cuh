// The pieces of the sampling kernel that know one block or one token: weights, order keys, the team's barrier, sorting.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cuda/atomic>

#include "engine/cuda/sampler_params.h"

namespace deftree::sampler {

constexpr float kNegInf = -__builtin_huge_valf();

// A part of a distribution: how many tokens, and their weights' sum.
struct Tally {
  Mass mass;
  uint32_t count;
};
__device__ __forceinline__ Tally operator+(Tally a, Tally b) { return {a.mass + b.mass, a.count + b.count}; }

struct Best {
  float value;
  int32_t token;
};
struct BetterOf {
  __device__ __forceinline__ Best operator()(Best a, Best b) const {
    return b.value > a.value || (b.value == a.value && b.token < a.token) ? b : a;
  }
};

// How far down the order a prefix must reach: a number of tokens, or a mass.
struct Goal {
  Mass amount;  // at least 1, at most the whole's
  bool by_mass;
  __device__ __forceinline__ bool is_reached(Tally prefix) const {
    return (by_mass ? prefix.mass : static_cast<Mass>(prefix.count)) >= amount;
  }
};

// One exchange between the blocks of a team.
struct Round {
  uint32_t count[kBuckets];
  Mass mass[kBuckets];
  uint32_t list_len;  // of the tokens that were to be listed, also those that `list` had no place for
  Key list[kListLen];
};

// A team's memory outside its blocks. Rounds are used in turn: the one after the current is cleared while the current
// is filled. It was last read before the current one's predecessor was complete, so three are enough.
struct TeamScratch {
  uint32_t num_arrived, generation;
  Best best[2][kMaxTeam];  // of the raw and of the processed values, per block
  Mass mass[2][kMaxTeam];  // sums of the raw and of the processed distribution, per block
  Round rounds[3];
};

// All blocks of the team have come here, and what they wrote to global memory is visible to the team. Blocks that are
// no cluster must all be resident (a cooperative launch).
template <bool kClusters>
__device__ __forceinline__ void sync_team(TeamScratch& scratch, uint32_t team_size) {
  if constexpr (kClusters) {
#if __CUDA_ARCH__ >= 900
    cooperative_groups::this_cluster().sync();
#endif
  } else {
    __syncthreads();
    if (threadIdx.x == 0 && team_size > 1) {
      ::cuda::atomic_ref<uint32_t, ::cuda::thread_scope_device> arrived(scratch.num_arrived);
      ::cuda::atomic_ref<uint32_t, ::cuda::thread_scope_device> generation(scratch.generation);
      const uint32_t mine = generation.load(::cuda::memory_order_relaxed);
      if (arrived.fetch_add(1, ::cuda::memory_order_acq_rel) == team_size - 1) {
        arrived.store(0, ::cuda::memory_order_relaxed);
        generation.store(mine + 1, ::cuda::memory_order_release);
      } else {
        while (generation.load(::cuda::memory_order_acquire) == mine) {
        }
      }
    }
    __syncthreads();
  }
}

// exp(-x) for x >= 0, 0 above 87 and for NaN: the same operations as exp_minus in engine/sampler.cpp, none fused, so
// that the weights are the CPU's bit for bit where the CPU's code has no fused multiply-add either.
__device__ __forceinline__ float exp_minus(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const int32_t bits = __float_as_int(x) & 0x7fffffff;
  if (bits > __float_as_int(87.0f)) return 0.0f;
  const float clamped = -__int_as_float(bits);
  const float shifted = __fadd_rn(__fmul_rn(clamped, 1.44269504f), kRound);
  const float n = __fsub_rn(shifted, kRound);
  const float r = __fsub_rn(__fsub_rn(clamped, __fmul_rn(n, 0.693145752f)), __fmul_rn(n, 1.42860677e-6f));
  float p = 1.0f / 5040;
  p = __fadd_rn(__fmul_rn(p, r), 1.0f / 720);
  p = __fadd_rn(__fmul_rn(p, r), 1.0f / 120);
  p = __fadd_rn(__fmul_rn(p, r), 1.0f / 24);
  p = __fadd_rn(__fmul_rn(p, r), 1.0f / 6);
  p = __fadd_rn(__fmul_rn(p, r), 0.5f);
  p = __fadd_rn(__fmul_rn(p, r), 1.0f);
  p = __fadd_rn(__fmul_rn(p, r), 1.0f);
  return __int_as_float(__float_as_int(p) + ((__float_as_int(shifted) - __float_as_int(kRound)) << 23));
}

// weight(value) = exp((value - shift) * scale), and which histogram bucket the value is in: sixteenths of a nat below
// the largest, the last bucket without a lower end. Both fall with the value, so buckets are ranges of the order.
struct Softmax {
  float shift, scale, mass_scale;

  __device__ __forceinline__ float exponent(float value) const { return __fmul_rn(__fsub_rn(shift, value), scale); }
  __device__ __forceinline__ float weight(float value) const { return exp_minus(exponent(value)); }
  __device__ __forceinline__ Mass mass(float weight) const { return __float2ull_rz(weight * mass_scale); }
  __device__ __forceinline__ int bucket(float value) const {
    return min(__float2int_rz(exponent(value) * 16.0f), kBuckets - 1);
  }
};

// -0 counts as 0. -infinity has the largest value bits of all that are not NaN.
__device__ __forceinline__ uint32_t value_bits(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return (bits >> 31) != 0 ? bits : ~(bits | 0x80000000u);
}
__device__ __forceinline__ float value_of_bits(uint32_t bits) {
  return __uint_as_float((bits >> 31) != 0 ? bits : ~bits & 0x7fffffffu);
}
constexpr uint32_t kNegInfBits = 0xff800000u;

struct KeyFormat {
  int id_bits;
  __device__ __forceinline__ Key key(float value, int token) const {
    return static_cast<Key>(value_bits(value)) << id_bits | static_cast<Key>(token);
  }
  __device__ __forceinline__ float value(Key key) const { return value_of_bits(static_cast<uint32_t>(key >> id_bits)); }
  __device__ __forceinline__ int token(Key key) const { return static_cast<int>(key & ((Key{1} << id_bits) - 1)); }
  // Above the keys of all tokens that can be drawn.
  __device__ __forceinline__ Key end() const { return static_cast<Key>(kNegInfBits) << id_bits; }
  // The least key whose value is in `bucket` or a later one.
  __device__ __forceinline__ Key bucket_begin(const Softmax& softmax, int bucket) const {
    if (bucket >= kBuckets) return end();
    uint32_t low = value_bits(softmax.shift), high = kNegInfBits;
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      if (softmax.bucket(value_of_bits(middle)) >= bucket) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return static_cast<Key>(low) << id_bits;
  }
};

// The smallest i in [0, n) for which `holds`, which must stay true once it is; n if there is none.
template <class Holds>
__device__ __forceinline__ int first_index(int n, Holds holds) {
  int low = 0;
  while (low < n) {
    const int middle = (low + n) / 2;
    if (holds(middle)) {
      n = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// The least mass that is `top_p` of the whole.
__device__ __forceinline__ Mass mass_goal(float top_p, Mass whole) {
  const Mass goal = static_cast<Mass>(ceil(static_cast<double>(top_p) * static_cast<double>(whole)));
  return max(Mass{1}, min(goal, whole));
}
// The token drawn is the first whose prefix's mass is above this.
__device__ __forceinline__ Mass draw_target(double uniform, Mass whole) {
  return min(static_cast<Mass>(uniform * static_cast<double>(whole)), whole - 1);
}

__device__ __forceinline__ Mass warp_sum(Mass value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}
__device__ __forceinline__ Mass warp_inclusive_sum(Mass value, int lane) {
  for (int offset = 1; offset < 32; offset *= 2) {
    const Mass lower = __shfl_up_sync(~0u, value, offset);
    if (lane >= offset) value += lower;
  }
  return value;
}

// Sorts keys[0..n), n <= kListLen, ascending: a bitonic network (Batcher, 1968) over the next power of two, whose upper
// rest is filled with the largest key. Every thread of the block calls it; it begins and ends with a barrier.
__device__ __forceinline__ void sort_keys(Key* keys, int n) {
  int size = 2;
  while (size < n) size *= 2;
  for (int i = n + threadIdx.x; i < size; i += kThreads) keys[i] = ~Key{0};
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kThreads) {
        const int a = 2 * i - (i & (distance - 1));
        const int b = a + distance;
        const bool ascending = (a & run) == 0;
        const Key x = keys[a], y = keys[b];
        if ((x > y) == ascending) {
          keys[a] = y;
          keys[b] = x;
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace deftree::sampler
