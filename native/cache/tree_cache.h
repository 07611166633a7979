// The tree KV cache: a forest of nodes over one page pool, and the branches that read it.
//
// A node is a run of tokens with the same set of branches below it; it owns page spans (PageSpan), so a node may begin
// in the middle of a page that another node ends in, and neither fork nor split nor accept ever moves KV. A branch is
// a path root -> end of its tip node. The cache keeps the bookkeeping only: it never touches a KV tensor and knows
// nothing of attention, models or time.
//
// Life of a token: append() or append_draft() gives it a slot (its KV is then *fresh*: no other branch can attach to
// it); commit() after the step that wrote its KV makes it part of the tree that attach_prefix() can find. A step that
// fails calls rollback() instead.
//
// Every method throws Error{kBadArgument} for an unknown branch; a method that throws has changed nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/tree_snapshot.h"

namespace deftree {

using BranchId = int32_t;

struct TreeCacheOptions {
  int32_t num_pages = 0;
  int32_t page_size = 16;
};

// One branch's part of a step.
struct StepBranch {
  BranchId branch;
  // Fresh tokens of the branch (from append or append_draft) that are the step's queries, in order. 0 asks for a *tip
  // query*: the last token, whose KV exists already, is run again for its logits; branches with the same tip share it.
  int32_t num_fresh;
};

// Where each query of a snapshot comes from: the step's rows in the snapshot's order.
struct SnapshotQuery {
  int32_t step_branch;  // index into the StepBranch list (for a shared tip query: the first such branch)
  int32_t position;     // token position on the branch's path (RoPE): depth for a draft token
  int32_t slot;         // page * page_size + offset where the token's KV is to be written; -1 for a tip query
  int32_t token;
};

struct StepSnapshot {
  TreeSnapshot tree;
  std::vector<SnapshotQuery> queries;        // [num_queries]
  std::vector<int32_t> first_query;          // [num step branches] row of the branch's first query (shared tip: the
                                             // same row for each); its num_fresh rows follow one another
};

struct SlotCopy {  // copy the KV of `len` slots, all layers
  int32_t from_slot, to_slot, len;
};

struct CacheStats {
  int32_t num_pages, num_free_pages;
  int32_t num_cached_pages;  // held only by nodes that no branch reads: evict() can free them
  int32_t num_nodes, num_branches;
  int64_t num_tokens;        // slots in use; a shared prefix counts once
};

class TreeCache {
 public:
  explicit TreeCache(const TreeCacheOptions& options);
  ~TreeCache();

  // A branch of length 0.
  BranchId create();
  // n new branches at the end of `branch`'s path, in O(n); `branch` lives on and may go on growing. The branch must
  // have no fresh tokens.
  std::vector<BranchId> fork(BranchId branch, int n);
  // Moves a branch of any length along cached nodes that spell `tokens` (its future); returns how many tokens matched.
  // `max_len` caps it. Splits a node where the match ends inside it.
  int32_t attach_prefix(BranchId branch, std::span<const int32_t> tokens, int32_t max_len);

  // Gives slots to tokens at the end of the branch: the rest of its last page while no slot there is in use after the
  // branch's end (so of several forks the first writer gets it), then new pages. Throws kKvFull {wanted_pages,
  // free_pages} when pages lack even after evicting; free_pages counts those that could be evicted.
  void append(BranchId branch, std::span<const int32_t> tokens);
  // The same for a draft tree: parents[j] is the index of token j's parent among `tokens` (< j), -1 = the tip.
  // A branch holds either chain or draft fresh tokens, never both.
  void append_draft(BranchId branch, std::span<const int32_t> tokens, std::span<const int32_t> parents);
  // Makes all fresh chain tokens of the branch permanent.
  void commit(BranchId branch);
  // Keeps of a draft the tokens `path` (indices, each the parent of the next; may be empty); the rest is dropped.
  void accept_draft(BranchId branch, std::span<const int32_t> path);
  // The same, but kept tokens that lie far behind move up, so that the draft leaves fewer holes in its pages than it has
  // kept tokens; a path that is the draft's beginning stays where it is. Adds to `copies` what the caller must copy before
  // the next call that gives slots. No slot is both read and written, so that the copies can be done at once.
  void accept_draft(BranchId branch, std::span<const int32_t> path, std::vector<SlotCopy>& copies);
  // Drops the branch's fresh tokens.
  void rollback(BranchId branch);
  // Shortens the branch to `len` tokens (0 <= len <= length); what no other branch reads stays cached.
  void truncate(BranchId branch, int32_t len);
  // Drops the branch. With keep_cached its tokens stay as evictable cache, else pages with no reader are free at once.
  void prune(BranchId branch, bool keep_cached);
  // Frees at least `num_pages` pages from nodes no branch reads, least recently used leaves first; returns how many.
  int32_t evict(int32_t num_pages);
  // Gives the branch a path of its own (the flash-decoding baseline shares nothing); nothing to copy when it has one.
  // The caller copies the KV, in this order, before the next call that gives slots: pages left without a reader are
  // free already. The branch must have no fresh tokens.
  std::vector<SlotCopy> make_private(BranchId branch);

  int32_t length(BranchId branch) const;              // tokens, fresh ones included (of a draft: all its tokens)
  int32_t num_fresh(BranchId branch) const;
  std::vector<int32_t> tokens(BranchId branch) const; // chain only: a branch with a draft lists its trunk
  int32_t token_at(BranchId branch, int32_t position) const;
  // Pages that append(num_tokens) would have to take beyond the branch's own free slots.
  int32_t pages_wanted(BranchId branch, int32_t num_tokens) const;
  // Pages only this branch reads: what prune(branch, false) would free now.
  int32_t private_pages(BranchId branch) const;

  // The part of the forest on the paths of these branches. Chains of nodes with equal queries come as one node; a
  // chain of 1 fresh token joins its tip (NodeMask::kNone); 2 or more become a masked leaf.
  // A branch may stand in the list once, with all its fresh tokens (kBadArgument otherwise).
  StepSnapshot snapshot(std::span<const StepBranch> branches) const;
  // The same into `out`, whose buffers are reused: the per-step path allocates nothing.
  void snapshot(std::span<const StepBranch> branches, StepSnapshot& out) const;

  CacheStats stats() const;
  int page_size() const;

  // free + referenced pages = all pages; a page's readers = spans that name it; spans of one page do not overlap within
  // a path; every node's length = its slots; every branch's path covers its tokens exactly once; LRU and reference
  // counts are those of the branches. Throws kInternal with the first broken rule. O(everything).
  void check_invariants() const;

 private:
  friend struct TreeCacheTestPeer;  // breaks the state on purpose, to see that check_invariants() notices
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace deftree
