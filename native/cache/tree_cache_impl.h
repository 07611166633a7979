// The state behind TreeCache, shared by its files:
//   tree_cache.cpp             the public methods: check the arguments, then act
//   tree_cache_slots.cpp       slots and pages: make room, give, keep, release, copy
//   tree_cache_forest.cpp      nodes: split, join, life and death, eviction, longest match
//   tree_cache_snapshot.cpp    the step's part of the forest as data
//   tree_cache_invariants.cpp  the rules, checked from scratch
#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cache/slot_ledger.h"
#include "cache/tree_cache.h"

namespace deftree {

using NodeId = int32_t;

// The forest's own root: no tokens, always there. Its children are the roots of the trees; a branch of length 0 ends
// here.
inline constexpr NodeId kForestRoot = 0;

struct Child {
  int32_t first_token;  // of the child's run, kept here so that a search does not touch the children
  NodeId node;
};

// Every node but the forest's root has at least one token, and a branch at it, or no child, or several.
struct Node {
  bool in_use = false;
  NodeId parent = -1;
  int32_t begin = 0;     // tokens on the path before this node
  int32_t num_tips = 0;  // branches whose path ends here; the forest's root counts one for itself
  int32_t num_live_children = 0;
  uint64_t last_used = 0;  // when its last reader left; of meaning while it is not live
  std::vector<int32_t> tokens;
  std::vector<PageSpan> spans;  // the tokens' slots in order; neighbours that touch are one span
  std::vector<Child> children;

  bool live() const { return num_tips > 0 || num_live_children > 0; }  // some branch reads it
  int32_t len() const { return static_cast<int32_t>(tokens.size()); }
  int32_t end() const { return begin + len(); }
};

// Fresh tokens are the branch's own until commit, so the forest holds committed tokens only.
struct Branch {
  NodeId tip = kForestRoot;
  std::vector<int32_t> fresh_tokens;
  std::vector<PageSpan> fresh_spans;
  std::vector<int32_t> draft_parents;  // empty for a chain
  std::vector<int32_t> draft_depths;   // 0 for a child of the tip
  mutable uint64_t snapshot_stamp = 0;

  bool has_fresh() const { return !fresh_tokens.empty(); }
  bool has_draft() const { return !draft_parents.empty(); }
  int32_t num_fresh() const { return static_cast<int32_t>(fresh_tokens.size()); }
};

// What snapshot() notes beside a node or a step branch; kept between calls so that a step allocates nothing.
struct SnapshotScratch {
  struct Mark {
    uint64_t stamp = 0;
    NodeId first_child, last_child, next_sibling;  // the node's children on paths of this step, in order of first visit
    int32_t first_step, last_step;                 // step branches whose tip is this node
  };
  struct Item {
    bool is_fresh;  // the fresh leaf of step branch `index`, else node `index`
    int32_t index;
    int32_t parent_row;  // row of the parent in the snapshot
  };
  uint64_t stamp = 0;
  std::vector<Mark> marks;         // [nodes]
  std::vector<int32_t> next_step;  // [step branches]
  std::vector<const Branch*> branches;
  std::vector<Item> stack;
};

struct TreeCache::Impl {
  explicit Impl(const TreeCacheOptions& options);

  SlotLedger ledger;
  std::deque<Node> nodes;  // a deque: references stay valid while nodes are added
  std::vector<NodeId> free_nodes;
  int32_t num_nodes = 0;
  std::unordered_map<BranchId, Branch> branches;
  BranchId next_branch = 0;
  uint64_t clock = 0;
  std::set<std::pair<uint64_t, NodeId>> evictable;  // (last_used, leaf that no branch reads)
  SnapshotScratch scratch;
  std::vector<std::pair<NodeId, int32_t>> match_stack;

  // Branches.
  Branch& find(BranchId branch);
  Branch& find_settled(BranchId branch, const char* method);  // throws kBadArgument when it has fresh tokens
  Branch& find_draft(BranchId branch, std::span<const int32_t> path);  // throws kBadArgument when `path` is none in it
  BranchId add_branch(NodeId tip);
  int32_t committed_len(const Branch& branch) const { return nodes[branch.tip].end(); }
  void move_tip(Branch& branch, NodeId to);
  void leave(NodeId tip, bool keep_cached);  // a branch that ended at `tip` does so no more
  void commit_fresh(Branch& branch);         // a chain

  // Slots (tree_cache_slots.cpp).
  int32_t tail_slots(const Branch& branch) const;  // free slots right after the branch's last token, in its page
  int32_t pages_within_reach() const { return ledger.num_free_pages() + ledger.num_cached_pages(); }
  // Evict what is needed; throw kKvFull when that cannot be enough, and then have changed nothing.
  void make_room(const Branch& branch, int32_t num_tokens);
  void make_room_for_pages(int32_t wanted);
  void give_slots(Branch& branch, int32_t num_tokens);
  void drop_fresh(Branch& branch, int32_t from);  // the tokens [from, end); those of a draft that are left are a chain
  void keep_fresh(Branch& branch, std::span<const int32_t> kept);  // of a draft the tokens `kept`, as a chain
  // The same, those far behind moved up.
  void gather_fresh(Branch& branch, std::span<const int32_t> kept, std::vector<SlotCopy>& copies);
  // dst += src; a span that touches the one before joins it.
  void join_spans(std::vector<PageSpan>& dst, std::span<const PageSpan> src, bool live);
  void release(PageSpan span, bool live);
  // New pages for the whole path, and the copies that fill them.
  std::vector<PageSpan> copy_path(NodeId tip, std::vector<SlotCopy>& copies);
  struct PageCount {
    int32_t all = 0;
    int32_t owned = 0;  // pages that no other span names
  };
  PageCount count_pages(std::span<const PageSpan> spans) const;  // of one path

  // Nodes (tree_cache_forest.cpp).
  NodeId new_node();
  void free_node(NodeId node);
  // A leaf with one branch at it, whose spans are counted as live already.
  NodeId add_live_leaf(NodeId parent, std::vector<int32_t> tokens, std::vector<PageSpan> spans);
  NodeId split(NodeId node, int32_t at);  // a new node takes the first `at` tokens; returns it
  void tidy(NodeId node);                 // joins a node with its only child when no branch ends at it
  void add_tip(NodeId node);
  void drop_tip(NodeId node);
  NodeId remove_leaf(NodeId node);  // one that no branch reads; returns its parent
  int32_t evict(int32_t num_pages);
  void evict_below(NodeId node);  // all descendants, none of them live

  struct Match {
    NodeId node = -1;
    int32_t len_in_node = 0;
    int32_t len = 0;  // tokens matched in all
  };
  Match longest_match(NodeId from, std::span<const int32_t> tokens);

  void mark_paths(std::span<const StepBranch> steps);
  void snapshot(std::span<const StepBranch> steps, StepSnapshot& out);
  void check_invariants() const;
};

}  // namespace deftree
