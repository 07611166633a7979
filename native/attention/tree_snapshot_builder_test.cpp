#include "attention/tree_snapshot_builder.h"

#include <random>
#include <vector>

#include "attention/test_trees.h"
#include "common/error.h"
#include "common/test.h"

namespace deftree::attention {

TEST(nodes_come_depth_first_and_queries_with_them) {
  //   0 (20) - 1 (5) - 3 (2)
  //          - 2 (7)
  const SnapshotNode nodes[] = {{-1, 20}, {0, 5}, {0, 7}, {1, 2}};
  const int32_t queries[] = {2, 3, 1, 2};
  std::vector<int32_t> order;
  const TreeSnapshot tree = make_snapshot(nodes, queries, 16, &order);
  check_snapshot(tree);
  CHECK((tree.node_len == std::vector<int32_t>{20, 5, 2, 7}));
  CHECK((tree.parent == std::vector<int32_t>{-1, 0, 1, 0}));
  CHECK((tree.subtree_end == std::vector<int32_t>{4, 3, 3, 4}));
  CHECK((order == std::vector<int32_t>{2, 1, 0, 3}));
  CHECK_EQ(tree.spans.size(), size_t{5});  // 20 tokens take two pages
  CHECK((tree.spans[1] == PageSpan{1, 0, 4}));
}

TEST(children_may_stand_before_their_parents) {
  const SnapshotNode nodes[] = {{2, 3}, {2, 4}, {-1, 10}};
  const int32_t queries[] = {0, 1};
  const TreeSnapshot tree = make_snapshot(nodes, queries, 16);
  check_snapshot(tree);
  CHECK((tree.node_len == std::vector<int32_t>{10, 3, 4}));
}

TEST(unseen_nodes_go_and_chains_join) {
  // 0 - 1 - 2 with a query at 2 only; 3 below 0 has none.
  const SnapshotNode nodes[] = {{-1, 10}, {0, 6}, {1, 5}, {0, 9}};
  const int32_t queries[] = {2};
  const TreeSnapshot tree = make_snapshot(nodes, queries, 16);
  CHECK((tree.node_len == std::vector<int32_t>{21}));
}

TEST(masked_leaves_are_their_own_queries) {
  const SnapshotNode nodes[] = {{-1, 10}, {0, 3, NodeMask::kTree, {-1, 0, 0}}, {0, 2, NodeMask::kCausal}, {0, 4}};
  const int32_t queries[] = {3};
  std::vector<int32_t> order;
  const TreeSnapshot tree = make_snapshot(nodes, queries, 16, &order);
  check_snapshot(tree);
  CHECK_EQ(tree.num_queries(), 6);
  CHECK((order == std::vector<int32_t>{1, 2, 3, 4, 5, 0}));
  CHECK((tree.tree_parent == std::vector<int32_t>{-1, 0, 0}));
}

TEST(random_trees_make_valid_snapshots) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    TreeSnapshot tree = random_tree(random, 25).snapshot(16);
    check_snapshot(tree);
    scatter_pages(tree, random);
    check_snapshot(tree);
  }
}

TEST(malformed_trees_are_refused) {
  auto make = [](std::vector<SnapshotNode> nodes, std::vector<int32_t> queries = {}, int page_size = 16) {
    make_snapshot(nodes, queries, page_size);
  };
  const auto code = ErrorCode::kBadArgument;
  CHECK_ERROR(make({{-2, 1}}), code);
  CHECK_ERROR(make({{1, 1}}), code);
  CHECK_ERROR(make({{0, 1}}), code);                        // its own parent
  CHECK_ERROR(make({{-1, 1}, {2, 1}, {1, 1}}, {1}), code);  // a cycle beside a root
  CHECK_ERROR(make({{-1, -1}}), code);
  CHECK_ERROR(make({{-1, 1}, {0, 0}}), code);
  CHECK_ERROR(make({{-1, 1}}, {1}), code);
  CHECK_ERROR(make({{-1, 1}}, {-1}), code);
  CHECK_ERROR(make({{-1, 1}}, {0}, 0), code);
  CHECK_ERROR(make({{-1, 1}}, {0}, 40000), code);
  CHECK_ERROR(make({{-1, 2, NodeMask::kCausal}, {0, 1}}), code);
  CHECK_ERROR(make({{-1, 2, NodeMask::kCausal}}, {0}), code);
  CHECK_ERROR(make({{-1, 2, NodeMask::kTree, {-1}}}), code);
  CHECK_ERROR(make({{-1, 2, NodeMask::kTree, {-1, 1}}}), code);
  CHECK_ERROR(make({{-1, 1, NodeMask::kNone, {-1}}}), code);
  CHECK_ERROR(make({{-1, 2000000000}, {-1, 2000000000}}), code);
}

}  // namespace deftree::attention
