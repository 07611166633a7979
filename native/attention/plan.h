// plan: host, once per step, from the snapshot. run: once per layer. (DeFT, arXiv 2404.00242, sections 3.2-3.3.)
//
// Every policy emits the same work items; a kernel knows no policy.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "attention/params.h"
#include "cache/tree_snapshot.h"

namespace deftree::attention {

enum class Policy : uint8_t { kDeftFlatten, kDeftNode, kDeftNodeChunk, kFlashDecoding, kRadix, kMedusa };

// "deft-flatten", "deft-node", "deft-node-chunk", "flash-decoding", "radix", "medusa".
std::string_view policy_name(Policy policy);
// Throws kBadArgument that lists the names.
Policy parse_policy(std::string_view name);
std::span<const Policy> all_policies();

// What the partition must know of the device.
struct PlanDevice {
  int num_processors;   // threads of the pool, or multiprocessors
  int min_chunk_len;    // KV tokens below which a cut costs more than it balances
  int max_group_rows;   // query rows (queries * group_size) one work item may hold
  int chunk_align = 1;  // a cut is made after a multiple of so many pages: what a kernel takes at a time
  int row_step = 1;     // rows are computed so many at a time, all rows of a query in one step
  int wide_tokens = 0;  // KV tokens a processor from which groups of more than row_step rows pay (choose_group_rows)
  // The cost model (partition.h). The defaults are a CPU core's.
  int read_cost = 8;       // of a KV token, in rows of arithmetic
  int state_cost = 24;     // of a row's share in starting, ending and merging an item, in tokens of arithmetic
  double lateness = 0.25;  // of the last processor, in tasks: another process, a cold cache
  bool reads_ahead = false;  // reading and arithmetic go on together: the slower of the two counts, not their sum
  int enough_tasks = 0;      // with so many tasks a processor no tile of queries is cut further; 0: no such number
};

// (KV chunk, query group): computed for each KV head by one worker.
struct WorkItem {
  int32_t span_begin, span_end;    // into Plan::spans; the chunk is their tokens in order
  int32_t kv_len;                  // tokens in those spans
  int32_t query_begin, query_end;  // into Plan::group_queries
  int32_t dense_len;               // leading tokens of the chunk that every query of the group sees
  int32_t mask_begin;              // into Plan::mask_words; -1 when dense_len == kv_len. For query i of the group the
                                   // words are at mask_begin + i * mask_stride, bit t of word w = token
                                   // dense_len + 64 w + t of the chunk is visible
  int32_t mask_stride;             // words per query = ceil((kv_len - dense_len) / 64)
  int32_t partial_begin;           // partial slot of the group's first query, the others follow; -1: the only item of
                                   // these queries, so it writes out directly
  int32_t cost;                    // estimated, in rows of arithmetic on a token (partition.h)
};

// Exact counts for one layer; the engine multiplies by layers.
struct PlanCounters {
  int64_t kv_tokens_read;      // sum over items of kv_len
  int64_t kv_tokens_unshared;  // sum over queries of the keys each sees: what reading without sharing costs
  int64_t mask_bytes;
  int64_t partial_states;  // (O, LSE) pairs per query head written before the merge
  int32_t num_items;
  int32_t num_queries;
};

// Working memory of make_plan, kept so that planning a step allocates nothing once sizes have settled.
struct PlanScratch {
  struct Tile {  // a range of queries whose paths are flattened together
    int32_t query_begin, query_end;
    int32_t piece_begin, piece_end;  // into `pieces`
    int64_t cost;
  };
  struct Piece {  // the leading `len` tokens of a node
    int32_t node, len;
    int64_t token_cost;
  };
  struct ChunkPiece {  // tokens [begin, end) of a node
    int32_t node, begin, end;
  };
  std::vector<Tile> tiles;
  std::vector<Piece> pieces;
  std::vector<ChunkPiece> chunk;     // of the work item being written
  std::vector<int32_t> num_keys;     // [num_queries] keys each query sees
  std::vector<int32_t> query_node;   // [num_queries]
  std::vector<int32_t> path_len;     // [num_nodes] tokens from the root to the node's end
  std::vector<int32_t> draft_depth;  // of the kTree node at hand
  std::vector<int32_t> reread;       // [num_queries] see choose_tiles
  std::vector<int32_t> tile_begin;   // [num tiles]
  std::vector<int32_t> tile_from;    // [num_queries + 1]
  std::vector<int64_t> tile_cost;    // [num_queries + 1]
  std::vector<int32_t> candidates;
  std::vector<int32_t> num_items;  // [num_queries] items that hold the query
};

struct Plan {
  Policy policy = Policy::kDeftFlatten;
  std::vector<PageSpan> spans;
  std::vector<uint8_t> span_is_fresh;  // [spans.size()] 1: this step writes a token of the span
  std::vector<int32_t> group_queries;  // query rows, each item's group a consecutive range
  std::vector<uint64_t> mask_words;
  std::vector<WorkItem> items;         // largest estimated cost first
  std::vector<int32_t> merge_indptr;   // [num_queries + 1] into merge_slots; empty range: written directly, or empty
  std::vector<int32_t> merge_slots;    // partial slots of a query
  std::vector<int32_t> empty_queries;  // queries that see no key: no item holds them, run writes zeros
  int32_t num_partials = 0;            // partial slots in all
  int32_t max_group_len = 0;           // most queries of an item
  PlanCounters counters{};
  PlanScratch scratch;
};

// Fills `plan` (its buffers are reused). An item holds whole page spans, the last of a masked leaf aside, so chunks end
// at page boundaries. kFlashDecoding plans like kRadix and expects that each query's path is stored for it alone
// (TreeCache::make_private). Throws kBadArgument for a shape or device with sizes below 1.
void make_plan(const TreeSnapshot& snapshot, Policy policy, const AttentionShape& shape, const PlanDevice& device,
               Plan& plan);

}  // namespace deftree::attention
