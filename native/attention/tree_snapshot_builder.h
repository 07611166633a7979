// A snapshot from a plain list of nodes: for tests, benchmarks and planning without a model. The engine's snapshots
// come from TreeCache.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cache/tree_snapshot.h"
#include "common/function_ref.h"

namespace deftree::attention {

struct SnapshotNode {
  int32_t parent;                      // index of another node, in any order; -1: a root
  int32_t len;                         // tokens
  NodeMask mask = NodeMask::kNone;     // not kNone: a leaf whose tokens are queries themselves
  std::vector<int32_t> tree_parent{};  // kTree only: [len], see TreeSnapshot::tree_parent
};

// queries: the kNone node of each query; several may share a node, inner nodes may have some. Each node starts a page
// of its own and pages count up from 0 in the snapshot's order of nodes. Nodes that no query sees are left out; a node
// with one child and no query of its own is joined with that child when neither has a mask.
//
// The snapshot orders queries by node. query_order, if given, gets for each query of the snapshot its index in
// `queries`, or queries.size() + k for the k-th token of the masked leaves (leaves in the order of `nodes`).
//
// Throws kBadArgument for a parent or query out of range, a cycle, a negative length, a length of 0 below the roots,
// a masked node with children or listed queries, or a malformed tree_parent.
TreeSnapshot make_snapshot(std::span<const SnapshotNode> nodes, std::span<const int32_t> queries, int page_size,
                           std::vector<int32_t>* query_order = nullptr);

// What a tree file holds, and what tests and benchmarks pass around.
struct NamedTree {
  std::string name;
  std::vector<SnapshotNode> nodes;
  std::vector<int32_t> queries;
  TreeSnapshot snapshot(int page_size) const { return make_snapshot(nodes, queries, page_size); }
};

// Moves the tokens to other slots (slot = page * page_size + offset): those of a node follow each other from
// first_slot(node, end), where `end` is one past the last slot of the node before, and which may not be below it.
// Returns the number of pages.
int place_tokens(TreeSnapshot& tree, FunctionRef<int64_t(int node, int64_t end)> first_slot);

// Places tokens as the cache does: a node that fits into what its predecessor left of a page goes there (draft tokens
// stand side by side), any other begins a page. Returns the number of pages.
int pack_small_nodes(TreeSnapshot& tree);

}  // namespace deftree::attention
