// What tree attention is compared with, in the same work items and on the same kernels.
#include <algorithm>

#include "attention/partition.h"
#include "attention/plan_builder.h"

namespace deftree::attention {

// Query-guided: each branch reads its whole path, as paged attention over a radix cache does (SGLang, arXiv
// 2312.07104); the KV is stored once and read once per branch. Long paths are cut as Flash-Decoding cuts them
// (split-KV). The fresh tokens of one masked leaf belong to one branch and share its read, as in those engines'
// prefill.
void plan_radix(PlanBuilder& builder) {
  const TreeSnapshot& tree = builder.tree();
  for (int32_t node = 0; node < tree.num_nodes(); ++node) {
    const int32_t step = tree.mask[node] == NodeMask::kNone ? 1 : builder.max_tile_len();
    const int32_t end = tree.query_indptr[node + 1];
    for (int32_t q = tree.query_indptr[node]; q < end; q += step) builder.add_tile(q, std::min(q + step, end));
  }
  const int64_t target = builder.target_cost();
  for (const PlanScratch::Tile& tile : builder.scratch().tiles) {
    const int chunks = num_chunks(tile.cost, target, builder.num_tokens(tile), builder.device().min_chunk_len);
    builder.write_chunks(tile, tile.piece_begin, tile.piece_end, chunks);
  }
}

// Medusa's tree attention (arXiv 2401.10774): all queries against all KV under one dense mask, nothing split. Only the
// limit on an item's rows makes several items of it.
void plan_medusa(PlanBuilder& builder) {
  const int32_t num_queries = builder.tree().num_queries();
  for (int32_t q = 0; q < num_queries; q += builder.max_tile_len())
    builder.add_tile_over_all(q, std::min(q + builder.max_tile_len(), num_queries));
  for (const PlanScratch::Tile& tile : builder.scratch().tiles)
    builder.write_chunks(tile, tile.piece_begin, tile.piece_end, 1, /*dense_mask=*/true);
}

}  // namespace deftree::attention
