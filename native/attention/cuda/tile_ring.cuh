// The ring of tiles of K and V that attend_wgmma.cuh computes from, and the warp that fills it.
#pragma once

#include <cstddef>

#include "attention/cuda/launch.cuh"
#include "attention/cuda/params_cuda.h"
#include "cuda/launch.cuh"

namespace deftree::attention {

inline constexpr int kWgmmaParts = 2;
inline constexpr int kWgmmaConsumers = kWgmmaParts * 128;
inline constexpr int kWgmmaThreads = kWgmmaConsumers + 128;  // a third warpgroup, of which one warp copies
inline constexpr int kWgmmaMaxRows = kWgmmaParts * kPartRows;

// What a warpgroup must know of a tile: the second half of its KvTile.
struct alignas(16) TileNote {
  uint64_t valid;
  int32_t mask_begin, flags;
};
static_assert(sizeof(TileNote) == 16 && offsetof(KvTile, valid) == 16 && offsetof(KvTile, flags) == 28);

template <int kHeadDim>
struct WgmmaShared {
  static constexpr int kStages = kHeadDim == 128 ? 5 : 8;

  char tiles[kStages][2][kTileLen * kHeadDim * 2];  // K and V, each [head_dim / 64, 64 rows, 128 bytes]
  float4 state[kHeadDim / 8 + 1][128];              // of the second warpgroup, as its threads hold it
  uint64_t masks[kStages][kWgmmaMaxRows];
  TileNote notes[kStages];
  uint64_t full[kStages], empty[kStages];  // barriers: a tile has arrived; all have done with it
  uint64_t state_full, state_free;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Calls body(item) for the items of the bin; the next item's record is asked for before.
template <class Body>
__device__ __forceinline__ void for_each_item(const PlanView& plan, const PackedBin& bin, Body body) {
  PackedItem item = bin.first;
  for (int i = bin.next_begin; item.num_tiles > 0; ++i) {
    PackedItem next{};
    if (i < bin.next_end) next = plan.items()[i];
    body(item);
    item = next;
  }
}

// The warp that fills the ring. Tiles that no kernel of this step writes are on their way before the kernels in front
// have ended.
template <int kHeadDim>
class TileCopier {
  using Shared = WgmmaShared<kHeadDim>;
  static constexpr int kHalves = kHeadDim / 64;

 public:
  __device__ TileCopier(const Launch& launch, const PlanView& plan, Shared& shared)
      : launch_(launch), plan_(plan), shared_(shared), lane_(threadIdx.x % 32) {}

  __device__ void run(const PackedBin& bin) {
    for_each_item(plan_, bin, [&](const PackedItem& item) {
      KvTile tiles;  // lane l: tile l of the next 32
      for (int t = 0; t < item.num_tiles; ++t) {
        if (t % 32 == 0 && t + lane_ < item.num_tiles) tiles = plan_.tiles()[item.tile_begin + t + lane_];
        copy(broadcast(tiles, t % 32), plan_.tiles() + item.tile_begin + t, item);
      }
    });
  }

 private:
  // What this warp needs of a tile that one lane holds.
  __device__ static KvTile broadcast(const KvTile& tile, int lane) {
    auto from = [&](int32_t value) { return __shfl_sync(0xffffffffu, value, lane); };
    KvTile all{};
#pragma unroll
    for (int p = 0; p < kTilePages; ++p) all.page[p] = from(tile.page[p]);
    all.mask_begin = from(tile.mask_begin);
    all.flags = from(tile.flags);
    return all;
  }

  // source: where the plan has the tile
  __device__ void copy(const KvTile& tile, const KvTile* source, const PackedItem& item) {
    if (!waited_ && (tile.flags & kTileFresh)) {
      cuda::wait_for_previous();
      waited_ = true;
    }
    cuda::wait_barrier(shared_.empty + stage_, phase_ ^ 1);  // passes at once in the ring's first round
    uint64_t* full = shared_.full + stage_;
    if (lane_ == 0) {
      const uint32_t mask_bytes = tile.mask_begin < 0 ? 0 : (item.num_queries + 1) / 2 * 16;
      int num_pages = 0;
#pragma unroll
      for (int p = 0; p < kTilePages; ++p) num_pages += tile.page[p] >= 0;
      cuda::expect_bytes(full, num_pages * 2 * kHalves * 2048 + sizeof(TileNote) + mask_bytes);
      cuda::bulk_copy(cuda::shared_address(shared_.notes + stage_), &source->valid, sizeof(TileNote), full);
      if (mask_bytes > 0)
        cuda::bulk_copy(cuda::shared_address(shared_.masks[stage_]), plan_.mask_words() + tile.mask_begin, mask_bytes,
                        full);
    }
    __syncwarp();
    // Lanes 0 .. 4 * 2 * kHalves - 1 copy the 2048 consecutive bytes of a half of a page.
    const int p = lane_ % 4, half = lane_ / 4 % kHalves, is_v = lane_ / 4 / kHalves;
    const int page = p == 0 ? tile.page[0] : p == 1 ? tile.page[1] : p == 2 ? tile.page[2] : tile.page[3];
    if (is_v < 2 && page >= 0) {
      const int64_t block = (static_cast<int64_t>(page) * launch_.num_kv_heads + item.kv_head) * kHalves + half;
      cuda::bulk_copy(cuda::shared_address(shared_.tiles[stage_][is_v]) + half * (kTileLen * 128) + p * 2048,
                      (is_v ? launch_.v : launch_.k) + block * (kCudaPageSize * 64), 2048, full);
    }
    if (++stage_ == Shared::kStages) {
      stage_ = 0;
      phase_ ^= 1;
    }
  }

  const Launch& launch_;
  const PlanView& plan_;
  Shared& shared_;
  const int lane_;
  int stage_ = 0;
  uint32_t phase_ = 0;
  bool waited_ = false;
};

#endif

}  // namespace deftree::attention
