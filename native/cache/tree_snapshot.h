// What attention must know of the forest for one step: data only, no pointers into the cache.
//
// Written by TreeCache::snapshot(), read by attention/plan. It speaks of pages and queries, not of branches.
#pragma once

#include <cstdint>
#include <vector>

namespace deftree {

// Slots [begin, end) of one KV page, consecutive tokens of one node. 0 <= begin < end <= page_size.
struct PageSpan {
  int32_t page;
  int16_t begin;
  int16_t end;
  int len() const { return end - begin; }
  bool operator==(const PageSpan&) const = default;
};

// How the queries of a node see the tokens of that same node. All tokens of its ancestors are always visible.
enum class NodeMask : uint8_t {
  kNone,    // every query at the node or below it sees the whole node (a decode step: the query is the last token)
  kCausal,  // a leaf of fresh tokens, query j is token j and sees tokens 0..j (chunked prefill)
  kTree,    // a leaf of fresh tokens, query j is token j and sees its ancestors and itself (a draft tree)
};

// Nodes stand in depth-first preorder (parent[i] < i; the nodes of a subtree are consecutive); several roots are
// allowed. Chains of nodes with the same queries below them come as one node. Queries stand in the order of their
// nodes, so the queries in a node's subtree are one consecutive range too.
struct TreeSnapshot {
  int32_t page_size = 0;
  std::vector<int32_t> parent;             // [num_nodes] -1 for a root
  std::vector<int32_t> subtree_end;        // [num_nodes] one past the last node of the subtree
  std::vector<int32_t> node_len;           // [num_nodes] tokens of the node itself; may be 0 only for a root
  std::vector<NodeMask> mask;              // [num_nodes]
  std::vector<int32_t> span_indptr;        // [num_nodes + 1] into spans
  std::vector<PageSpan> spans;             // [num_spans]
  std::vector<int32_t> query_indptr;       // [num_nodes + 1] queries *at* a node; those of the subtree of i are
                                           // [query_indptr[i], query_indptr[subtree_end[i]])
  std::vector<int32_t> tree_parent_indptr; // [num_nodes + 1] into tree_parent; empty range unless mask is kTree
  std::vector<int32_t> tree_parent;        // for a kTree node: token j's parent among the node's tokens, -1 for none,
                                           // always < j

  int num_nodes() const { return static_cast<int>(parent.size()); }
  int num_queries() const { return query_indptr.empty() ? 0 : query_indptr.back(); }
};

// Throws kInternal when a snapshot breaks the rules above (used by tests and debug builds).
void check_snapshot(const TreeSnapshot& snapshot);

}  // namespace deftree
