// What the policies are written with: tiles of queries, the pieces of KV they see, and work items cut from them.
#pragma once

#include <cstdint>
#include <span>

#include "attention/plan.h"

namespace deftree::attention {

// Builds one plan: begin -> add_tile for each tile -> write_chunks for each tile -> finish.
class PlanBuilder {
 public:
  PlanBuilder(const TreeSnapshot& tree, const AttentionShape& shape, const PlanDevice& device, Plan& plan);

  const TreeSnapshot& tree() const { return tree_; }
  const PlanDevice& device() const { return device_; }
  PlanScratch& scratch() { return plan_.scratch; }
  // Most queries of a work item: max_group_rows in whole queries, at least one.
  int max_tile_len() const { return max_tile_len_; }
  // Tokens that queries q - 1 and q both see (of a draft tree: that come before q's own).
  int32_t shared_len(int32_t query) const;

  // A tile of queries [query_begin, query_end) and, as its pieces, all tokens any of them sees.
  void add_tile(int32_t query_begin, int32_t query_end);
  // The same queries with all tokens of the tree as pieces.
  void add_tile_over_all(int32_t query_begin, int32_t query_end);
  // The cost of a work item if the tiles added so far are cut into choose_num_items.
  int64_t target_cost() const;
  // Tokens of all pieces of the tile.
  int64_t num_tokens(const PlanScratch::Tile& tile) const;

  // Cuts pieces [piece_begin, piece_end) of the tile, as one run of tokens, into `chunks` work items of even cost.
  // With dense_mask every token is masked, also those that all queries of the group see.
  void write_chunks(const PlanScratch::Tile& tile, int32_t piece_begin, int32_t piece_end, int chunks,
                    bool dense_mask = false);

  // Orders the items, gives out partial slots and fills merge lists and counters.
  void finish();

 private:
  struct QueryRange {
    int32_t begin, end;
  };
  QueryRange subtree_queries(int32_t node) const {
    return {tree_.query_indptr[node], tree_.query_indptr[tree_.subtree_end[node]]};
  }
  bool sees_draft_token(int32_t node, int32_t token, int32_t begin, int32_t end) const;
  void measure_queries();
  void add_piece(PlanScratch::Tile& tile, int32_t node);
  void write_item(const PlanScratch::Tile& tile, int32_t span_begin, int64_t cost, bool dense_mask);
  void write_group(const PlanScratch::Tile& tile);
  int32_t dense_len(std::span<const int32_t> group) const;
  void write_mask(WorkItem& item);
  void number_partials();

  const TreeSnapshot& tree_;
  const AttentionShape& shape_;
  const PlanDevice& device_;
  Plan& plan_;
  int max_tile_len_;
};

// The policies (plan_deft.cpp, plan_baselines.cpp).
void plan_deft_flatten(PlanBuilder& builder);
void plan_deft_node(PlanBuilder& builder);
void plan_deft_node_chunk(PlanBuilder& builder);
void plan_radix(PlanBuilder& builder);
void plan_medusa(PlanBuilder& builder);

}  // namespace deftree::attention
