// Plans: what every policy must keep, and what each is for.
#include "attention/plan.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "attention/partition.h"
#include "attention/test_trees.h"
#include "common/error.h"
#include "common/test.h"

namespace deftree::attention {
namespace {

constexpr AttentionShape kShape{6, 2, 64, 16};
constexpr PlanDevice kDevice{2, 32, 96};  // 32 queries of 3 rows

Plan plan_of(const TreeSnapshot& tree, Policy policy, const PlanDevice& device = kDevice) {
  Plan plan;
  make_plan(tree, policy, kShape, device, plan);
  return plan;
}

// Straight from the definition in tree_snapshot.h: visible[query] = the slots it sees.
std::vector<std::set<int32_t>> visible_slots(const TreeSnapshot& tree) {
  std::vector<std::set<int32_t>> visible(tree.num_queries());
  for (int node = 0; node < tree.num_nodes(); ++node) {
    std::vector<int32_t> slots;
    for (int s = tree.span_indptr[node]; s < tree.span_indptr[node + 1]; ++s) {
      for (int i = tree.spans[s].begin; i < tree.spans[s].end; ++i)
        slots.push_back(tree.spans[s].page * tree.page_size + i);
    }
    for (int q = tree.query_indptr[node]; q < tree.query_indptr[tree.subtree_end[node]]; ++q) {
      const int own = q - tree.query_indptr[node];
      switch (tree.mask[node]) {
        case NodeMask::kNone:
          visible[q].insert(slots.begin(), slots.end());
          break;
        case NodeMask::kCausal:
          visible[q].insert(slots.begin(), slots.begin() + own + 1);
          break;
        case NodeMask::kTree:
          for (int t = own; t >= 0; t = tree.tree_parent[tree.tree_parent_indptr[node] + t])
            visible[q].insert(slots[t]);
          break;
      }
    }
  }
  return visible;
}

bool item_sees(const Plan& plan, const WorkItem& item, int query_in_group, int token) {
  const int bit = token - item.dense_len;
  if (bit < 0) return true;
  return (plan.mask_words[item.mask_begin + query_in_group * item.mask_stride + bit / 64] >> (bit % 64)) & 1;
}

void check_plan(const TreeSnapshot& tree, const Plan& plan, const PlanDevice& device, const std::string& where) {
  auto require = [&](bool ok, const char* what) {
    if (!ok) test::fail(__FILE__, __LINE__, where + ": " + what);
  };
  const auto visible = visible_slots(tree);
  std::vector<std::map<int32_t, int>> covered(tree.num_queries());
  std::vector<std::vector<int32_t>> slots_of(tree.num_queries());
  std::vector<int> items_of(tree.num_queries());
  std::vector<int> partial_uses(plan.num_partials);
  int64_t tokens_read = 0, unshared = 0, last_cost = INT64_MAX;
  size_t mask_words = 0;

  for (const WorkItem& item : plan.items) {
    const int group_len = item.query_end - item.query_begin;
    const int rows = group_len * kShape.group_size();
    require(group_len > 0 && item.kv_len > 0, "an item has queries and keys");
    require(group_len == 1 || rows <= device.max_group_rows, "a group fits max_group_rows");
    require(std::is_sorted(&plan.group_queries[item.query_begin], &plan.group_queries[item.query_begin] + group_len),
            "a group is in order");
    require(item.cost <= last_cost, "the largest item comes first");
    last_cost = item.cost;

    std::vector<int32_t> slots;
    for (int s = item.span_begin; s < item.span_end; ++s) {
      const PageSpan span = plan.spans[s];
      require(span.len() > 0, "no span is empty");
      for (int i = span.begin; i < span.end; ++i) slots.push_back(span.page * tree.page_size + i);
    }
    require(static_cast<int>(slots.size()) == item.kv_len, "kv_len is the spans' tokens");
    require((item.dense_len == item.kv_len) == (item.mask_begin < 0), "a mask exists exactly where it is needed");
    require(item.mask_stride == (item.kv_len - item.dense_len + 63) / 64, "mask_stride covers the masked tokens");
    if (item.mask_begin >= 0) mask_words += static_cast<size_t>(group_len) * item.mask_stride;

    for (int i = 0; i < group_len; ++i) {
      const int query = plan.group_queries[item.query_begin + i];
      ++items_of[query];
      int seen = 0;
      for (int token = 0; token < item.kv_len; ++token) {
        if (!item_sees(plan, item, i, token)) continue;
        ++covered[query][slots[token]];
        ++seen;
      }
      require(seen > 0, "a query of the group sees a key of the chunk");
      for (int bit = item.kv_len - item.dense_len; bit < 64 * item.mask_stride; ++bit) {
        const uint64_t word = plan.mask_words[item.mask_begin + i * item.mask_stride + bit / 64];
        require(((word >> (bit % 64)) & 1) == 0, "no mask bit stands past the chunk");
      }
      if (item.partial_begin >= 0) {
        ++partial_uses[item.partial_begin + i];
        slots_of[query].push_back(item.partial_begin + i);
      }
    }
    tokens_read += item.kv_len;
  }

  for (int q = 0; q < tree.num_queries(); ++q) {
    unshared += static_cast<int64_t>(visible[q].size());
    bool once = covered[q].size() == visible[q].size();
    for (const auto& [slot, count] : covered[q]) once = once && count == 1 && visible[q].count(slot) == 1;
    require(once, "each visible (query, key) pair is in exactly one item, no other pair in any");
    std::vector<int32_t> merged(plan.merge_slots.begin() + plan.merge_indptr[q],
                                plan.merge_slots.begin() + plan.merge_indptr[q + 1]);
    require(merged == slots_of[q], "a query merges the partial slots its items write");
    require(items_of[q] <= 1 || static_cast<int>(merged.size()) == items_of[q], "a query of several items is merged");
    const bool empty = std::count(plan.empty_queries.begin(), plan.empty_queries.end(), q) == 1;
    require(empty == visible[q].empty(), "empty_queries are those without keys");
  }
  require(std::all_of(partial_uses.begin(), partial_uses.end(), [](int n) { return n == 1; }),
          "each partial slot is written once");
  require(plan.counters.kv_tokens_read == tokens_read, "kv_tokens_read");
  require(plan.counters.kv_tokens_unshared == unshared, "kv_tokens_unshared");
  require(plan.counters.mask_bytes == static_cast<int64_t>(8 * mask_words), "mask_bytes");
  require(plan.counters.partial_states == int64_t{plan.num_partials} * kShape.num_qo_heads, "partial_states");
  require(plan.counters.num_items == static_cast<int>(plan.items.size()), "num_items");
  require(plan.counters.num_queries == tree.num_queries(), "num_queries");
}

int64_t num_tokens(const TreeSnapshot& tree) {
  int64_t sum = 0;
  for (int32_t len : tree.node_len) sum += len;
  return sum;
}

}  // namespace

TEST(policy_names_round_trip) {
  for (Policy policy : all_policies()) CHECK(parse_policy(policy_name(policy)) == policy);
  CHECK_EQ(all_policies().size(), size_t{6});
  CHECK(all_policies()[0] == Policy::kDeftFlatten);
  CHECK_ERROR(parse_policy("deft"), ErrorCode::kBadArgument);
}

TEST(every_plan_covers_each_visible_pair_once) {
  for (unsigned seed = 0; seed < 150; ++seed) {
    std::mt19937 random(seed);
    auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
    TreeSnapshot tree = random_tree(random, 20).snapshot(16);
    scatter_pages(tree, random);
    check_snapshot(tree);
    const PlanDevice device{pick(1, 6), pick(1, 60), pick(1, 120), pick(1, 4)};
    for (Policy policy : all_policies()) {
      const std::string where = "tree " + std::to_string(seed) + ", " + std::string(policy_name(policy));
      check_plan(tree, plan_of(tree, policy, device), device, where);
    }
  }
}

TEST(named_trees_are_covered_too) {
  for (const NamedTree& named :
       {star_tree(500, 20, 30), level_tree({1, 4, 16, 100}, {200, 50, 20, 5}), level_tree({8, 64}, {100, 10}),
        draft_tree(300, 64, 3), prefill_tree(0, 300), prefill_tree(200, 300), star_tree(100, 1, 1)}) {
    const TreeSnapshot tree = named.snapshot(16);
    check_snapshot(tree);
    for (Policy policy : all_policies())
      check_plan(tree, plan_of(tree, policy), kDevice, named.name + ", " + std::string(policy_name(policy)));
  }
}

TEST(deft_reads_shared_keys_once_and_radix_reads_them_per_query) {
  const TreeSnapshot tree = level_tree({1, 3, 12}, {320, 64, 32}).snapshot(16);
  for (Policy policy : {Policy::kDeftFlatten, Policy::kDeftNode, Policy::kDeftNodeChunk, Policy::kMedusa})
    CHECK_EQ(plan_of(tree, policy).counters.kv_tokens_read, num_tokens(tree));
  for (Policy policy : {Policy::kRadix, Policy::kFlashDecoding}) {
    const Plan plan = plan_of(tree, policy);
    CHECK_EQ(plan.counters.kv_tokens_read, plan.counters.kv_tokens_unshared);
    CHECK_EQ(plan.counters.kv_tokens_read, int64_t{12 * (320 + 64 + 32)});
  }
}

TEST(flatten_balances_where_nodes_do_not) {
  const TreeSnapshot tree = star_tree(4000, 20, 200).snapshot(16);
  const PlanDevice device{8, 32, 96, 1};
  auto largest_to_mean = [&](Policy policy) {
    const Plan plan = plan_of(tree, policy, device);
    double total = 0, largest = 0;
    for (const WorkItem& item : plan.items) {
      total += item.cost;
      largest = std::max<double>(largest, item.cost);
    }
    return largest * static_cast<double>(plan.items.size()) / total;
  };
  CHECK(largest_to_mean(Policy::kDeftFlatten) < 1.1);
  CHECK(largest_to_mean(Policy::kDeftNode) > 10);  // the prefix is one item
  CHECK_EQ(plan_of(tree, Policy::kDeftNode, device).counters.num_items, 21);
  CHECK_EQ(plan_of(tree, Policy::kDeftNode, device).counters.mask_bytes, int64_t{0});
  CHECK(plan_of(tree, Policy::kDeftNodeChunk, device).counters.num_items > 21);
}

TEST(flatten_is_split_kv_where_nothing_is_shared) {
  const PlanDevice device{264, 64, 128, 4};
  const auto items_of = [&](const TreeSnapshot& tree, Policy policy) {
    const Plan plan = plan_of(tree, policy, device);
    std::vector<std::vector<int32_t>> items;
    for (const WorkItem& item : plan.items)
      items.push_back({item.span_begin, item.span_end, item.query_begin, item.query_end, item.mask_begin});
    return items;
  };
  const TreeSnapshot alone = level_tree({5, 5}, {0, 700}).snapshot(16);
  CHECK(items_of(alone, Policy::kDeftFlatten) == items_of(alone, Policy::kFlashDecoding));
  const TreeSnapshot shared = level_tree({1, 5}, {700, 700}).snapshot(16);
  CHECK(items_of(shared, Policy::kDeftFlatten) != items_of(shared, Policy::kFlashDecoding));
}

TEST(medusa_is_one_item_under_a_dense_mask) {
  const TreeSnapshot tree = draft_tree(100, 20, 2).snapshot(16);
  const Plan plan = plan_of(tree, Policy::kMedusa);
  CHECK_EQ(plan.counters.num_items, 1);
  CHECK_EQ(plan.items[0].dense_len, 0);
  CHECK_EQ(plan.counters.mask_bytes, int64_t{20 * 2 * 8});  // 120 tokens: two words a query
}

TEST(prefill_is_tiled_by_queries_and_masked_only_on_the_diagonal) {
  const TreeSnapshot tree = prefill_tree(320, 96).snapshot(16);
  for (Policy policy : {Policy::kDeftFlatten, Policy::kRadix}) {
    const Plan plan = plan_of(tree, policy, {1, 32, 96, 1});
    CHECK_EQ(plan.counters.num_items, 3);  // 96 queries, 32 of 3 rows each an item
    CHECK_EQ(plan.counters.partial_states, int64_t{0});
    // The tiles read 320 + 32, 320 + 64 and 320 + 96 tokens; 31 of each are seen by some of the tile's queries only.
    CHECK_EQ(plan.counters.kv_tokens_read, int64_t{3 * 320 + 32 + 64 + 96});
    for (const WorkItem& item : plan.items) CHECK_EQ(item.kv_len - item.dense_len, 31);
  }
}

TEST(draft_tokens_share_one_read_of_the_prefix) {
  const TreeSnapshot tree = draft_tree(1000, 32, 2).snapshot(16);
  for (Policy policy : {Policy::kDeftFlatten, Policy::kDeftNode, Policy::kRadix})
    CHECK_EQ(plan_of(tree, policy).counters.kv_tokens_read, int64_t{1032});
}

TEST(tiles_fall_between_trees_and_not_inside_them) {
  // Three prompts of 20 branches; an item takes 32 queries. Tiles of 32 would read two prompts twice.
  const TreeSnapshot tree = level_tree({3, 60}, {500, 10}).snapshot(16);
  CHECK_EQ(plan_of(tree, Policy::kDeftFlatten).counters.kv_tokens_read, num_tokens(tree));
}

TEST(choose_tiles_finds_the_least_reread) {
  std::mt19937 random(3);
  PlanScratch scratch;
  for (int round = 0; round < 300; ++round) {
    const int n = 1 + static_cast<int>(random() % 12), most = 1 + static_cast<int>(random() % 5);
    std::vector<int32_t> reread(n);
    for (int32_t& tokens : reread) tokens = static_cast<int32_t>(random() % 6);
    std::vector<int32_t> begins;
    choose_tiles(reread, most, scratch, begins);

    auto cost_of = [&](uint32_t cuts) {  // bit q: a cut before query q; -1 when a tile is too long
      int64_t cost = 0;
      int len = 0;
      for (int q = 0; q < n; ++q) {
        if (q > 0 && ((cuts >> q) & 1)) cost += reread[q], len = 0;
        if (++len > most) return int64_t{-1};
      }
      return cost;
    };
    uint32_t chosen = 0;
    for (int32_t begin : begins) chosen |= 1u << begin;
    int64_t best = INT64_MAX;
    for (uint32_t cuts = 0; cuts < (1u << n); cuts += 2) {
      const int64_t cost = cost_of(cuts);
      if (cost >= 0) best = std::min(best, cost);
    }
    CHECK_EQ(begins[0], 0);
    CHECK_EQ(cost_of(chosen & ~1u), best);
  }
}

TEST(number_of_items_fits_heads_to_processors) {
  // Large load: partial states weigh little.
  const PartitionLoad large{.cost = 10'000'000, .num_rows = 48, .num_tiles = 1, .max_items = 100};
  CHECK_EQ(choose_num_items(large, 3, {1, 1, 1}), 1);          // one processor needs no balance
  CHECK_EQ(choose_num_items(large, 3, {2, 1, 1}) * 3 % 2, 0);  // 3 heads on 2 processors: an even number of items
  CHECK(choose_num_items(large, 8, {4, 1, 1}) * 8 >= 2 * 4);
  // A load so small that cutting it only adds states to merge.
  const PartitionLoad small{.cost = 1'000, .num_rows = 48, .num_tiles = 1, .max_items = 100};
  CHECK_EQ(choose_num_items(small, 3, {2, 1, 1}), 1);
  CHECK_EQ(choose_num_items({.cost = 10'000'000, .num_rows = 48, .num_tiles = 1, .max_items = 3}, 1, {64, 1, 1}), 3);
  CHECK_EQ(choose_num_items({}, 1, {8, 1, 1}), 0);
}

TEST(rows_are_computed_in_steps_and_beside_the_reads) {
  PlanDevice device = kDevice;
  CHECK_EQ(token_cost(5, device), device.read_cost + 5);
  device.row_step = 64;
  device.reads_ahead = true;
  device.read_cost = 70;
  CHECK_EQ(token_cost(5, device), 70);
  CHECK_EQ(token_cost(65, device), 128);
}

TEST(groups_are_wide_where_processors_have_much_to_read) {
  PlanDevice device{.num_processors = 16, .min_chunk_len = 16, .max_group_rows = 128, .row_step = 64, .wide_tokens = 100};
  CHECK_EQ(choose_group_rows(100, 128, 8, device), 64);    // 50 tokens a processor
  CHECK_EQ(choose_group_rows(200, 128, 8, device), 128);   // 100
  CHECK_EQ(choose_group_rows(100, 256, 8, device), 128);   // two groups read the tokens
  CHECK_EQ(choose_group_rows(100, 128, 8, kDevice), kDevice.max_group_rows);
}

TEST(all_rows_of_a_query_are_in_one_step) {
  PlanDevice device{.num_processors = 1, .min_chunk_len = 16, .max_group_rows = 128, .row_step = 64};
  const AttentionShape shape{10, 2, 64, 16};  // 5 rows a query: 12 queries in 64 rows, 24 in 128
  Plan plan;
  make_plan(star_tree(64, 60, 16).snapshot(16), Policy::kDeftFlatten, shape, device, plan);
  CHECK_EQ(plan.max_group_len, 24);
}

TEST(enough_tiles_of_queries_are_not_cut) {
  PlanDevice device{.num_processors = 3, .min_chunk_len = 16, .max_group_rows = 96, .enough_tasks = 1};
  const TreeSnapshot tree = star_tree(3000, 64, 50).snapshot(16);  // two tiles, four tasks
  const Plan plan = plan_of(tree, Policy::kDeftFlatten, device);
  CHECK_EQ(plan.num_partials, 0);
  device.enough_tasks = 0;
  CHECK(plan_of(tree, Policy::kDeftFlatten, device).num_partials > 0);
}

TEST(chunks_keep_their_least_length) {
  CHECK_EQ(num_chunks(1000, 250, 1000, 1), 4);
  CHECK_EQ(num_chunks(1000, 250, 1000, 400), 2);
  CHECK_EQ(num_chunks(1000, 250, 100, 400), 1);
  CHECK_EQ(num_chunks(10, 1000, 1000, 1), 1);
}

TEST(planning_again_gives_the_same_and_allocates_nothing) {
  const TreeSnapshot tree = level_tree({1, 4, 20}, {400, 60, 30}).snapshot(16);
  Plan plan, fresh;
  make_plan(tree, Policy::kDeftFlatten, kShape, kDevice, plan);
  const void* buffers[] = {plan.spans.data(), plan.items.data(), plan.mask_words.data(), plan.scratch.pieces.data()};
  make_plan(star_tree(64, 2, 16).snapshot(16), Policy::kMedusa, kShape, kDevice, plan);
  make_plan(tree, Policy::kDeftFlatten, kShape, kDevice, plan);
  make_plan(tree, Policy::kDeftFlatten, kShape, kDevice, fresh);
  const void* again[] = {plan.spans.data(), plan.items.data(), plan.mask_words.data(), plan.scratch.pieces.data()};
  CHECK(std::equal(std::begin(buffers), std::end(buffers), again));
  CHECK(plan.spans == fresh.spans && plan.group_queries == fresh.group_queries && plan.mask_words == fresh.mask_words);
  CHECK(plan.merge_slots == fresh.merge_slots && plan.merge_indptr == fresh.merge_indptr);
  CHECK_EQ(plan.counters.kv_tokens_read, fresh.counters.kv_tokens_read);
}

TEST(nothing_to_do_is_a_plan_too) {
  TreeSnapshot empty = make_snapshot({}, {}, 16);
  const SnapshotNode roots[] = {{-1, 0}};
  const int32_t query[] = {0};
  const TreeSnapshot no_keys = make_snapshot(roots, query, 16);
  for (Policy policy : all_policies()) {
    CHECK_EQ(plan_of(empty, policy).items.size(), size_t{0});
    const Plan plan = plan_of(no_keys, policy);
    CHECK_EQ(plan.items.size(), size_t{0});
    CHECK_EQ(plan.empty_queries.size(), size_t{1});
  }
}

TEST(impossible_shapes_and_devices_are_refused) {
  const TreeSnapshot tree = star_tree(10, 2, 3).snapshot(16);
  Plan plan;
  CHECK_ERROR(make_plan(tree, Policy::kRadix, {6, 4, 64, 16}, kDevice, plan), ErrorCode::kBadArgument);
  CHECK_ERROR(make_plan(tree, Policy::kRadix, {6, 0, 64, 16}, kDevice, plan), ErrorCode::kBadArgument);
  CHECK_ERROR(make_plan(tree, Policy::kRadix, kShape, {0, 1, 1}, plan), ErrorCode::kBadArgument);
  CHECK_ERROR(make_plan(tree, Policy::kRadix, kShape, {1, 0, 1}, plan), ErrorCode::kBadArgument);
}

}  // namespace deftree::attention
