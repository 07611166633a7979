// The plan as the kernels read it: one block of bytes that goes to the device in one copy. Kernels know tiles of 64 KV
// rows where the plan knows tokens: row r of a tile is slot r % 16 of its page r / 16.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/params.h"
#include "attention/plan.h"

namespace deftree::attention {

// Rows of a group that one warpgroup computes; a query's rows are in one part of so many.
inline constexpr int kPartRows = 64;

// 64 KV rows.
struct KvTile {
  int32_t page[4];     // -1: no page, its 16 rows are not read
  uint64_t valid;      // bit r: row r is a token of the chunk
  int32_t mask_begin;  // query i of the group sees the rows of mask word mask_begin + i; -1: all see the valid rows.
                       // Even, and the words are padded to an even number, so that they can be copied in bulk
  int32_t flags;       // bit p: a query of part p (kPartRows) of the group sees a row; kTileFresh
};
inline constexpr int kNumParts = 2;
inline constexpr int32_t kAllParts = (1 << kNumParts) - 1;
// This step writes a token of the tile: not to be read before the kernel in front has ended.
inline constexpr int32_t kTileFresh = 1 << 8;

struct PackedItem {
  int32_t tile_begin, num_tiles;
  int32_t query_begin, num_queries;  // into group_queries
  int32_t partial_begin;             // as WorkItem::partial_begin
  int32_t kv_head;
  int32_t unused[2];
};

// What a thread block computes: `first`, then items [next_begin, next_end). The first stands here because
// each load that depends on another delays the start of a short step by most of a microsecond.
struct PackedBin {
  PackedItem first;  // num_tiles = 0: the bin has no item
  int32_t next_begin, next_end;
  int32_t unused[6];
};

// A query whose partial states are merged; num_slots = 0: a query that sees no key. The first slots stand here too: what
// merges wait for should be one load away.
struct PackedMerge {
  static constexpr int kFirstSlots = 8;
  int32_t query, num_slots, slot_begin;
  int32_t unused;
  int32_t first_slots[kFirstSlots];
};

// Stands first, and the PackedBin [num_bins] follow; offsets in bytes from its own begin.
//
// Each work item stands here once for each KV head. Bin b, a thread block, computes its items in order, then the pairs b,
// b + num_bins, ... of merges with KV heads (pair p: merge p / num_kv_heads).
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
              sizeof(KvTile) == 32 && sizeof(PackedMerge) == 48);

// Where a token stands to which packed_append.h adds the next one.
struct AppendPlace {
  int32_t item, tile, row;
  int32_t appended;  // index of the next token
};

// Working memory of pack_plan and append_to_packed_plan, and their result.
struct PackedPlan {
  std::vector<std::byte> bytes;  // PackedPlanHeader and what it refers to
  std::vector<PackedItem> items;  // for KV head 0
  std::vector<KvTile> tiles;
  std::vector<uint64_t> mask_words;
  std::vector<PackedMerge> merges;
  std::vector<PackedBin> bins;
  std::vector<PackedItem> items_by_bin;
  std::vector<int32_t> bin_of_task, order;  // a task: item * num_kv_heads + KV head
  std::vector<int64_t> bin_cost;
  std::vector<int32_t> appended_by_page;  // indices of the tokens, by the page of the one before
  std::vector<AppendPlace> append_places;
  int64_t num_rows_read = 0;  // tile rows of all items, padding included

  int32_t num_tiles() const { return static_cast<int32_t>(tiles.size()); }
  const PackedPlanHeader& header() const { return *reinterpret_cast<const PackedPlanHeader*>(bytes.data()); }
};

// What an item costs a thread block, in eighths of a tile with up to kPartRows rows: twice the rows take twice the time
// (reading keeps up with both), and each item starts and ends once, which takes as long as three tiles.
int64_t packed_item_cost(int num_tiles, int num_rows);

// Behind the tiles of each item of a plan without thousands of items one tile stays free (packed_append.h).
// Throws kBadArgument unless pages are of 16 and the plan has at most 4 GiB of tiles and masks.
void pack_plan(const Plan& plan, const AttentionShape& shape, int num_bins, PackedPlan& packed);

}  // namespace deftree::attention
