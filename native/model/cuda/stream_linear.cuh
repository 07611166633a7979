// The streaming kernel: two producer warps fill a ring in shared memory with the copy engine, one with weights, one
// with x; consumer warpgroups multiply.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "model/cuda/linear_sum.cuh"

namespace deftree::stream_linear {

// d [64, N] in f32 += a [64, 16] times b [16, N], both bf16 in shared memory with k contiguous. As by mma.m16n8k16,
// warp w of the warpgroup holds rows 16 w + lane / 4 (+ 8) and columns 8 i + 2 (lane % 4) (+ 1).
__device__ __forceinline__ void wgmma(float (&d)[2][4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7"
      "}, %8, %9, p, 1, 1, 0, 0;\n"
      "}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3])
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

__device__ __forceinline__ void wgmma(float (&d)[4][4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
      "}, %16, %17, p, 1, 1, 0, 0;\n"
      "}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3])
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

__device__ __forceinline__ void wgmma(float (&d)[8][4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
      "}, %32, %33, p, 1, 1, 0, 0;\n"
      "}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),
        "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

__device__ __forceinline__ void wgmma(float (&d)[16][4], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
      "}, %64, %65, p, 1, 1, 0, 0;\n"
      "}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]),
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]),
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]),
        "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]),
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]),
        "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]),
        "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]),
        "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]),
        "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]),
        "+f"(d[15][3])
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// A box of 64 columns of a tensor map into shared memory, by the copy engine; (column, row) is its first element.
__device__ __forceinline__ void load_box(uint32_t shared, const CUtensorMap& map, int column, int row,
                                         uint64_t* barrier, uint64_t l2_policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared),
      "l"(&map), "r"(column), "r"(row), "r"(cuda::shared_address(barrier)), "l"(l2_policy)
      : "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// Weights are read once a step and must not push out what is read again.
__device__ __forceinline__ uint64_t evict_first() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ uint64_t evict_last() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// What the kernel in front wrote with ordinary stores is about to be read by the copy engine.
__device__ __forceinline__ void fence_async_proxy_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
__device__ __forceinline__ void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(cuda::shared_address(barrier)) : "memory");
}

inline constexpr int kBoxFeatures = 64;                  // 128 bytes, the width of the swizzle
inline constexpr int kBoxBytes = 64 * kBoxFeatures * 2;  // of weights
inline constexpr int kMaxStages = 16;

// The sizes of one compiled kernel: kRows rows of x against tiles of kTileFeatures weights.
template <int kTileFeatures, int kRows>
struct Stage {
  static constexpr int kWarpgroups = kTileFeatures / 64;
  static constexpr int kConsumers = kWarpgroups * 128;
  static constexpr int kNumThreads = kConsumers + 64;
  static constexpr int kWeightBoxes = 2;
  static constexpr int kInputBoxes = kWeightBoxes / kWarpgroups;
  static constexpr int kStepFeatures = kInputBoxes * kBoxFeatures;
  static constexpr int kInputBoxBytes = kRows * kBoxFeatures * 2;
  static constexpr int kInputOffset = kWeightBoxes * kBoxBytes;  // weights first
  static constexpr int kBytes = kInputOffset + kInputBoxes * kInputBoxBytes;
};

struct Task {
  LinearSum sum;
  float* parts;
  int steps_per_unit;
  int num_stages;    // of the ring
  int stage_cycles;  // between two stages of weights while x is not there
};

// Where a walk over the steps stands in the ring.
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void advance(int num_stages) {
    if (++stage == num_stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The steps of one thread block, and its ring.
struct Walk {
  int begin, end, steps_per_tile;
  uint32_t ring;
  uint64_t* full;
  uint64_t* empty;
  volatile bool* x_is_there;
};

// One thread. Weights do not depend on the kernels in front, so the ring fills before those have ended, but no faster
// than memory delivers: what those kernels still read would wait behind all that was asked for.
template <class S>
__device__ __forceinline__ void load_weights(const CUtensorMap& weight, const Task& task, const Walk& walk) {
  constexpr int kAtOnce = 2;  // stages that cover the way to memory
  const uint64_t once = evict_first();
  RingPosition at;
  long long due = clock64();
  for (int step = walk.begin; step < walk.end; ++step) {
    const int num_before = step - walk.begin;
    if (num_before >= kAtOnce && num_before < task.num_stages) {
      due += task.stage_cycles;
      while (clock64() < due && !*walk.x_is_there) {
      }
    }
    cuda::wait_barrier(&walk.empty[at.stage], at.parity ^ 1);  // passes at once in the ring's first round
    const int tile = step / walk.steps_per_tile;
    const int column = (step - tile * walk.steps_per_tile) * S::kStepFeatures;
    cuda::expect_bytes(&walk.full[at.stage], S::kBytes);
#pragma unroll
    for (int box = 0; box < S::kWeightBoxes; ++box) {
      const int group = box / S::kInputBoxes, part = box % S::kInputBoxes;
      load_box(walk.ring + at.stage * S::kBytes + box * kBoxBytes, weight, column + part * kBoxFeatures,
               (tile * S::kWarpgroups + group) * 64, &walk.full[at.stage], once);
    }
    at.advance(task.num_stages);
  }
}

// One thread of another warp. A stage's barrier may hear of bytes of x before it is told to expect them.
template <class S>
__device__ __forceinline__ void load_x(const CUtensorMap& x, const Task& task, const Walk& walk) {
  const uint64_t again = evict_last();
  cuda::wait_for_previous();
  *walk.x_is_there = true;
  fence_async_proxy_global();
  RingPosition at;
  for (int step = walk.begin; step < walk.end; ++step) {
    cuda::wait_barrier(&walk.empty[at.stage], at.parity ^ 1);
    const int column = step % walk.steps_per_tile * S::kStepFeatures;
#pragma unroll
    for (int box = 0; box < S::kInputBoxes; ++box)
      load_box(walk.ring + at.stage * S::kBytes + S::kInputOffset + box * S::kInputBoxBytes, x,
               column + box * kBoxFeatures, 0, &walk.full[at.stage], again);
    at.advance(task.num_stages);
  }
}

// One warpgroup: its 64 features of every tile that the worker has steps of.
template <class S, int kRows>
__device__ __forceinline__ void consume(const Task& task, const Walk& walk) {
  const LinearSum& sum = task.sum;
  const int warpgroup = threadIdx.x / 128, lane = threadIdx.x % 32;
  const uint32_t weights = walk.ring + warpgroup * S::kInputBoxes * kBoxBytes;
  const uint32_t inputs = walk.ring + S::kInputOffset;
  const auto release = [&](int stage) {
    if (lane == 0) arrive(&walk.empty[stage]);
  };

  RingPosition at;
  for (int step = walk.begin; step < walk.end;) {
    const int tile = step / walk.steps_per_tile;
    const int tile_end = min(walk.end, (tile + 1) * walk.steps_per_tile);
    float y[kRows / 8][4];
    int previous = -1;  // stage whose products may still run
    for (; step < tile_end; ++step) {
      cuda::wait_barrier(&walk.full[at.stage], at.parity);
      cuda::wgmma_fence();
#pragma unroll
      for (int i = 0; i < S::kStepFeatures / 16; ++i) {
        const int box = i / 4, offset = i % 4 * 32;
        const uint32_t a = weights + at.stage * S::kBytes + box * kBoxBytes + offset;
        const uint32_t b = inputs + at.stage * S::kBytes + box * S::kInputBoxBytes + offset;
        wgmma(y, cuda::swizzled_matrix(a, 0, 1024), cuda::swizzled_matrix(b, 0, 1024), i > 0 || previous >= 0);
      }
      cuda::wgmma_commit();
      cuda::wgmma_wait<1>();
      if (previous >= 0) release(previous);
      previous = at.stage;
      at.advance(task.num_stages);
    }
    cuda::wgmma_wait<0>();
    release(previous);

    const int part = static_cast<int>(blockIdx.x) - sum.worker_of_unit(tile * sum.units_per_tile);
    float* out = task.parts + static_cast<size_t>(part) * sum.num_rows * sum.out_features;
    const int feature = (tile * S::kWarpgroups + warpgroup) * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < kRows / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = 8 * i + 2 * (lane % 4) + j % 2, column = feature + j / 2 * 8;
        if (row < sum.num_rows && column < sum.out_features)
          out[static_cast<size_t>(row) * sum.out_features + column] = y[i][j];
      }
    }
  }
}

// Grid: sum.num_workers. Shared memory: num_stages stages and 1 KiB to align them.
template <int kTileFeatures, int kRows>
__global__ void __launch_bounds__(Stage<kTileFeatures, kRows>::kNumThreads, 1)
    stream_linear_kernel(const __grid_constant__ CUtensorMap weight, const __grid_constant__ CUtensorMap x,
                         const __grid_constant__ Task task) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = Stage<kTileFeatures, kRows>;
  extern __shared__ uint8_t shared[];
  __shared__ uint64_t full[kMaxStages], empty[kMaxStages];
  __shared__ bool x_is_there;
  cuda::let_next_start();
  const uint32_t ring = (cuda::shared_address(shared) + 1023) & ~1023u;
  if (threadIdx.x == 0) {
    x_is_there = false;
    for (int i = 0; i < task.num_stages; ++i) {
      cuda::init_barrier(&full[i], 1);
      cuda::init_barrier(&empty[i], S::kWarpgroups * 4);
    }
    cuda::fence_barrier_init();
  }
  __syncthreads();

  const int worker = blockIdx.x;
  const Walk walk{.begin = task.sum.begin_of_worker(worker) * task.steps_per_unit,
                  .end = task.sum.begin_of_worker(worker + 1) * task.steps_per_unit,
                  .steps_per_tile = task.sum.units_per_tile * task.steps_per_unit,
                  .ring = ring,
                  .full = full,
                  .empty = empty,
                  .x_is_there = &x_is_there};
  if (threadIdx.x < S::kConsumers) {
    cuda::wait_for_previous();
    consume<S, kRows>(task, walk);
  } else if (threadIdx.x == S::kConsumers) {
    prefetch_map(weight);
    load_weights<S>(weight, task, walk);
  } else if (threadIdx.x == S::kConsumers + 32) {
    prefetch_map(x);
    load_x<S>(x, task, walk);
  }
#endif
}

}  // namespace deftree::stream_linear
