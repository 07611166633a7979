// For tests: what a packed plan says, without a GPU.
#pragma once

#include <map>
#include <utility>

#include "attention/cuda/packed_plan.h"
#include "attention/cuda/params_cuda.h"
#include "common/test.h"

namespace deftree::attention {

template <class T>
inline const T* at(const PackedPlan& packed, size_t offset) {
  return reinterpret_cast<const T*>(packed.bytes.data() + offset);
}

// How often each query reads each slot.
using Reads = std::map<std::pair<int32_t, int32_t>, int>;

inline Reads reads_of(const PackedPlan& packed, int kv_head) {
  Reads reads;
  const PackedPlanHeader& header = packed.header();
  const int32_t* queries = at<int32_t>(packed, header.group_queries);
  const uint64_t* words = at<uint64_t>(packed, header.mask_words);
  auto read = [&](const PackedItem& item) {
    if (item.kv_head != kv_head) return;
    for (int t = item.tile_begin; t < item.tile_begin + item.num_tiles; ++t) {
      const KvTile& tile = at<KvTile>(packed, header.tiles)[t];
      for (int i = 0; i < item.num_queries; ++i) {
        const uint64_t seen = tile.mask_begin < 0 ? tile.valid : words[tile.mask_begin + i];
        CHECK_EQ(seen & ~tile.valid, uint64_t{0});
        for (int row = 0; row < kTileLen; ++row) {
          if ((seen >> row) & 1) ++reads[{queries[item.query_begin + i], tile.page[row / 16] * 16 + row % 16}];
        }
      }
    }
  };
  for (int b = 0; b < header.num_bins; ++b) {
    const PackedBin& bin = at<PackedBin>(packed, sizeof(PackedPlanHeader))[b];
    if (bin.first.num_tiles > 0) read(bin.first);
    for (int i = bin.next_begin; i < bin.next_end; ++i) read(at<PackedItem>(packed, header.items)[i]);
  }
  return reads;
}

}  // namespace deftree::attention
