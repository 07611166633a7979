// DeFT's partitions (arXiv 2404.00242): a work item is a piece of KV with *all* queries that see it, so shared KV is
// read once for all of them (KV-guided grouping, section 3.2).
//
// More queries than an item may hold are tiled first; each tile then is partitioned alone.
#include "attention/partition.h"
#include "attention/plan_builder.h"

namespace deftree::attention {
namespace {

void add_tiles_of_least_reread(PlanBuilder& builder) {
  PlanScratch& scratch = builder.scratch();
  const int32_t num_queries = builder.tree().num_queries();
  scratch.reread.assign(num_queries, 0);
  if (num_queries > builder.max_tile_len()) {
    for (int32_t q = 1; q < num_queries; ++q) scratch.reread[q] = builder.shared_len(q);
  }
  choose_tiles(scratch.reread, builder.max_tile_len(), scratch, scratch.tile_begin);
  for (size_t i = 0; i < scratch.tile_begin.size(); ++i) {
    const bool last = i + 1 == scratch.tile_begin.size();
    builder.add_tile(scratch.tile_begin[i], last ? num_queries : scratch.tile_begin[i + 1]);
  }
}

int64_t piece_cost(const PlanScratch::Piece& piece) { return piece.len * piece.token_cost; }

// In preorder queries that share a token with any other share one with a neighbour.
bool shares_nothing(const PlanBuilder& builder) {
  for (int32_t q = 1; q < builder.tree().num_queries(); ++q) {
    if (builder.shared_len(q) > 0) return false;
  }
  return true;
}

}  // namespace

// Section 3.3, Algorithms 3 and 4: the nodes depth-first as one run of tokens, cut evenly wherever the cuts fall. The
// paper's chunks hold equally many tokens, which balances a GPU that pads query groups to one tile anyway; here they
// are even in cost, because a token of a prefix that many queries share costs more than one of a leaf. Where nothing is
// shared a chunk that crosses from one query to the next saves no read, and costs a mask and states that plain split-KV
// does without.
void plan_deft_flatten(PlanBuilder& builder) {
  if (shares_nothing(builder)) return plan_radix(builder);
  add_tiles_of_least_reread(builder);
  const int64_t target = builder.target_cost();
  int64_t owed = 0;  // what rounding left of earlier tiles, so that all tiles together make the wanted number of items
  for (const PlanScratch::Tile& tile : builder.scratch().tiles) {
    owed += tile.cost;
    const int chunks = num_chunks(owed, target, builder.num_tokens(tile), builder.device().min_chunk_len);
    owed -= chunks * target;
    builder.write_chunks(tile, tile.piece_begin, tile.piece_end, chunks);
  }
}

// Algorithms 1 and 2: an item per node. A long prefix is one item, however many processors stand idle.
void plan_deft_node(PlanBuilder& builder) {
  add_tiles_of_least_reread(builder);
  for (const PlanScratch::Tile& tile : builder.scratch().tiles) {
    for (int32_t i = tile.piece_begin; i < tile.piece_end; ++i) builder.write_chunks(tile, i, i + 1, 1);
  }
}

// Section 4.4 (ablation): by node, long nodes cut into even chunks. Short nodes stay small items.
void plan_deft_node_chunk(PlanBuilder& builder) {
  add_tiles_of_least_reread(builder);
  const int64_t target = builder.target_cost();
  for (const PlanScratch::Tile& tile : builder.scratch().tiles) {
    for (int32_t i = tile.piece_begin; i < tile.piece_end; ++i) {
      const PlanScratch::Piece& piece = builder.scratch().pieces[i];
      const int chunks = num_chunks(piece_cost(piece), target, piece.len, builder.device().min_chunk_len);
      builder.write_chunks(tile, i, i + 1, chunks);
    }
  }
}

}  // namespace deftree::attention
