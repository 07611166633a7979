#include "cache/tree_cache.h"
#include "cache/tree_cache_test_util.h"
#include "common/error.h"
#include "common/test.h"

namespace deftree {
namespace {

using test::Tokens;

StepSnapshot take(const TreeCache& cache, const std::vector<StepBranch>& steps) {
  StepSnapshot step = cache.snapshot(steps);
  check_snapshot(step.tree);
  test::check_minimal(step.tree);
  return step;
}

// A trunk of 6 tokens and `n` forks of it, each with `own` committed tokens.
struct Forest {
  explicit Forest(int n, int own) {
    trunk = cache.create();
    test::grow(cache, trunk, test::range(0, 6));
    forks = cache.fork(trunk, n);
    for (const BranchId fork : forks) {
      for (int i = 0; i < own; ++i) cache.append(fork, Tokens{100 * (fork + 1) + i});
      cache.commit(fork);
    }
  }
  TreeCache cache{{.num_pages = 64, .page_size = 4}};
  BranchId trunk;
  std::vector<BranchId> forks;
};

}  // namespace

TEST(snapshot_of_no_branch_is_empty) {
  const StepSnapshot step = take(Forest(2, 1).cache, {});
  CHECK_EQ(step.tree.num_nodes(), 0);
  CHECK_EQ(step.tree.num_queries(), 0);
}

TEST(snapshot_of_one_decoding_branch_is_one_node) {
  Forest forest(3, 2);
  forest.cache.append(forest.forks[1], Tokens{7});
  const StepSnapshot step = take(forest.cache, {{forest.forks[1], 1}});
  CHECK_EQ(step.tree.num_nodes(), 1);  // trunk, own tokens and the fresh one have the same query
  CHECK_EQ(step.tree.node_len[0], 9);
  CHECK(step.tree.mask[0] == NodeMask::kNone);
  CHECK_EQ(step.queries[0].position, 8);
  CHECK_EQ(step.queries[0].token, 7);
}

TEST(snapshot_of_forks_reads_the_trunk_once) {
  Forest forest(5, 2);
  std::vector<StepBranch> steps;
  for (const BranchId fork : forest.forks) {
    forest.cache.append(fork, Tokens{7});
    steps.push_back({fork, 1});
  }
  const StepSnapshot step = take(forest.cache, steps);
  CHECK(step.tree.parent == std::vector<int32_t>({-1, 0, 0, 0, 0, 0}));
  CHECK(step.tree.node_len == std::vector<int32_t>({6, 3, 3, 3, 3, 3}));
  CHECK(step.tree.query_indptr == std::vector<int32_t>({0, 0, 1, 2, 3, 4, 5}));
  CHECK(step.tree.subtree_end == std::vector<int32_t>({6, 2, 3, 4, 5, 6}));
  CHECK(step.first_query == std::vector<int32_t>({0, 1, 2, 3, 4}));
}

TEST(snapshot_fresh_tokens_of_branches_at_one_tip_are_leaves_of_their_own) {
  Forest forest(3, 0);
  for (const BranchId fork : forest.forks) forest.cache.append(fork, Tokens{7});
  const StepSnapshot step = take(forest.cache, {{forest.forks[0], 1}, {forest.forks[1], 1}, {forest.forks[2], 1}});
  CHECK(step.tree.node_len == std::vector<int32_t>({6, 1, 1, 1}));
  for (int row = 0; row < 3; ++row) CHECK_EQ(test::visible_slots(step.tree, row).size(), size_t{7});
}

TEST(snapshot_tip_queries_are_shared_and_stand_before_those_below) {
  Forest forest(4, 0);
  forest.cache.append(forest.forks[1], Tokens{7});
  const StepSnapshot step =
      take(forest.cache, {{forest.forks[1], 1}, {forest.forks[0], 0}, {forest.trunk, 0}, {forest.forks[3], 0}});
  CHECK(step.first_query == std::vector<int32_t>({1, 0, 0, 0}));
  CHECK_EQ(step.queries.size(), size_t{2});
  CHECK_EQ(step.queries[0].step_branch, 1);
  CHECK_EQ(step.queries[0].slot, -1);
  CHECK_EQ(step.queries[0].position, 5);
  CHECK_EQ(step.queries[0].token, 5);
  CHECK(step.tree.node_len == std::vector<int32_t>({6, 1}));
  CHECK_EQ(test::visible_slots(step.tree, 0).size(), size_t{6});
  CHECK_EQ(test::visible_slots(step.tree, 1).size(), size_t{7});
}

TEST(snapshot_prefill_chunk_is_a_causal_leaf) {
  Forest forest(1, 3);
  forest.cache.append(forest.forks[0], Tokens{1, 2, 3, 4, 5});
  const StepSnapshot step = take(forest.cache, {{forest.forks[0], 5}});
  CHECK(step.tree.node_len == std::vector<int32_t>({9, 5}));
  CHECK(step.tree.mask[1] == NodeMask::kCausal);
  for (int j = 0; j < 5; ++j) {
    CHECK_EQ(step.queries[j].position, 9 + j);
    CHECK_EQ(test::visible_slots(step.tree, j).size(), size_t(10 + j));
    CHECK_EQ(test::visible_slots(step.tree, j).back(), step.queries[j].slot);
  }
}

TEST(snapshot_first_prefill_is_a_root) {
  TreeCache cache({.num_pages = 8, .page_size = 4});
  const BranchId one = cache.create(), two = cache.create();
  cache.append(one, Tokens{1, 2, 3});
  cache.append(two, Tokens{1});
  const StepSnapshot step = take(cache, {{one, 3}, {two, 1}});
  CHECK(step.tree.parent == std::vector<int32_t>({-1, -1}));
  CHECK(step.tree.mask[0] == NodeMask::kCausal);
  CHECK(step.tree.mask[1] == NodeMask::kNone);
}

TEST(snapshot_draft_is_a_tree_leaf) {
  Forest forest(2, 1);
  forest.cache.append_draft(forest.forks[0], Tokens{1, 2, 3, 4}, Tokens{-1, 0, -1, 2});
  forest.cache.append_draft(forest.forks[1], Tokens{9}, Tokens{-1});
  const StepSnapshot step = take(forest.cache, {{forest.forks[0], 4}, {forest.forks[1], 1}});
  CHECK(step.tree.node_len == std::vector<int32_t>({6, 1, 4, 2}));  // a draft of one token is a plain decode
  CHECK(step.tree.mask[2] == NodeMask::kTree);
  CHECK(step.tree.mask[3] == NodeMask::kNone);
  CHECK(step.tree.tree_parent == std::vector<int32_t>({-1, 0, -1, 2}));
  for (int j = 0; j < 4; ++j) {
    CHECK_EQ(step.queries[j].position, 7 + j % 2);
    CHECK_EQ(test::visible_slots(step.tree, j).size(), size_t(8 + j % 2));
  }
}

TEST(snapshot_passes_by_nodes_that_only_other_branches_need) {
  Forest forest(4, 2);
  const StepSnapshot step = take(forest.cache, {{forest.forks[3], 0}, {forest.forks[0], 0}});
  CHECK(step.tree.node_len == std::vector<int32_t>({6, 2, 2}));
  CHECK_EQ(step.queries[0].token, forest.cache.token_at(forest.forks[3], 7));  // in the order of the step
}

TEST(snapshot_refuses_what_is_no_step) {
  Forest forest(2, 1);
  TreeCache& cache = forest.cache;
  const BranchId empty = cache.create();
  cache.append(forest.forks[0], Tokens{1, 2});
  CHECK_ERROR(take(cache, {{forest.forks[0], 1}}), ErrorCode::kBadArgument);
  CHECK_ERROR(take(cache, {{forest.forks[0], 0}}), ErrorCode::kBadArgument);
  CHECK_ERROR(take(cache, {{forest.forks[1], 1}}), ErrorCode::kBadArgument);
  CHECK_ERROR(take(cache, {{forest.forks[1], 0}, {forest.forks[1], 0}}), ErrorCode::kBadArgument);
  CHECK_ERROR(take(cache, {{empty, 0}}), ErrorCode::kBadArgument);
  CHECK_EQ(take(cache, {{forest.forks[0], 2}, {forest.forks[1], 0}}).queries.size(), size_t{3});
}

TEST(snapshot_reused_buffers_hold_the_new_step_only) {
  Forest forest(6, 3);
  StepSnapshot step;
  std::vector<StepBranch> steps;
  for (const BranchId fork : forest.forks) steps.push_back({fork, 0});
  forest.cache.snapshot(steps, step);
  const StepBranch one = {forest.trunk, 0};
  forest.cache.snapshot({&one, 1}, step);
  check_snapshot(step.tree);
  CHECK_EQ(step.tree.num_nodes(), 1);
  CHECK_EQ(step.queries.size(), size_t{1});
  CHECK_EQ(step.first_query.size(), size_t{1});
}

TEST(check_snapshot_notices_each_broken_rule) {
  Forest forest(3, 2);
  forest.cache.append_draft(forest.forks[0], Tokens{1, 2, 3}, Tokens{-1, 0, 1});
  const StepSnapshot step = take(forest.cache, {{forest.forks[0], 3}, {forest.forks[1], 0}, {forest.forks[2], 0}});
  // Nodes: 0 trunk, 1 own tokens of fork 0, 2 its draft, 3 and 4 the other forks.
  using Break = void (*)(TreeSnapshot&);
  const std::vector<Break> breaks = {
      [](TreeSnapshot& tree) { tree.page_size = 3; },
      [](TreeSnapshot& tree) { tree.parent[3] = 2; },
      [](TreeSnapshot& tree) { tree.parent[1] = 3; },
      [](TreeSnapshot& tree) { tree.parent.pop_back(); },
      [](TreeSnapshot& tree) { tree.subtree_end[0] = 3; },
      [](TreeSnapshot& tree) { tree.subtree_end[4] = 4; },
      [](TreeSnapshot& tree) { tree.node_len[1] += 1; },
      [](TreeSnapshot& tree) { tree.mask[0] = NodeMask::kCausal; },
      [](TreeSnapshot& tree) { tree.mask[2] = NodeMask::kCausal; },
      [](TreeSnapshot& tree) { tree.mask[3] = NodeMask::kCausal; },
      [](TreeSnapshot& tree) { tree.spans[0].page = -1; },
      [](TreeSnapshot& tree) { tree.spans[0].end = tree.spans[0].begin; },
      [](TreeSnapshot& tree) {
        tree.spans[1] = tree.spans[0];
        tree.node_len[0] += 2;
      },
      [](TreeSnapshot& tree) { tree.span_indptr[0] = 1; },
      [](TreeSnapshot& tree) { tree.span_indptr.back() += 1; },
      [](TreeSnapshot& tree) { tree.query_indptr[2] = 4; },
      [](TreeSnapshot& tree) { tree.tree_parent[1] = 1; },
      [](TreeSnapshot& tree) { tree.tree_parent[1] = -2; },
      [](TreeSnapshot& tree) { tree.tree_parent_indptr[1] = 1; },
  };
  for (size_t i = 0; i < breaks.size(); ++i) {
    TreeSnapshot tree = step.tree;
    breaks[i](tree);
    const int before = test::failures();
    CHECK_ERROR(check_snapshot(tree), ErrorCode::kInternal);
    if (test::failures() > before) std::printf("    break %zu\n", i);
  }
}

TEST(check_snapshot_allows_siblings_the_same_slots) {
  TreeSnapshot tree;
  tree.page_size = 4;
  tree.parent = {-1, -1};
  tree.subtree_end = {1, 2};
  tree.node_len = {2, 2};
  tree.mask = {NodeMask::kNone, NodeMask::kNone};
  tree.span_indptr = {0, 1, 2};
  tree.spans = {{0, 0, 2}, {0, 0, 2}};
  tree.query_indptr = {0, 1, 2};
  tree.tree_parent_indptr = {0, 0, 0};
  check_snapshot(tree);
  tree.parent[1] = 0;
  tree.subtree_end[0] = 2;
  CHECK_ERROR(check_snapshot(tree), ErrorCode::kInternal);
}

}  // namespace deftree
