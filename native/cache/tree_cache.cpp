#include "cache/tree_cache.h"

#include <algorithm>
#include <limits>
#include <string>

#include "cache/tree_cache_impl.h"
#include "common/error.h"

namespace deftree {

static Error bad_argument(std::string message, ErrorFigures figures = {}) {
  return Error(ErrorCode::kBadArgument, std::move(message), std::move(figures));
}

static TreeCacheOptions checked(const TreeCacheOptions& options) {
  const ErrorFigures figures = {{"num_pages", options.num_pages}, {"page_size", options.page_size}};
  if (options.num_pages < 1 || options.page_size < 1 || options.page_size > std::numeric_limits<int16_t>::max()) {
    throw bad_argument("A tree cache needs at least one page of 1 to 32767 slots, not " +
                           std::to_string(options.num_pages) + " pages of " + std::to_string(options.page_size) + ".",
                       figures);
  }
  if (int64_t{options.num_pages} * options.page_size > std::numeric_limits<int32_t>::max()) {
    throw bad_argument("A tree cache holds at most 2147483647 slots, not " + std::to_string(options.num_pages) +
                           " pages of " + std::to_string(options.page_size) + ".",
                       figures);
  }
  return options;
}

// ---- Branches

TreeCache::Impl::Impl(const TreeCacheOptions& options) : ledger(options.num_pages, options.page_size) {
  new_node();
  nodes[kForestRoot].num_tips = 1;
}

Branch& TreeCache::Impl::find(BranchId branch) {
  const auto entry = branches.find(branch);
  if (entry == branches.end()) {
    throw bad_argument("Branch " + std::to_string(branch) + " does not exist: it was pruned or never created.",
                       {{"branch", branch}});
  }
  return entry->second;
}

Branch& TreeCache::Impl::find_settled(BranchId id, const char* method) {
  Branch& branch = find(id);
  if (branch.has_fresh()) {
    throw bad_argument("Branch " + std::to_string(id) + " has " + std::to_string(branch.num_fresh()) +
                           " fresh tokens: commit, accept or roll them back before " + method + ".",
                       {{"branch", id}, {"num_fresh", branch.num_fresh()}});
  }
  return branch;
}

Branch& TreeCache::Impl::find_draft(BranchId id, std::span<const int32_t> path) {
  Branch& branch = find(id);
  if (branch.has_fresh() && !branch.has_draft()) {
    throw bad_argument("Branch " + std::to_string(id) + " holds a chain of fresh tokens and no draft.",
                       {{"branch", id}});
  }
  for (size_t i = 0; i < path.size(); ++i) {
    const int32_t parent = i == 0 ? -1 : path[i - 1];
    if (path[i] < 0 || path[i] >= branch.num_fresh() || branch.draft_parents[path[i]] != parent) {
      throw bad_argument("Draft token " + std::to_string(path[i]) + " does not follow token " + std::to_string(parent) +
                             " in a draft of " + std::to_string(branch.num_fresh()) + " tokens.",
                         {{"token", path[i]}, {"parent", parent}});
    }
  }
  return branch;
}

BranchId TreeCache::Impl::add_branch(NodeId tip) {
  while (branches.contains(next_branch)) next_branch = next_branch == INT32_MAX ? 0 : next_branch + 1;
  const BranchId id = next_branch;
  next_branch = id == INT32_MAX ? 0 : id + 1;  // ids come again only after all 2^31 were used: a stale one is noticed
  branches[id].tip = tip;
  add_tip(tip);
  return id;
}

void TreeCache::Impl::move_tip(Branch& branch, NodeId to) {
  const NodeId from = branch.tip;
  add_tip(to);
  branch.tip = to;
  leave(from, true);
}

void TreeCache::Impl::leave(NodeId id, bool keep_cached) {
  drop_tip(id);
  const bool unread_leaf = !nodes[id].live() && nodes[id].children.empty();
  tidy(unread_leaf && !keep_cached ? remove_leaf(id) : id);
}

void TreeCache::Impl::commit_fresh(Branch& branch) {
  if (!branch.has_fresh()) return;
  Node& tip = nodes[branch.tip];
  if (branch.tip != kForestRoot && tip.num_tips == 1 && tip.children.empty()) {
    tip.tokens.insert(tip.tokens.end(), branch.fresh_tokens.begin(), branch.fresh_tokens.end());
    join_spans(tip.spans, branch.fresh_spans, true);
  } else {
    const NodeId leaf = add_live_leaf(branch.tip, branch.fresh_tokens, branch.fresh_spans);
    drop_tip(branch.tip);
    branch.tip = leaf;
  }
  branch.fresh_tokens.clear();
  branch.fresh_spans.clear();
}

// ---- The public methods

TreeCache::TreeCache(const TreeCacheOptions& options) : impl_(std::make_unique<Impl>(checked(options))) {}
TreeCache::~TreeCache() = default;

BranchId TreeCache::create() { return impl_->add_branch(kForestRoot); }

std::vector<BranchId> TreeCache::fork(BranchId branch, int n) {
  const NodeId tip = impl_->find_settled(branch, "a fork").tip;
  if (n < 0) throw bad_argument("A branch forks into 0 or more branches, not " + std::to_string(n) + ".", {{"n", n}});
  std::vector<BranchId> forks(n);
  for (BranchId& id : forks) id = impl_->add_branch(tip);
  return forks;
}

int32_t TreeCache::attach_prefix(BranchId id, std::span<const int32_t> tokens, int32_t max_len) {
  Branch& branch = impl_->find_settled(id, "attaching to a prefix");
  if (max_len < 0) {
    throw bad_argument("max_len must not be negative, but is " + std::to_string(max_len) + ".", {{"max_len", max_len}});
  }
  const Impl::Match match =
      impl_->longest_match(branch.tip, tokens.first(std::min<size_t>(tokens.size(), static_cast<size_t>(max_len))));
  if (match.len == 0) return 0;
  const bool whole = match.len_in_node == impl_->nodes[match.node].len();
  impl_->move_tip(branch, whole ? match.node : impl_->split(match.node, match.len_in_node));
  return match.len;
}

static int32_t checked_count(const Branch& branch, int32_t committed_len, size_t count) {
  const int64_t room = int64_t{std::numeric_limits<int32_t>::max()} - committed_len - branch.num_fresh();
  if (static_cast<int64_t>(count) > room) throw bad_argument("A branch holds at most 2147483647 tokens.");
  return static_cast<int32_t>(count);
}

void TreeCache::append(BranchId id, std::span<const int32_t> tokens) {
  Branch& branch = impl_->find(id);
  if (branch.has_draft()) {
    throw bad_argument("Branch " + std::to_string(id) + " holds a draft: accept it or roll it back before appending.",
                       {{"branch", id}});
  }
  const int32_t count = checked_count(branch, impl_->committed_len(branch), tokens.size());
  impl_->make_room(branch, count);
  impl_->give_slots(branch, count);
  branch.fresh_tokens.insert(branch.fresh_tokens.end(), tokens.begin(), tokens.end());
}

void TreeCache::append_draft(BranchId id, std::span<const int32_t> tokens, std::span<const int32_t> parents) {
  Branch& branch = impl_->find_settled(id, "a draft");
  if (tokens.size() != parents.size()) {
    throw bad_argument("A draft needs a parent for each token: " + std::to_string(tokens.size()) + " tokens, " +
                       std::to_string(parents.size()) + " parents.");
  }
  const int32_t count = checked_count(branch, impl_->committed_len(branch), tokens.size());
  for (int32_t j = 0; j < count; ++j) {
    if (parents[j] < -1 || parents[j] >= j) {
      throw bad_argument("The parent of draft token " + std::to_string(j) + " must be an earlier token or -1, not " +
                             std::to_string(parents[j]) + ".",
                         {{"token", j}, {"parent", parents[j]}});
    }
  }
  impl_->make_room(branch, count);
  impl_->give_slots(branch, count);
  branch.fresh_tokens.assign(tokens.begin(), tokens.end());
  branch.draft_parents.assign(parents.begin(), parents.end());
  branch.draft_depths.resize(count);
  for (int32_t j = 0; j < count; ++j) branch.draft_depths[j] = parents[j] < 0 ? 0 : branch.draft_depths[parents[j]] + 1;
}

void TreeCache::commit(BranchId id) {
  Branch& branch = impl_->find(id);
  if (branch.has_draft()) {
    throw bad_argument("Branch " + std::to_string(id) + " holds a draft: accept_draft() commits it.", {{"branch", id}});
  }
  impl_->commit_fresh(branch);
}

void TreeCache::accept_draft(BranchId id, std::span<const int32_t> path) {
  Branch& branch = impl_->find_draft(id, path);
  impl_->keep_fresh(branch, path);
  impl_->commit_fresh(branch);
}

void TreeCache::accept_draft(BranchId id, std::span<const int32_t> path, std::vector<SlotCopy>& copies) {
  Branch& branch = impl_->find_draft(id, path);
  impl_->gather_fresh(branch, path, copies);
  impl_->commit_fresh(branch);
}

void TreeCache::rollback(BranchId branch) { impl_->drop_fresh(impl_->find(branch), 0); }

void TreeCache::truncate(BranchId id, int32_t len) {
  Branch& branch = impl_->find(id);
  const int32_t committed = impl_->committed_len(branch);
  if (branch.has_draft()) impl_->find_settled(id, "truncating");
  if (len < 0 || len > committed + branch.num_fresh()) {
    throw bad_argument("Branch " + std::to_string(id) + " has " + std::to_string(committed + branch.num_fresh()) +
                           " tokens and cannot be shortened to " + std::to_string(len) + ".",
                       {{"branch", id}, {"length", committed + branch.num_fresh()}, {"wanted", len}});
  }
  impl_->drop_fresh(branch, std::max(0, len - committed));
  if (len >= committed) return;
  NodeId node = branch.tip;
  while (impl_->nodes[node].begin >= len && node != kForestRoot) node = impl_->nodes[node].parent;
  const int32_t len_in_node = len - impl_->nodes[node].begin;
  impl_->move_tip(branch, len_in_node == impl_->nodes[node].len() ? node : impl_->split(node, len_in_node));
}

void TreeCache::prune(BranchId id, bool keep_cached) {
  Branch& branch = impl_->find(id);
  const NodeId tip = branch.tip;
  impl_->drop_fresh(branch, 0);
  impl_->branches.erase(id);
  impl_->leave(tip, keep_cached);
}

int32_t TreeCache::evict(int32_t num_pages) {
  if (num_pages < 0) {
    throw bad_argument("The number of pages to evict must not be negative, but is " + std::to_string(num_pages) + ".",
                       {{"num_pages", num_pages}});
  }
  return impl_->evict(num_pages);
}

std::vector<SlotCopy> TreeCache::make_private(BranchId id) {
  Branch& branch = impl_->find_settled(id, "making it private");
  const int32_t len = impl_->committed_len(branch);
  const Node& tip = impl_->nodes[branch.tip];
  const Impl::PageCount pages = impl_->count_pages(tip.spans);
  const bool whole_path = tip.parent == kForestRoot && tip.num_tips == 1 && tip.children.empty();
  if (len == 0 || (whole_path && pages.all == pages.owned)) return {};

  impl_->make_room_for_pages(impl_->ledger.pages_for(len));
  std::vector<SlotCopy> copies;
  std::vector<PageSpan> spans = impl_->copy_path(branch.tip, copies);
  const NodeId old_tip = branch.tip;
  branch.tip = impl_->add_live_leaf(kForestRoot, tokens(id), std::move(spans));
  impl_->leave(old_tip, false);
  return copies;
}

int32_t TreeCache::length(BranchId id) const {
  const Branch& branch = impl_->find(id);
  return impl_->committed_len(branch) + branch.num_fresh();
}

int32_t TreeCache::num_fresh(BranchId branch) const { return impl_->find(branch).num_fresh(); }

std::vector<int32_t> TreeCache::tokens(BranchId id) const {
  const Branch& branch = impl_->find(id);
  std::vector<int32_t> all(impl_->committed_len(branch));
  for (NodeId node = branch.tip; node != kForestRoot; node = impl_->nodes[node].parent) {
    const Node& run = impl_->nodes[node];
    std::copy(run.tokens.begin(), run.tokens.end(), all.begin() + run.begin);
  }
  if (!branch.has_draft()) all.insert(all.end(), branch.fresh_tokens.begin(), branch.fresh_tokens.end());
  return all;
}

int32_t TreeCache::token_at(BranchId id, int32_t position) const {
  const Branch& branch = impl_->find(id);
  const int32_t committed = impl_->committed_len(branch);
  const int32_t len = committed + (branch.has_draft() ? 0 : branch.num_fresh());
  if (position < 0 || position >= len) {
    throw bad_argument("Position " + std::to_string(position) + " is outside of branch " + std::to_string(id) + " of " +
                           std::to_string(len) + " tokens.",
                       {{"branch", id}, {"position", position}, {"length", len}});
  }
  if (position >= committed) return branch.fresh_tokens[position - committed];
  NodeId node = branch.tip;
  while (impl_->nodes[node].begin > position) node = impl_->nodes[node].parent;
  return impl_->nodes[node].tokens[position - impl_->nodes[node].begin];
}

int32_t TreeCache::pages_wanted(BranchId branch, int32_t num_tokens) const {
  return impl_->ledger.pages_for(num_tokens - impl_->tail_slots(impl_->find(branch)));
}

int32_t TreeCache::private_pages(BranchId id) const {
  const Branch& branch = impl_->find(id);
  const Node& tip = impl_->nodes[branch.tip];
  std::vector<PageSpan> own;
  if (branch.tip != kForestRoot && tip.num_tips == 1 && tip.children.empty()) own = tip.spans;
  own.insert(own.end(), branch.fresh_spans.begin(), branch.fresh_spans.end());
  return impl_->count_pages(own).owned;
}

StepSnapshot TreeCache::snapshot(std::span<const StepBranch> branches) const {
  StepSnapshot out;
  impl_->snapshot(branches, out);
  return out;
}

void TreeCache::snapshot(std::span<const StepBranch> branches, StepSnapshot& out) const {
  impl_->snapshot(branches, out);
}

CacheStats TreeCache::stats() const {
  const SlotLedger& ledger = impl_->ledger;
  return {ledger.num_pages(),
          ledger.num_free_pages(),
          ledger.num_cached_pages(),
          impl_->num_nodes - 1,
          static_cast<int32_t>(impl_->branches.size()),
          ledger.num_used_slots()};
}

int TreeCache::page_size() const { return impl_->ledger.page_size(); }

void TreeCache::check_invariants() const { impl_->check_invariants(); }

}  // namespace deftree
