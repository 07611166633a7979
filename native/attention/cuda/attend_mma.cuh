// One work item for one KV head with 128 threads, with the instructions of compute capability 8.0 (mma.sync, cp.async).
//
// Rows are query heads packed query-major (row r: query r / group_size of the group), so a tile of K and V is read once
// for all of them. KV comes in tiles of 64 rows through a ring of shared memory filled by asynchronous copies. Warps
// stand in a grid of kRows / 16 by 4 / (kRows / 16): few rows let several warps share a tile's tokens, and their states
// are merged in shared memory at the end.
#pragma once

#include "attention/cuda/launch.cuh"
#include "attention/cuda/params_cuda.h"

namespace deftree::attention {

inline constexpr int kMmaThreads = 128;
inline constexpr int kMmaStages = 3;
inline constexpr int kMmaMaxRows = 64;

constexpr int mma_tile_bytes(int head_dim) { return kTileLen * head_dim * 2; }  // of K, and of V
constexpr int mma_shared_bytes(int head_dim) { return kMmaStages * 2 * mma_tile_bytes(head_dim); }

template <int kHeadDim, int kRows>
class MmaItem {
  static constexpr int kWarpsM = kRows / 16, kWarpsN = 4 / kWarpsM;
  static constexpr int kWarpLen = kTileLen / kWarpsN;  // tokens of a tile that a warp takes
  static constexpr int kHalves = kHeadDim / 64;
  static constexpr int kTileBytes = mma_tile_bytes(kHeadDim);
  static constexpr int kHalfBytes = kTileLen * 128;    // [64 rows, 64 dims]

 public:
  __device__ MmaItem(const Launch& launch, const PlanView& plan, const PackedItem& item, char* shared)
      : launch_(launch),
        plan_(plan),
        item_(item),
        kv_head_(item.kv_head),
        shared_(shared),
        tiles_(plan.tiles() + item.tile_begin),
        mask_words_(plan.mask_words()),
        lane_(threadIdx.x % 32),
        warp_m_(threadIdx.x / 32 % kWarpsM),
        warp_n_(threadIdx.x / 32 / kWarpsM) {
    for (int i = 0; i < 2; ++i) {
      const int row = warp_m_ * 16 + lane_ / 4 + 8 * i;
      const int in_group = row / launch.group_size;
      in_group_[i] = in_group < item.num_queries ? in_group : -1;
      if (in_group_[i] < 0) continue;
      query_[i] = plan.group_queries()[item.query_begin + in_group];
      head_[i] = kv_head_ * launch.group_size + row % launch.group_size;
    }
  }

  __device__ void run() {
    int4 pages[kMmaStages - 1];
#pragma unroll
    for (int s = 0; s < kMmaStages - 1; ++s) pages[s] = read_pages(s);
#pragma unroll
    for (int s = 0; s < kMmaStages - 1; ++s) start_copy(s, pages[s]);
    int4 next_pages = read_pages(kMmaStages - 1);
    TileMask mask = read_mask(0), next_mask = read_mask(1);
    load_q();
    uint64_t next_seen[2];
    read_seen(mask, next_seen);
    for (int t = 0; t < item_.num_tiles; ++t) {
      const uint64_t valid = mask.valid;
      uint64_t seen[2] = {next_seen[0], next_seen[1]};
      cuda::cp_async_wait<kMmaStages - 2>();
      __syncthreads();  // no warp is at the tile before any more, whose place the next copy takes
      start_copy(t + kMmaStages - 1, next_pages);
      // What later tiles need is asked for a tile ahead, so that no load is waited for.
      next_pages = read_pages(t + kMmaStages);
      mask = next_mask;
      read_seen(mask, next_seen);
      next_mask = read_mask(t + 2);
      char* k = shared_ + stage(t) * 2 * kTileBytes;
      if (valid != ~uint64_t{0}) {
        clear_unread_rows(k + kTileBytes, valid);
        __syncthreads();
      }
      const int shift = warp_n_ * kWarpLen;
      if constexpr (kWarpLen < 64) {
        for (int i = 0; i < 2; ++i) seen[i] = (seen[i] >> shift) & ((uint64_t{1} << kWarpLen) - 1);
      }
      if (!__any_sync(0xffffffffu, (seen[0] | seen[1]) != 0)) continue;
      attend_tile(cuda::shared_address(k), cuda::shared_address(k + kTileBytes), seen);
    }
    finish();
  }

 private:
  struct TileMask {
    uint64_t valid;
    int begin;  // KvTile::mask_begin
  };

  __device__ int4 read_pages(int t) const {
    if (t >= item_.num_tiles) return {-1, -1, -1, -1};
    return __ldg(reinterpret_cast<const int4*>(tiles_[t].page));
  }

  __device__ static int stage(int t) { return t % kMmaStages; }

  // One page of one half of the head_dim is 2048 consecutive bytes, 16 from each thread.
  __device__ void start_copy(int t, const int4& pages) {
    const uint32_t to = cuda::shared_address(shared_) + stage(t) * 2 * kTileBytes + threadIdx.x * 16;
    const int page[kTilePages] = {pages.x, pages.y, pages.z, pages.w};
#pragma unroll
    for (int p = 0; p < kTilePages; ++p) {
      if (page[p] < 0) continue;
      const int64_t block = (static_cast<int64_t>(page[p]) * launch_.num_kv_heads + kv_head_) * kHalves;
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const int64_t from = (block + half) * (kCudaPageSize * 64) + threadIdx.x * 8;
        const uint32_t at = to + half * kHalfBytes + p * 2048;
        cuda::cp_async_16(at, launch_.k + from);
        cuda::cp_async_16(at + kTileBytes, launch_.v + from);
      }
    }
    cuda::cp_async_commit();
  }

  __device__ void load_q() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const __nv_bfloat16* q = nullptr;
      if (in_group_[i] >= 0) q = launch_.q + static_cast<int64_t>(query_[i]) * launch_.q_stride + head_[i] * kHeadDim;
#pragma unroll
      for (int s = 0; s < kHeadDim / 16; ++s) {
        const int dim = s * 16 + lane_ % 4 * 2;
        q_[s][i] = q ? *reinterpret_cast<const uint32_t*>(q + dim) : 0;
        q_[s][i + 2] = q ? *reinterpret_cast<const uint32_t*>(q + dim + 8) : 0;
      }
    }
  }

  __device__ TileMask read_mask(int t) const {
    if (t >= item_.num_tiles) return {0, -1};
    const uint4 words = __ldg(reinterpret_cast<const uint4*>(&tiles_[t].valid));
    return {words.x | static_cast<uint64_t>(words.y) << 32, static_cast<int>(words.z)};
  }

  // The rows of a tile that this thread's two query rows see.
  __device__ void read_seen(const TileMask& mask, uint64_t (&seen)[2]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      seen[i] = in_group_[i] < 0 ? 0 : mask.valid;
      if (in_group_[i] >= 0 && mask.begin >= 0)
        seen[i] = __ldg(reinterpret_cast<const unsigned long long*>(mask_words_ + mask.begin + in_group_[i]));
    }
  }

  // Slots that are no tokens of the chunk may hold anything, NaN too, and 0 * NaN is NaN.
  __device__ void clear_unread_rows(char* v, uint64_t valid) const {
    constexpr int kPieces = kHeadDim / 8;
    for (int i = threadIdx.x; i < kTileLen * kPieces; i += kMmaThreads) {
      const int row = i / kPieces, piece = i % kPieces;
      if ((valid >> row) & 1) continue;
      *reinterpret_cast<uint4*>(v + piece / 8 * kHalfBytes + row * 128 + piece % 8 * 16) = make_uint4(0, 0, 0, 0);
    }
  }

  // 16 bytes of row `row`, dims [8 piece, 8 piece + 8).
  __device__ static uint32_t piece_address(uint32_t tile, int row, int piece) {
    return tile + piece / 8 * kHalfBytes + row * 128 + (((piece % 8) ^ (row % 8)) * 16);
  }

  __device__ void attend_tile(uint32_t k, uint32_t v, const uint64_t (&seen)[2]) {
    float s[kWarpLen / 8][4] = {};
    multiply_q(k, s);
    hide(seen, s);
    soften(s);
    multiply_v(v, s);
  }

  // s = Q K^T
  __device__ void multiply_q(uint32_t k, float (&s)[kWarpLen / 8][4]) {
    const int first = warp_n_ * kWarpLen;
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
      for (int n = 0; n < kWarpLen / 16; ++n) {
        uint32_t b[4];
        cuda::ldmatrix_x4(b, piece_address(k, first + n * 16 + lane_ % 8 + lane_ / 16 * 8, step * 2 + lane_ / 8 % 2));
        cuda::mma_bf16(s[2 * n], q_[step], b[0], b[1]);
        cuda::mma_bf16(s[2 * n + 1], q_[step], b[2], b[3]);
      }
    }
  }

  __device__ void hide(const uint64_t (&seen)[2], float (&s)[kWarpLen / 8][4]) const {
    constexpr uint64_t kAll = kWarpLen == 64 ? ~uint64_t{0} : (uint64_t{1} << (kWarpLen % 64)) - 1;
    if (__any_sync(0xffffffffu, seen[0] != kAll || seen[1] != kAll)) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint64_t bits = seen[i] >> (lane_ % 4 * 2);
#pragma unroll
        for (int n = 0; n < kWarpLen / 8; ++n) {
          const uint32_t part = static_cast<uint32_t>(bits >> (n * 8));
          if (!(part & 1)) s[n][2 * i] = -INFINITY;
          if (!(part & 2)) s[n][2 * i + 1] = -INFINITY;
        }
      }
    }
  }

  // s becomes 2^(s - max) in units of the softmax, and the state so far is brought to the new maximum.
  __device__ void soften(float (&s)[kWarpLen / 8][4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float max = max_[i];
#pragma unroll
      for (int n = 0; n < kWarpLen / 8; ++n) max = fmaxf(max, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
      max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
      max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
      const float base = max == -INFINITY ? 0 : max * launch_.scale_log2;
      const float old_weight = cuda::exp2_approx(max_[i] * launch_.scale_log2 - base);
      max_[i] = max;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kWarpLen / 8; ++n) {
#pragma unroll
        for (int j = 2 * i; j < 2 * i + 2; ++j) {
          s[n][j] = cuda::exp2_approx(s[n][j] * launch_.scale_log2 - base);
          sum += s[n][j];
        }
      }
      sum_[i] = sum_[i] * old_weight + sum;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        o_[n][2 * i] *= old_weight;
        o_[n][2 * i + 1] *= old_weight;
      }
    }
  }

  // O += s V
  __device__ void multiply_v(uint32_t v, const float (&s)[kWarpLen / 8][4]) {
    uint32_t p[kWarpLen / 16][4];
#pragma unroll
    for (int step = 0; step < kWarpLen / 16; ++step) weights(s, step, p[step]);
    const int first = warp_n_ * kWarpLen;
#pragma unroll
    for (int step = 0; step < kWarpLen / 16; ++step) {
#pragma unroll
      for (int n = 0; n < kHeadDim / 16; ++n) {
        uint32_t b[4];
        cuda::ldmatrix_x4_transposed(
            b, piece_address(v, first + step * 16 + lane_ % 8 + lane_ / 8 % 2 * 8, n * 2 + lane_ / 16));
        cuda::mma_bf16(o_[2 * n], p[step], b[0], b[1]);
        cuda::mma_bf16(o_[2 * n + 1], p[step], b[2], b[3]);
      }
    }
  }

  // The left operand for tokens [16 step, 16 step + 16).
  __device__ static void weights(const float (&s)[kWarpLen / 8][4], int step, uint32_t (&p)[4]) {
    const float* s0 = s[2 * step];
    const float* s1 = s[2 * step + 1];
    p[0] = cuda::pack_bf16(s0[0], s0[1]);
    p[1] = cuda::pack_bf16(s0[2], s0[3]);
    p[2] = cuda::pack_bf16(s1[0], s1[1]);
    p[3] = cuda::pack_bf16(s1[2], s1[3]);
  }

  __device__ void finish() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum_[i] += __shfl_xor_sync(0xffffffffu, sum_[i], 1);
      sum_[i] += __shfl_xor_sync(0xffffffffu, sum_[i], 2);
    }
    if constexpr (kWarpsN > 1) merge_warps();
    if (warp_n_ == 0) write_rows();
    __syncthreads();  // the next item's copies go where states were merged
  }

  // Adds the states of warps with the same rows and other tokens to that of the first of them.
  __device__ void merge_warps() {
    constexpr int kStride = kHeadDim + 8;  // floats per row, so that eight rows of a store use all banks
    float* states = reinterpret_cast<float*>(shared_);
    auto row_state = [&](int warp_n, int i) {
      return states + (warp_n * kRows + warp_m_ * 16 + lane_ / 4 + 8 * i) * kStride;
    };
    __syncthreads();
    if (warp_n_ > 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float* to = row_state(warp_n_, i);
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n)
          *reinterpret_cast<float2*>(to + n * 8 + lane_ % 4 * 2) = make_float2(o_[n][2 * i], o_[n][2 * i + 1]);
        if (lane_ % 4 == 0) *reinterpret_cast<float2*>(to + kHeadDim) = make_float2(max_[i], sum_[i]);
      }
    }
    __syncthreads();
    if (warp_n_ > 0) return;
#pragma unroll
    for (int other = 1; other < kWarpsN; ++other) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float* from = row_state(other, i);
        const float2 max_sum = *reinterpret_cast<const float2*>(from + kHeadDim);
        const float max = fmaxf(max_[i], max_sum.x);
        const float base = max == -INFINITY ? 0 : max * launch_.scale_log2;
        const float own_weight = cuda::exp2_approx(max_[i] * launch_.scale_log2 - base);
        const float weight = cuda::exp2_approx(max_sum.x * launch_.scale_log2 - base);
        max_[i] = max;
        sum_[i] = sum_[i] * own_weight + max_sum.y * weight;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          const float2 part = *reinterpret_cast<const float2*>(from + n * 8 + lane_ % 4 * 2);
          o_[n][2 * i] = o_[n][2 * i] * own_weight + part.x * weight;
          o_[n][2 * i + 1] = o_[n][2 * i + 1] * own_weight + part.y * weight;
        }
      }
    }
  }

  __device__ void write_rows() const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (in_group_[i] < 0) continue;
      const float lse = sum_[i] > 0 ? max_[i] * launch_.scale_log2 + __log2f(sum_[i]) : -INFINITY;
      write_row<kHeadDim>(launch_, item_, in_group_[i], query_[i], head_[i], lse, sum_[i] > 0 ? 1 / sum_[i] : 0,
                          [&](int n) { return make_float2(o_[n][2 * i], o_[n][2 * i + 1]); });
    }
  }

  const Launch& launch_;
  const PlanView& plan_;
  const PackedItem& item_;
  const int kv_head_;
  char* shared_;
  const KvTile* tiles_;
  const uint64_t* mask_words_;
  const int lane_, warp_m_, warp_n_;
  int in_group_[2], query_[2] = {}, head_[2] = {};  // of this thread's two rows; -1: padding
  uint32_t q_[kHeadDim / 16][4];
  float o_[kHeadDim / 8][4] = {};
  float max_[2] = {-INFINITY, -INFINITY};  // raw scores
  float sum_[2] = {};
};

template <int kHeadDim>
__global__ __launch_bounds__(kMmaThreads, 2) void tree_attention_mma_kernel(const __grid_constant__ Launch launch) {
  extern __shared__ __align__(1024) char shared_bytes[];
  const PlanView plan(launch.plan);
  const PackedBin work = plan.bins()[blockIdx.x];
  const Merger<kHeadDim> merger(launch, plan, blockIdx.x, kMmaThreads);
  PackedItem item = work.first;
  for (int i = work.next_begin; i <= work.next_end && item.num_tiles > 0; ++i) {
    const int num_rows = item.num_queries * launch.group_size;
    if (num_rows <= 16) MmaItem<kHeadDim, 16>(launch, plan, item, shared_bytes).run();
    else if (num_rows <= 32) MmaItem<kHeadDim, 32>(launch, plan, item, shared_bytes).run();
    else MmaItem<kHeadDim, 64>(launch, plan, item, shared_bytes).run();
    if (i < work.next_end) item = plan.items()[i];
  }
  merger.run();
}

}  // namespace deftree::attention
