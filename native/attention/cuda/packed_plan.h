// The plan as the kernels read it: one block of bytes that goes to the device in one copy. Kernels know tiles of 64 KV
// rows where the plan knows tokens: row r of a tile is slot r % 16 of its page r / 16.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/params.h"
#include "attention/plan.h"

namespace deftree::attention {

// 64 KV rows.
struct KvTile {
  int32_t page[4];     // -1: no page, its 16 rows are not read
  uint64_t valid;      // bit r: row r is a token of the chunk
  int32_t mask_begin;  // query i of the group sees the rows of mask word mask_begin + i; -1: all see the valid rows
  int32_t unused;
};

struct PackedItem {
  int32_t tile_begin, num_tiles;
  int32_t query_begin, num_queries;  // into group_queries
  int32_t partial_begin;             // as WorkItem::partial_begin
  int32_t unused[3];
};

// What the thread blocks of a bin compute: `first`, then items [next_begin, next_end). The first stands here because
// each load that depends on another delays the start of a short step by most of a microsecond.
struct PackedBin {
  PackedItem first;  // num_tiles = 0: the bin has no item
  int32_t next_begin, next_end;
  int32_t unused[6];
};

// A query whose partial states are merged; num_slots = 0: a query that sees no key.
struct PackedMerge {
  int32_t query, slot_begin, num_slots;
  int32_t unused;
};

// Stands first, and the PackedBin [num_bins] follow; offsets in bytes from its own begin.
//
// Thread blocks form num_bins bins for each KV head. Bin b computes its items in order, then merges b, b + num_bins, ...
struct PackedPlanHeader {
  int32_t num_bins, num_items, num_merges, max_rows;
  uint32_t items;          // PackedItem [num_items], in the order of bins
  uint32_t tiles;          // KvTile [num tiles]
  uint32_t group_queries;  // int32
  uint32_t mask_words;     // uint64
  uint32_t merges;         // PackedMerge [num_merges]
  uint32_t merge_slots;    // int32
  uint32_t unused[6];
};
static_assert(sizeof(PackedPlanHeader) == 64 && sizeof(PackedBin) == 64 && sizeof(PackedItem) == 32 &&
              sizeof(KvTile) == 32);

// Working memory of pack_plan, and its result.
struct PackedPlan {
  std::vector<std::byte> bytes;  // PackedPlanHeader and what it refers to
  std::vector<PackedItem> items;
  std::vector<KvTile> tiles;
  std::vector<uint64_t> mask_words;
  std::vector<PackedMerge> merges;
  std::vector<PackedBin> bins;
  std::vector<PackedItem> items_by_bin;
  std::vector<int32_t> bin_of_item, order;
  std::vector<int64_t> bin_cost;
  int64_t num_rows_read = 0;  // tile rows of all items, padding included

  const PackedPlanHeader& header() const { return *reinterpret_cast<const PackedPlanHeader*>(bytes.data()); }
};

// What an item costs a thread block, in units of reading one tile at the block's share of the memory bandwidth / 8:
// tiles of few rows wait for memory, tiles of many for the tensor cores; each item starts and ends once.
int64_t packed_item_cost(int num_tiles, int num_rows);

// Throws kBadArgument unless pages are of 16 and the plan has at most 4 GiB of tiles and masks.
void pack_plan(const Plan& plan, const AttentionShape& shape, int num_bins, PackedPlan& packed);

}  // namespace deftree::attention
