#include "cache/tree_snapshot.h"

#include <algorithm>

#include "common/error.h"

namespace deftree {
namespace {

void check_indptr(const std::vector<int32_t>& indptr, size_t num_nodes, const char* what) {
  ensure(indptr.size() == num_nodes + 1 && indptr.front() == 0 && std::is_sorted(indptr.begin(), indptr.end()), what);
}

// No path may read a slot twice: its key would count twice in the softmax.
void check_slots(const TreeSnapshot& tree) {
  struct Owned {
    PageSpan span;
    int32_t node;
  };
  std::vector<Owned> all;
  for (int32_t node = 0; node < tree.num_nodes(); ++node)
    for (int32_t i = tree.span_indptr[node]; i < tree.span_indptr[node + 1]; ++i) all.push_back({tree.spans[i], node});
  std::sort(all.begin(), all.end(), [](const Owned& a, const Owned& b) {
    return a.span.page != b.span.page ? a.span.page < b.span.page : a.span.begin < b.span.begin;
  });
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t j = i + 1; j < all.size(); ++j) {
      if (all[j].span.page != all[i].span.page || all[j].span.begin >= all[i].span.end) break;
      const auto [upper, lower] = std::minmax(all[i].node, all[j].node);
      ensure(lower >= tree.subtree_end[upper], "a slot stands once on a path");
    }
  }
}

}  // namespace

void check_snapshot(const TreeSnapshot& tree) {
  const size_t num_nodes = tree.parent.size();
  ensure(tree.page_size > 0, "pages have slots");
  ensure(tree.subtree_end.size() == num_nodes && tree.node_len.size() == num_nodes && tree.mask.size() == num_nodes,
         "every node has a subtree, a length and a mask");
  check_indptr(tree.span_indptr, num_nodes, "span_indptr rises from 0, with an entry per node and one more");
  check_indptr(tree.query_indptr, num_nodes, "query_indptr rises from 0, with an entry per node and one more");
  check_indptr(tree.tree_parent_indptr, num_nodes,
               "tree_parent_indptr rises from 0, with an entry per node and one more");
  ensure(static_cast<size_t>(tree.span_indptr.back()) == tree.spans.size(), "span_indptr ends with the spans");
  ensure(static_cast<size_t>(tree.tree_parent_indptr.back()) == tree.tree_parent.size(),
         "tree_parent_indptr ends with the parents");

  std::vector<int32_t> open;  // the path from a root to the node before
  for (int32_t node = 0; node < tree.num_nodes(); ++node) {
    while (!open.empty() && open.back() != tree.parent[node]) {
      ensure(tree.subtree_end[open.back()] == node, "a subtree ends after its last node");
      open.pop_back();
    }
    ensure(tree.parent[node] == (open.empty() ? -1 : open.back()), "nodes stand in preorder");
    open.push_back(node);
  }
  for (const int32_t node : open)
    ensure(tree.subtree_end[node] == tree.num_nodes(), "a subtree ends after its last node");

  for (int32_t node = 0; node < tree.num_nodes(); ++node) {
    int64_t len = 0;
    for (int32_t i = tree.span_indptr[node]; i < tree.span_indptr[node + 1]; ++i) {
      const PageSpan span = tree.spans[i];
      ensure(span.page >= 0 && 0 <= span.begin && span.begin < span.end && span.end <= tree.page_size,
             "a span lies within its page");
      len += span.len();
    }
    ensure(tree.node_len[node] == len, "a node's length is that of its spans");
    ensure(len > 0 || tree.parent[node] == -1, "only a root may be empty");

    const int32_t num_queries = tree.query_indptr[node + 1] - tree.query_indptr[node];
    if (tree.mask[node] != NodeMask::kNone) {
      ensure(tree.subtree_end[node] == node + 1, "a masked node is a leaf");
      ensure(num_queries == len, "a masked node has a query per token");
    }
    const int32_t first = tree.tree_parent_indptr[node];
    const int32_t num_parents = tree.tree_parent_indptr[node + 1] - first;
    ensure(num_parents == (tree.mask[node] == NodeMask::kTree ? len : 0),
           "the tokens of a draft have a parent each, others none");
    for (int32_t j = 0; j < num_parents; ++j) {
      ensure(tree.tree_parent[first + j] >= -1 && tree.tree_parent[first + j] < j,
             "a draft token's parent stands before it");
    }
  }
  check_slots(tree);
}

}  // namespace deftree
