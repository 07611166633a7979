// The packed plan says the same as the plan: checked without a GPU.
#include "attention/cuda/packed_plan.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "attention/cuda/packed_reads.h"
#include "attention/cuda/params_cuda.h"
#include "attention/test_trees.h"
#include "common/error.h"
#include "common/test.h"

namespace deftree::attention {
namespace {

constexpr AttentionShape kShape{8, 2, 64, 16};
constexpr PlanDevice kDevice{.num_processors = 64, .min_chunk_len = 16, .max_group_rows = 64, .chunk_align = 1};

Reads reads_of(const Plan& plan) {
  Reads reads;
  for (const WorkItem& item : plan.items) {
    for (int i = 0; i < item.query_end - item.query_begin; ++i) {
      int token = 0;
      for (int s = item.span_begin; s < item.span_end; ++s) {
        for (int slot = plan.spans[s].begin; slot < plan.spans[s].end; ++slot, ++token) {
          const int bit = token - item.dense_len;
          const bool seen =
              bit < 0 || ((plan.mask_words[item.mask_begin + i * item.mask_stride + bit / 64] >> (bit % 64)) & 1);
          if (seen) ++reads[{plan.group_queries[item.query_begin + i], plan.spans[s].page * 16 + slot}];
        }
      }
    }
  }
  return reads;
}

}  // namespace

TEST(packed_plan_reads_what_the_plan_reads) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    TreeSnapshot tree = random_tree(random, 30).snapshot(16);
    scatter_pages(tree, random);
    Plan plan;
    PackedPlan packed;
    for (Policy policy : all_policies()) {
      make_plan(tree, policy, kShape, kDevice, plan);
      pack_plan(plan, kShape, 1 + seed % 20, packed);
      for (int h = 0; h < kShape.num_kv_heads; ++h) CHECK(reads_of(packed, h) == reads_of(plan));
    }
  }
}

TEST(packed_plan_merges_every_query_that_no_item_writes) {
  std::mt19937 random(3);
  NamedTree named = random_tree(random, 20);
  named.nodes.push_back({-1, 0});
  named.queries.push_back(static_cast<int32_t>(named.nodes.size()) - 1);
  const TreeSnapshot tree = named.snapshot(16);
  Plan plan;
  PackedPlan packed;
  make_plan(tree, Policy::kDeftFlatten, kShape, kDevice, plan);
  pack_plan(plan, kShape, 8, packed);
  std::set<int32_t> written;
  for (const WorkItem& item : plan.items) {
    for (int i = item.query_begin; i < item.query_end && item.partial_begin < 0; ++i)
      written.insert(plan.group_queries[i]);
  }
  for (int m = 0; m < packed.header().num_merges; ++m)
    CHECK(written.insert(at<PackedMerge>(packed, packed.header().merges)[m].query).second);
  CHECK_EQ(written.size(), static_cast<size_t>(tree.num_queries()));
}

TEST(packed_plan_joins_small_nodes_of_a_page) {
  // 16 draft tokens as 16 nodes in one page: one page of one tile, not sixteen.
  NamedTree named = star_tree(64, 16, 1);
  TreeSnapshot tree = named.snapshot(16);
  for (int i = 0; i < 16; ++i) tree.spans[4 + i] = {4, static_cast<int16_t>(i), static_cast<int16_t>(i + 1)};
  Plan plan;
  PackedPlan packed;
  PlanDevice device = kDevice;
  device.num_processors = 1;
  make_plan(tree, Policy::kDeftFlatten, kShape, device, plan);
  pack_plan(plan, kShape, 1, packed);
  REQUIRE(packed.items.front().num_tiles == 2);
  CHECK_EQ(packed.tiles[0].mask_begin, -1);
  CHECK_EQ(packed.tiles[1].valid, uint64_t{0xffff});
  CHECK_EQ(packed.tiles[1].page[1], -1);
}

TEST(packed_plan_balances_bins) {
  TreeSnapshot tree = star_tree(2000, 40, 100).snapshot(16);
  Plan plan;
  PackedPlan packed;
  make_plan(tree, Policy::kDeftNodeChunk, kShape, kDevice, plan);
  pack_plan(plan, kShape, 8, packed);
  int64_t largest_item = 0;
  std::vector<int64_t> cost(8, 0);
  for (size_t i = 0; i < packed.bin_of_task.size(); ++i) {
    const PackedItem& item = packed.items[i / kShape.num_kv_heads];
    const int64_t c = packed_item_cost(item.num_tiles, item.num_queries * kShape.group_size());
    cost[packed.bin_of_task[i]] += c;
    largest_item = std::max(largest_item, c);
  }
  const auto [least, most] = std::minmax_element(cost.begin(), cost.end());
  CHECK(*most - *least <= largest_item);  // Graham's bound
}

TEST(packed_plan_marks_what_the_step_writes) {
  // The last token of a node with a query is new; so are all tokens of a masked leaf.
  NamedTree named{"fresh", {{-1, 256}, {0, 128}, {0, 64, NodeMask::kCausal}}, {1}};
  Plan plan;
  PackedPlan packed;
  PlanDevice device = kDevice;
  device.num_processors = 1;
  make_plan(named.snapshot(16), Policy::kDeftNode, kShape, device, plan);
  pack_plan(plan, kShape, 1, packed);
  int num_fresh = 0;
  for (const KvTile& tile : packed.tiles) {
    const bool fresh = tile.flags & kTileFresh;
    num_fresh += fresh;
    CHECK_EQ(fresh, tile.page[0] >= 20);  // tokens 320 and up: the second half of node 1, and the leaf
  }
  CHECK_EQ(num_fresh, 1 + 4);  // the leaf's 64 queries are four groups of 16
}

TEST(packed_plan_tells_which_part_of_a_group_sees_a_tile) {
  // 32 branches of 64 tokens, 4 rows each: a tile for each branch, seen by one of 32 queries.
  const NamedTree named = star_tree(64, 32, 64);
  Plan plan;
  PackedPlan packed;
  PlanDevice device = kDevice;
  device.num_processors = 1;
  device.max_group_rows = 128;
  device.row_step = kPartRows;
  make_plan(named.snapshot(16), Policy::kDeftFlatten, kShape, device, plan);
  pack_plan(plan, kShape, 1, packed);
  REQUIRE(packed.items.front().num_tiles == 33);
  CHECK_EQ(packed.tiles[0].flags & 3, 3);
  for (int branch = 0; branch < 32; ++branch) CHECK_EQ(packed.tiles[1 + branch].flags & 3, branch < 16 ? 1 : 2);
}

TEST(packed_item_cost_counts_reading_or_arithmetic) {
  CHECK_EQ(packed_item_cost(10, 4), packed_item_cost(10, 64));  // one warpgroup's rows take the same time
  CHECK(packed_item_cost(10, 128) > packed_item_cost(10, 64));
  CHECK(packed_item_cost(2, 16) + packed_item_cost(2, 16) > packed_item_cost(4, 16));  // each item has a cost of its own
}

TEST(packed_plan_refuses_other_pages) {
  const AttentionShape shape{8, 2, 64, 32};
  Plan plan;
  PackedPlan packed;
  make_plan(star_tree(100, 2, 10).snapshot(32), Policy::kRadix, shape, kDevice, plan);
  CHECK_ERROR(pack_plan(plan, shape, 4, packed), ErrorCode::kBadArgument);
}

}  // namespace deftree::attention
