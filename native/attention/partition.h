// The planner's tuning choices as small pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/plan.h"

namespace deftree::attention {

// Cost of one KV token for one KV head with `num_rows` query rows, in units of one row's arithmetic on one token.
// Reading and converting a token's K and V costs as much as the arithmetic of about eight rows (attention_bench, on
// one core with AVX-512: a chunk's time grows by that ratio from 1 to 64 rows).
int64_t token_cost(int num_rows);

// The cost a work item should have: `total_cost` over all items and one KV head, shared out so that each processor
// gets several tasks. Largest first, several per processor leave the slowest behind by a fraction of one task; many
// more would only add partial states to merge. One processor needs no balance: its target is the whole.
int64_t target_item_cost(int64_t total_cost, int num_kv_heads, const PlanDevice& device);

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
