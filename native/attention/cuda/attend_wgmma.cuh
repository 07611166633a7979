// The work items of a bin on compute capability 9.0: one warp copies tiles of K and V into a ring in shared memory
// (tile_ring.cuh), two warpgroups compute, and neither waits for the other but through the barriers of the ring.
//
// Rows are query heads packed query-major (row r: query r / group_size of the group); a warpgroup holds 64 of them. An
// item with more gives each warpgroup its part of the rows and all tiles. An item with no more gives both warpgroups
// all rows and every other tile, and the second hands its state to the first at the end.
//
// A warpgroup issues Q K^T of the next tile together with P V of this one, and where both warpgroups have the same
// tiles they take turns at issuing, so that the softmax of one runs beside the products of the other (Shah et al.,
// FlashAttention-3, arXiv 2407.08608, section 3.1).
#pragma once

#include "attention/cuda/launch.cuh"
#include "attention/cuda/tile_ring.cuh"
#include "cuda/launch.cuh"

namespace deftree::attention {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// One of the two warpgroups that compute.
template <int kHeadDim>
class WgmmaPart {
  using Shared = WgmmaShared<kHeadDim>;
  static constexpr int kHalfBytes = kTileLen * 128;  // [64 rows, 64 dims]
  static constexpr float kMaxGrowth = 8;             // log2; see soften
  static constexpr int kPartBarrier = 1, kTurnBarrier = 3;  // and the next, for the second warpgroup

 public:
  __device__ WgmmaPart(const Launch& launch, const PlanView& plan, Shared& shared, int index)
      : launch_(launch),
        plan_(plan),
        shared_(shared),
        index_(index),
        thread_(threadIdx.x % 128),
        lane_(threadIdx.x % 32) {
    if (index_ == 1) cuda::arrive_threads(kTurnBarrier, kWgmmaConsumers);
  }

  // After the last item: the turn that nobody took.
  __device__ void end() const {
    if (index_ == 0) cuda::sync_threads(kTurnBarrier, kWgmmaConsumers);
  }

  __device__ void run(const PackedItem& item) {
    first_ = position_;
    position_ += item.num_tiles;
    const int part_len = kPartRows / launch_.group_size;
    by_rows_ = item.num_queries > part_len;
    step_ = by_rows_ ? 1 : kWgmmaParts;
    tile_ = by_rows_ ? 0 : (first_ + index_) % kWgmmaParts;
    if (tile_ >= item.num_tiles) return;  // a single tile, the other's
    tile_ -= step_;
    query_begin_ = by_rows_ ? index_ * part_len : 0;
    num_queries_ = min(item.num_queries - query_begin_, part_len);
    begin(item);

    float s[8][4] = {};
    uint32_t p[4][4] = {};
    while (next_tile(item)) {
      take_turn();
      clear_unread_rows();
      multiply_q(s);
      pass_turn();
      cuda::wgmma_wait<0>();
      cuda::pin_accumulators(s);
      soften(s);
      rescale();
      round_weights(s, p);
      Held before = held_;
      while (following_tile(item)) {
        take_turn();
        clear_unread_rows();
        multiply_both(s, before, p);
        pass_turn();
        cuda::wgmma_wait<0>();
        cuda::pin_accumulators(s);
        cuda::pin_accumulators(o_);
        release(before);
        soften(s);
        rescale();
        round_weights(s, p);
        before = held_;
      }
      multiply_v(before, p);
      cuda::wgmma_wait<0>();
      cuda::pin_accumulators(o_);
      release(before);
    }
    finish(item);
  }

 private:
  // A tile in the ring.
  struct Held {
    int stage = 0;
    bool is_plain = true;  // each of the part's rows sees all 64 tokens
  };

  __device__ void begin(const PackedItem& item) {
    const int warp_row = thread_ / 32 * 16;
    has_rows_ = warp_row < num_queries_ * launch_.group_size;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = warp_row + lane_ / 4 + 8 * i;
      const int query = row / launch_.group_size;
      in_group_[i] = query < num_queries_ ? query_begin_ + query : -1;
      head_[i] = item.kv_head * launch_.group_size + row % launch_.group_size;
      query_[i] = in_group_[i] < 0 ? 0 : __ldg(plan_.group_queries() + item.query_begin + in_group_[i]);
      reference_[i] = -INFINITY;
      sum_[i] = 0;
    }
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) o_[n][j] = 0;
    }
    cuda::wait_for_previous();
    load_q();
  }

  // A quad of lanes holds a row: each lane loads 16-byte pieces, and the quad exchanges their words.
  __device__ void load_q() {
    uint4 piece[kHeadDim / 32][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const __nv_bfloat16* q = launch_.q + static_cast<int64_t>(query_[i]) * launch_.q_stride + head_[i] * kHeadDim;
#pragma unroll
      for (int n = 0; n < kHeadDim / 32; ++n) {
        piece[n][i] = make_uint4(0, 0, 0, 0);
        if (in_group_[i] >= 0) piece[n][i] = *reinterpret_cast<const uint4*>(q + (n * 4 + lane_ % 4) * 8);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int n = 0; n < kHeadDim / 32; ++n) {
        uint32_t words[4] = {piece[n][i].x, piece[n][i].y, piece[n][i].z, piece[n][i].w};
        transpose_in_quad(words);  // word j: of piece 4 n + j
        q_[2 * n][i] = words[0];
        q_[2 * n][i + 2] = words[1];
        q_[2 * n + 1][i] = words[2];
        q_[2 * n + 1][i + 2] = words[3];
      }
    }
  }

  // Lane l's word w becomes lane w's word l.
  __device__ void transpose_in_quad(uint32_t (&words)[4]) const {
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2) {
      const bool upper = lane_ & bit;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if (w & bit) continue;
        const uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? words[w] : words[w + bit], bit);
        (upper ? words[w] : words[w + bit]) = other;
      }
    }
  }

  // Goes to the next tile of which this part's rows see anything, once it has arrived.
  __device__ bool next_tile(const PackedItem& item) {
    while (tile_ + step_ < item.num_tiles) {
      if (following_tile(item)) return true;
      tile_ += step_;
      take_turn();
      pass_turn();
      release({static_cast<int>((first_ + tile_) % Shared::kStages)});
    }
    return false;
  }

  // Goes to the very next tile, unless there is none or this part's rows see nothing of it. While a tile is held the
  // ring has no room to look further.
  __device__ bool following_tile(const PackedItem& item) {
    if (tile_ + step_ >= item.num_tiles) return false;
    const uint32_t position = first_ + tile_ + step_;
    const int stage = position % Shared::kStages;
    cuda::wait_barrier(shared_.full + stage, position / Shared::kStages % 2);
    bool seen = false, is_plain = false;
    if (lane_ == 0) {
      const TileNote note = shared_.notes[stage];
      seen = (note.flags >> index_) & 1;
      is_plain = note.valid == ~uint64_t{0} && note.mask_begin < 0;
    }
    if (!__any_sync(0xffffffffu, seen)) return false;
    held_ = {stage, __any_sync(0xffffffffu, is_plain) != 0};
    tile_ += step_;
    return true;
  }

  // Slots that are no tokens of the chunk may hold anything, NaN too, and 0 * NaN is NaN. Parts that both read the tile
  // clear it both, each in its turn.
  __device__ void clear_unread_rows() {
    if (held_.is_plain) return;
    const uint64_t valid = shared_.notes[held_.stage].valid;
    if (valid == ~uint64_t{0}) return;
    constexpr int kPieces = kHeadDim / 8;
    char* v = shared_.tiles[held_.stage][1];
    for (int i = thread_; i < kTileLen * kPieces; i += 128) {
      const int row = i / kPieces, piece = i % kPieces;
      if ((valid >> row) & 1) continue;
      *reinterpret_cast<uint4*>(v + piece / 8 * kHalfBytes + row * 128 + piece % 8 * 16) = make_uint4(0, 0, 0, 0);
    }
    cuda::fence_async_proxy();
    cuda::sync_threads(kPartBarrier + index_, 128);
  }

  // The copying warp may overwrite the tile. Of a tile that is not plain every lane has read or written something, and
  // says for itself that it is done.
  __device__ void release(const Held& tile) {
    __syncwarp();
    const int parts = by_rows_ ? 1 : kWgmmaParts;
    if (!tile.is_plain) cuda::arrive(shared_.empty + tile.stage, parts);
    else if (lane_ == 0) cuda::arrive(shared_.empty + tile.stage, 32 * parts);
  }

  // Every tile of both warpgroups is a turn of each, the first one's before the second's.
  __device__ void take_turn() const {
    if (by_rows_) cuda::sync_threads(kTurnBarrier + index_, kWgmmaConsumers);
  }
  __device__ void pass_turn() const {
    if (by_rows_) cuda::arrive_threads(kTurnBarrier + 1 - index_, kWgmmaConsumers);
  }

  // Descriptors must be uniform and differ by constants, or their computation takes as long as the products.
  __device__ uint64_t k_matrix(int stage) const {
    return cuda::swizzled_matrix(cuda::uniform(cuda::shared_address(shared_.tiles[stage][0])), 16, 1024);
  }
  __device__ uint64_t v_matrix(int stage) const {
    return cuda::swizzled_matrix(cuda::uniform(cuda::shared_address(shared_.tiles[stage][1])), kHalfBytes, 1024);
  }

  // One step of Q K^T over 16 dims, and of P V over 16 tokens.
  __device__ void step_q(float (&s)[8][4], uint64_t k, int step) {
    cuda::wgmma_n64<0>(s, q_[step], k + (step / 4 * kHalfBytes + step % 4 * 32) / 16, step > 0);
  }
  __device__ void step_v(uint64_t v, const uint32_t (&p)[4][4], int step) {
    if constexpr (kHeadDim == 128) cuda::wgmma_n128<1>(o_, p[step], v + step * (2048 / 16), true);
    else cuda::wgmma_n64<1>(o_, p[step], v + step * (2048 / 16), true);
  }

  // s = Q K^T of the tile at hand
  __device__ void multiply_q(float (&s)[8][4]) {
    const uint64_t k = k_matrix(held_.stage);
    cuda::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) step_q(s, k, step);
    cuda::wgmma_commit();
  }

  // O += P V
  __device__ void multiply_v(const Held& tile, const uint32_t (&p)[4][4]) {
    const uint64_t v = v_matrix(tile.stage);
    cuda::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) step_v(v, p, step);
    cuda::wgmma_commit();
  }

  // s = Q K^T of the tile at hand and O += P V of the one before, step by step in turn: a product of 64 columns that
  // adds to the result of the one just before waits for that, one that adds to another does not.
  __device__ void multiply_both(float (&s)[8][4], const Held& before, const uint32_t (&p)[4][4]) {
    constexpr int kSteps = kHeadDim / 16;
    const uint64_t k = k_matrix(held_.stage), v = v_matrix(before.stage);
    cuda::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      step_q(s, k, step * kSteps / 4);
      step_v(v, p, step);
      if constexpr (kSteps == 8) step_q(s, k, step * 2 + 1);
    }
    cuda::wgmma_commit();
  }

  // s becomes 2^(s - reference) in units of the softmax. The reference is a maximum of the row, but not always the
  // latest: O and the sum are brought to a new one only when it has grown by more than 2^kMaxGrowth, which bf16 weights
  // and f32 sums hold as exactly as smaller numbers.
  __device__ void soften(float (&s)[8][4]) {
    rescale_ = false;
    if (!has_rows_) return;
    if (!held_.is_plain) hide(s);
    float of_columns[2][2];  // largest of a row's even and of its odd columns
#pragma unroll
    for (int j = 0; j < 4; ++j) of_columns[j / 2][j % 2] = s[0][j];
#pragma unroll
    for (int n = 1; n < 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) of_columns[j / 2][j % 2] = fmaxf(of_columns[j / 2][j % 2], s[n][j]);
    }
    float max[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) max[i] = fmaxf(of_columns[i][0], of_columns[i][1]);
#pragma unroll
    for (int lanes = 1; lanes <= 2; lanes *= 2) {
#pragma unroll
      for (int i = 0; i < 2; ++i) max[i] = fmaxf(max[i], __shfl_xor_sync(0xffffffffu, max[i], lanes));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) max[i] *= launch_.scale_log2;
    rescale_ = __any_sync(0xffffffffu, max[0] > reference_[0] + kMaxGrowth || max[1] > reference_[1] + kMaxGrowth);
    if (rescale_) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float before = reference_[i];
        reference_[i] = fmaxf(before, max[i]);
        old_weight_[i] = reference_[i] == -INFINITY ? 1 : cuda::exp2_approx(before - reference_[i]);
        sum_[i] *= old_weight_[i];
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float base = reference_[i] == -INFINITY ? 0 : reference_[i];
      float sum[2] = {};
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& x = s[n][2 * i + j];
          x = cuda::exp2_approx(x * launch_.scale_log2 - base);
          sum[j] += x;
        }
      }
      sum_[i] += sum[0] + sum[1];
    }
  }

  __device__ void rescale() {
    if (!rescale_) return;
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) o_[n][j] *= old_weight_[j / 2];
    }
  }

  // Scores of what a row does not see become -inf.
  __device__ void hide(float (&s)[8][4]) const {
    const TileNote note = shared_.notes[held_.stage];
    uint64_t seen[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      seen[i] = note.mask_begin >= 0 && in_group_[i] >= 0 ? shared_.masks[held_.stage][in_group_[i]] : note.valid;
    if (!__any_sync(0xffffffffu, (seen[0] & seen[1]) != ~uint64_t{0})) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint64_t bits = seen[i] >> (lane_ % 4 * 2);
      const uint32_t words[2] = {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          if ((words[n / 4] & (1u << (n % 4 * 8 + j))) == 0) s[n][2 * i + j] = -INFINITY;
        }
      }
    }
  }

  // The left operand of P V.
  __device__ void round_weights(const float (&s)[8][4], uint32_t (&p)[4][4]) const {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* pair = s[2 * step + j / 2] + j % 2 * 2;
        p[step][j] = cuda::pack_bf16(pair[0], pair[1]);
      }
    }
  }

  __device__ void finish(const PackedItem& item) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum_[i] += __shfl_xor_sync(0xffffffffu, sum_[i], 1);
      sum_[i] += __shfl_xor_sync(0xffffffffu, sum_[i], 2);
    }
    if (!by_rows_ && item.num_tiles > 1) {
      if (index_ > 0) return give_state();
      take_state();
    }
    write_rows(item);
  }

  // Hands the state of the second warpgroup to the first.
  __device__ void give_state() {
    if (num_states_ > 0) cuda::wait_barrier(&shared_.state_free, (num_states_ - 1) % 2);
    ++num_states_;
    if (has_rows_) {
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n)
        shared_.state[n][thread_] = make_float4(o_[n][0], o_[n][1], o_[n][2], o_[n][3]);
      shared_.state[kHeadDim / 8][thread_] = make_float4(reference_[0], reference_[1], sum_[0], sum_[1]);
    }
    cuda::arrive(&shared_.state_full, 1);
  }

  __device__ void take_state() {
    cuda::wait_barrier(&shared_.state_full, num_states_ % 2);
    ++num_states_;
    if (has_rows_) {
      const float4 other = shared_.state[kHeadDim / 8][thread_];
      const float other_reference[2] = {other.x, other.y}, other_sum[2] = {other.z, other.w};
      float weight[2], other_weight[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float max = fmaxf(reference_[i], other_reference[i]);
        const float base = max == -INFINITY ? 0 : max;
        weight[i] = cuda::exp2_approx(reference_[i] - base);
        other_weight[i] = cuda::exp2_approx(other_reference[i] - base);
        reference_[i] = max;
        sum_[i] = sum_[i] * weight[i] + other_sum[i] * other_weight[i];
      }
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        const float4 o = shared_.state[n][thread_];
        o_[n][0] = o_[n][0] * weight[0] + o.x * other_weight[0];
        o_[n][1] = o_[n][1] * weight[0] + o.y * other_weight[0];
        o_[n][2] = o_[n][2] * weight[1] + o.z * other_weight[1];
        o_[n][3] = o_[n][3] * weight[1] + o.w * other_weight[1];
      }
    }
    cuda::arrive(&shared_.state_free, 1);
  }

  __device__ void write_rows(const PackedItem& item) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (in_group_[i] < 0) continue;
      const float lse = sum_[i] > 0 ? reference_[i] + __log2f(sum_[i]) : -INFINITY;
      write_row<kHeadDim>(launch_, item, in_group_[i], query_[i], head_[i], lse, sum_[i] > 0 ? 1 / sum_[i] : 0,
                          [&](int n) { return make_float2(o_[n][2 * i], o_[n][2 * i + 1]); });
    }
  }

  const Launch& launch_;
  const PlanView& plan_;
  Shared& shared_;
  const int index_, thread_, lane_;
  uint32_t position_ = 0, first_ = 0;  // in the ring: of the next item's first tile, of this one's
  uint32_t num_states_ = 0;            // handed over so far
  // Of the item at hand.
  bool by_rows_ = false;     // the parts share the tiles and have rows of their own, not the other way round
  bool has_rows_ = false;    // this warp's 16 rows hold any
  int tile_ = 0, step_ = 1;  // tile at hand, and how far the next is
  Held held_;                // the tile at hand
  int query_begin_ = 0, num_queries_ = 0;  // of this part, in the group
  int in_group_[2], query_[2], head_[2];   // of this thread's two rows; in_group -1: padding
  uint32_t q_[kHeadDim / 16][4];
  float o_[kHeadDim / 8][4];
  float reference_[2], sum_[2];  // base 2
  bool rescale_ = false;
  float old_weight_[2] = {1, 1};
};

#endif

template <int kHeadDim>
__global__ __launch_bounds__(kWgmmaThreads, 1) void tree_attention_wgmma_kernel(const __grid_constant__ Launch launch) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char shared_bytes[];
  WgmmaShared<kHeadDim>& shared = *reinterpret_cast<WgmmaShared<kHeadDim>*>(shared_bytes);
  constexpr int kConsumerWarps = kWgmmaConsumers / 32;
  cuda::let_next_start();
  const PlanView plan(launch.plan);
  if (threadIdx.x < WgmmaShared<kHeadDim>::kStages) {
    cuda::init_barrier(shared.full + threadIdx.x, 1);
    cuda::init_barrier(shared.empty + threadIdx.x, kWgmmaConsumers);
  }
  if (threadIdx.x == 0) {
    cuda::init_barrier(&shared.state_full, 128);
    cuda::init_barrier(&shared.state_free, 128);
  }
  cuda::fence_barrier_init();
  const PackedBin work = plan.bins()[blockIdx.x];
  __syncthreads();
  const int warp = threadIdx.x / 32;
  if (warp >= kConsumerWarps) {
    cuda::give_registers<56>();
    if (warp == kConsumerWarps) TileCopier<kHeadDim>(launch, plan, shared).run(work);
    cuda::wait_for_previous();
  } else {
    cuda::take_registers<224>();
    const Merger<kHeadDim> merger(launch, plan, blockIdx.x, kWgmmaConsumers);
    WgmmaPart<kHeadDim> part(launch, plan, shared, warp / 4);
    for_each_item(plan, work, [&](const PackedItem& item) { part.run(item); });
    part.end();
    cuda::wait_for_previous();
    merger.run();
  }
#endif
}

}  // namespace deftree::attention
