// The planner's tuning choices as small pure functions. Costs are in units of one query row's arithmetic on one KV
// token, for one KV head.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/plan.h"

namespace deftree::attention {

// What `num_rows` query rows take the time of.
int padded_rows(int num_rows, const PlanDevice& device);

// Cost of one KV token with `num_rows` query rows. By default reading it costs eight rows' arithmetic: on a Xeon core
// with AVX-512 a row takes 1.9 ns per token of head_dim 64, and its 256 bytes of f16 K and V 18 ns from memory, 6 ns
// from the cache. A GPU that reads ahead pays for the rows only where they take longer than the read, and of
// `num_readers` work items that read the token only one waits for memory, the others find it in the cache.
int64_t token_cost(int num_rows, const PlanDevice& device, int num_readers = 1);

// Query rows an item's group may hold. In a short step, whose processors have few KV tokens each, groups are of one
// row_step: each processor then loads half the queries and writes half the partial states, for twice the K and V, which
// it fetches ahead. From wide_tokens a processor on, groups are of max_group_rows.
int choose_group_rows(int64_t num_tokens, int num_rows, int num_kv_heads, const PlanDevice& device);

// What a tile partition is made of, summed over its tiles.
struct PartitionLoad {
  int64_t cost = 0;      // sum of token_cost
  int64_t num_rows = 0;  // query rows of all tiles
  int32_t num_tiles = 0;
  int32_t max_items = 0;  // that min_chunk_len allows
};

// How many work items make the step shortest on `device`: their tasks (an item for one KV head) run in
// ceil(tasks / processors) waves, and each item more loads its rows' queries, writes their partial states and has them
// merged (45 + 9 ns a row on the core above). The answer lies between num_tiles and max_items. For example 3 KV heads
// on 2 processors: one item gives 3 tasks, a third of the time one processor idles; two items give 6.
int32_t choose_num_items(const PartitionLoad& load, int num_kv_heads, const PlanDevice& device);

// Into how many chunks a run of `num_tokens` with `cost` is cut: the nearest to the target that keeps chunks at or
// above min_chunk_len; at least 1.
int num_chunks(int64_t cost, int64_t target_cost, int64_t num_tokens, int min_chunk_len);

// Cuts queries into consecutive tiles of at most `max_tile_len` so that the fewest KV tokens are read again.
// reread[q] (0 < q < num_queries): tokens that queries q - 1 and q both see, which a cut before q makes two tiles read.
// A tile reads the union of its paths, so the sum of reread over the cuts is exactly what tiling costs, and the best
// cuts follow from a shortest-path recurrence with a sliding minimum: O(num_queries). Of equal choices the longest
// tiles at the end win. Writes the first query of each tile, ascending, to `tile_begin`.
void choose_tiles(std::span<const int32_t> reread, int max_tile_len, PlanScratch& scratch,
                  std::vector<int32_t>& tile_begin);

}  // namespace deftree::attention
