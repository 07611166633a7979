#include "attention/tree_snapshot_builder.h"

#include <algorithm>
#include <limits>
#include <string>

#include "common/error.h"

namespace deftree::attention {
namespace {

[[noreturn]] void bad(const std::string& what) { throw Error(ErrorCode::kBadArgument, what); }

std::string node_text(size_t i) { return "tree node " + std::to_string(i); }

void check_node(std::span<const SnapshotNode> nodes, size_t i) {
  const SnapshotNode& node = nodes[i];
  const int64_t num_nodes = static_cast<int64_t>(nodes.size());
  if (node.parent < -1 || node.parent >= num_nodes)
    bad(node_text(i) + " has parent " + std::to_string(node.parent) + "; parents are -1 or below " +
        std::to_string(num_nodes));
  if (node.len < 0 || (node.len == 0 && node.parent >= 0))
    bad(node_text(i) + " has length " + std::to_string(node.len) + "; only a root may be empty");
  if (node.parent >= 0 && nodes[node.parent].mask != NodeMask::kNone)
    bad(node_text(i) + " hangs below masked node " + std::to_string(node.parent) + "; masked nodes are leaves");
  const size_t wanted = node.mask == NodeMask::kTree ? static_cast<size_t>(node.len) : 0;
  if (node.tree_parent.size() != wanted)
    bad(node_text(i) + " has " + std::to_string(node.tree_parent.size()) + " tree parents; " + std::to_string(wanted) +
        " are wanted");
  for (size_t j = 0; j < node.tree_parent.size(); ++j) {
    if (node.tree_parent[j] < -1 || node.tree_parent[j] >= static_cast<int64_t>(j))
      bad(node_text(i) + ": token " + std::to_string(j) + " has tree parent " + std::to_string(node.tree_parent[j]) +
          "; it must be -1 or an earlier token");
  }
}

class Builder {
 public:
  Builder(std::span<const SnapshotNode> nodes, std::span<const int32_t> queries, int page_size)
      : nodes_(nodes), children_(nodes.size()), queries_at_(nodes.size()), live_(nodes.size(), 0) {
    if (page_size < 1 || page_size > std::numeric_limits<int16_t>::max())
      bad("page_size is " + std::to_string(page_size) + "; it must be between 1 and 32767");
    int64_t num_tokens = 0;
    for (size_t i = 0; i < nodes.size(); ++i) {
      check_node(nodes, i);
      num_tokens += nodes[i].len;
      if (num_tokens > std::numeric_limits<int32_t>::max()) bad("the tree has 2^31 tokens or more");
    }
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i].parent < 0)
        roots_.push_back(static_cast<int32_t>(i));
      else
        children_[nodes[i].parent].push_back(static_cast<int32_t>(i));
    }
    place_queries(queries);
    mark_live();
    snapshot_.page_size = page_size;
  }

  TreeSnapshot build(std::vector<int32_t>* query_order) {
    snapshot_.span_indptr = snapshot_.query_indptr = snapshot_.tree_parent_indptr = {0};
    // An explicit stack: depth is the caller's. A negative entry -1 - n ends the subtree of snapshot node n.
    struct Visit {
      int32_t node, parent;
    };
    std::vector<Visit> stack;
    push_reversed(stack, roots_, -1);
    while (!stack.empty()) {
      const Visit visit = stack.back();
      stack.pop_back();
      if (visit.node < 0) {
        snapshot_.subtree_end[-1 - visit.node] = snapshot_.num_nodes();
        continue;
      }
      int32_t node = visit.node;
      int32_t len = nodes_[node].len;
      for (int32_t child = only_child(node); child >= 0; child = only_child(node)) {
        node = child;
        len += nodes_[child].len;
      }
      const int32_t added = add(node, len, visit.parent);
      stack.push_back({-1 - added, -1});
      push_reversed(stack, children_[node], added);
    }
    if (query_order != nullptr) *query_order = std::move(order_);
    return std::move(snapshot_);
  }

 private:
  void place_queries(std::span<const int32_t> queries) {
    for (size_t i = 0; i < queries.size(); ++i) {
      const int32_t node = queries[i];
      if (node < 0 || static_cast<size_t>(node) >= nodes_.size())
        bad("query " + std::to_string(i) + " is at node " + std::to_string(node) + "; the tree has " +
            std::to_string(nodes_.size()) + " nodes");
      if (nodes_[node].mask != NodeMask::kNone)
        bad("query " + std::to_string(i) + " is at masked node " + std::to_string(node) +
            ", whose tokens are its only queries");
      queries_at_[node].push_back(static_cast<int32_t>(i));
    }
    int32_t next = static_cast<int32_t>(queries.size());
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (nodes_[i].mask == NodeMask::kNone) continue;
      for (int32_t j = 0; j < nodes_[i].len; ++j) queries_at_[i].push_back(next++);
    }
  }

  // live_: the node or one below it has a query. Climbing stops at marked nodes, so a cycle cannot hold it; nodes on a
  // cycle are found by counting what the roots reach.
  void mark_live() {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (queries_at_[i].empty()) continue;
      for (int32_t node = static_cast<int32_t>(i); node >= 0 && !live_[node]; node = nodes_[node].parent)
        live_[node] = 1;
    }
    std::vector<int32_t> reached = roots_;
    for (size_t i = 0; i < reached.size(); ++i) {
      const std::vector<int32_t>& below = children_[reached[i]];
      reached.insert(reached.end(), below.begin(), below.end());
    }
    if (reached.size() != nodes_.size())
      bad("the tree's parents form a cycle: " + std::to_string(nodes_.size() - reached.size()) +
          " nodes are below no root");
  }

  template <class Visit>
  void push_reversed(std::vector<Visit>& stack, const std::vector<int32_t>& nodes, int32_t parent) {
    for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
      if (live_[*it]) stack.push_back({*it, parent});
    }
  }

  // The child that sees what `node` sees and can be joined with it; -1 if there is none.
  int32_t only_child(int32_t node) const {
    if (!queries_at_[node].empty()) return -1;
    int32_t found = -1;
    for (int32_t child : children_[node]) {
      if (!live_[child]) continue;
      if (found >= 0 || nodes_[child].mask != NodeMask::kNone) return -1;
      found = child;
    }
    return found;
  }

  int32_t add(int32_t node, int32_t len, int32_t parent) {
    const int32_t index = snapshot_.num_nodes();
    snapshot_.parent.push_back(parent);
    snapshot_.subtree_end.push_back(-1);  // known when the subtree ends
    snapshot_.node_len.push_back(len);
    snapshot_.mask.push_back(nodes_[node].mask);
    for (int32_t begin = 0; begin < len; begin += snapshot_.page_size) {
      const int32_t span_len = std::min(len - begin, snapshot_.page_size);
      snapshot_.spans.push_back({next_page_++, 0, static_cast<int16_t>(span_len)});
    }
    snapshot_.span_indptr.push_back(static_cast<int32_t>(snapshot_.spans.size()));
    order_.insert(order_.end(), queries_at_[node].begin(), queries_at_[node].end());
    snapshot_.query_indptr.push_back(static_cast<int32_t>(order_.size()));
    const std::vector<int32_t>& tree_parent = nodes_[node].tree_parent;
    snapshot_.tree_parent.insert(snapshot_.tree_parent.end(), tree_parent.begin(), tree_parent.end());
    snapshot_.tree_parent_indptr.push_back(static_cast<int32_t>(snapshot_.tree_parent.size()));
    return index;
  }

  std::span<const SnapshotNode> nodes_;
  std::vector<int32_t> roots_;
  std::vector<std::vector<int32_t>> children_, queries_at_;
  std::vector<uint8_t> live_;
  std::vector<int32_t> order_;
  int32_t next_page_ = 0;
  TreeSnapshot snapshot_;
};

}  // namespace

TreeSnapshot make_snapshot(std::span<const SnapshotNode> nodes, std::span<const int32_t> queries, int page_size,
                           std::vector<int32_t>* query_order) {
  return Builder(nodes, queries, page_size).build(query_order);
}

int place_tokens(TreeSnapshot& tree, FunctionRef<int64_t(int node, int64_t end)> first_slot) {
  tree.spans.clear();
  tree.span_indptr = {0};
  int64_t slot = 0;
  for (int node = 0; node < tree.num_nodes(); ++node) {
    slot = first_slot(node, slot);
    for (int left = tree.node_len[node]; left > 0;) {
      const int begin = static_cast<int>(slot % tree.page_size);
      const int len = std::min(left, tree.page_size - begin);
      tree.spans.push_back({static_cast<int32_t>(slot / tree.page_size), static_cast<int16_t>(begin),
                            static_cast<int16_t>(begin + len)});
      slot += len;
      left -= len;
    }
    tree.span_indptr.push_back(static_cast<int32_t>(tree.spans.size()));
  }
  return static_cast<int>((slot + tree.page_size - 1) / tree.page_size);
}

int pack_small_nodes(TreeSnapshot& tree) {
  return place_tokens(tree, [&](int node, int64_t end) {
    const int64_t page_end = (end + tree.page_size - 1) / tree.page_size * tree.page_size;
    return tree.node_len[node] > page_end - end ? page_end : end;
  });
}

}  // namespace deftree::attention
