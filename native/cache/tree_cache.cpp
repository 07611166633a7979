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

void TreeCache::Impl::drop_fresh(Branch& branch, int32_t from) {
  for (int32_t excess = branch.num_fresh() - from; excess > 0;) {
    PageSpan& last = branch.fresh_spans.back();
    if (last.len() <= excess) {
      excess -= last.len();
      release(last, true);
      branch.fresh_spans.pop_back();
    } else {
      const int16_t cut = static_cast<int16_t>(last.end - excess);
      ledger.free_slots({last.page, cut, last.end});
      last.end = cut;
      excess = 0;
    }
  }
  branch.fresh_tokens.resize(from);
  branch.draft_parents.clear();
  branch.draft_depths.clear();
}

// ---- Slots

static const PageSpan* last_span(const Branch& branch, const Node& tip) {
  if (!branch.fresh_spans.empty()) return &branch.fresh_spans.back();
  return tip.spans.empty() ? nullptr : &tip.spans.back();
}

static int32_t pages_for(int32_t num_tokens, int32_t page_size) {
  return num_tokens <= 0 ? 0 : (num_tokens - 1) / page_size + 1;
}

struct PageCount {
  int32_t all = 0;
  int32_t owned = 0;  // no span but these names the page
};

// A path never comes back to a page it has left, so the spans of a page stand together.
static PageCount count_pages(const SlotLedger& ledger, std::span<const PageSpan> spans) {
  PageCount count;
  int32_t spans_of_page = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    ++spans_of_page;
    if (i + 1 < spans.size() && spans[i + 1].page == spans[i].page) continue;
    ++count.all;
    count.owned += ledger.num_spans(spans[i].page) == spans_of_page;
    spans_of_page = 0;
  }
  return count;
}

int32_t TreeCache::Impl::tail_slots(const Branch& branch) const {
  const PageSpan* last = last_span(branch, nodes[branch.tip]);
  return last == nullptr ? 0 : ledger.free_tail(*last);
}

void TreeCache::Impl::make_room(const Branch& branch, int32_t num_tokens) {
  int32_t wanted = pages_for(num_tokens - tail_slots(branch), ledger.page_size());
  const Node& tip = nodes[branch.tip];
  if (wanted > pages_within_reach() && !branch.has_fresh() && !tip.spans.empty() && tip.num_tips == 1 &&
      tip.num_live_children == 0) {
    // Only cached tokens can stand between the branch's end and the end of its page: it may fit once they are gone.
    const int32_t tail = ledger.page_size() - tip.spans.back().end;
    const int32_t wanted_without_cache = pages_for(num_tokens - tail, ledger.page_size());
    if (wanted_without_cache <= pages_within_reach()) {
      evict_below(branch.tip);
      wanted = wanted_without_cache;
    }
  }
  make_room_for_pages(wanted);
}

void TreeCache::Impl::make_room_for_pages(int32_t wanted) {
  const int32_t free_pages = ledger.num_free_pages();
  const int32_t within_reach = pages_within_reach();
  if (wanted > within_reach) {
    throw Error(ErrorCode::kKvFull,
                "The KV cache is full: " + std::to_string(wanted) + " more pages of " +
                    std::to_string(ledger.page_size()) + " tokens are wanted, but of " +
                    std::to_string(ledger.num_pages()) + " pages " + std::to_string(free_pages) + " are free and " +
                    std::to_string(within_reach - free_pages) +
                    " can be evicted. Raise kvTokens, or lower the width of the search.",
                {{"wanted_pages", wanted},
                 {"free_pages", within_reach},
                 {"num_pages", ledger.num_pages()},
                 {"page_size", ledger.page_size()}});
  }
  if (wanted > free_pages) evict(wanted - free_pages);
}

void TreeCache::Impl::give_slots(Branch& branch, int32_t num_tokens) {
  std::vector<PageSpan>& spans = branch.fresh_spans;
  int32_t rest = num_tokens;
  if (const int32_t tail = std::min(rest, tail_slots(branch)); tail > 0) {
    const PageSpan last = *last_span(branch, nodes[branch.tip]);
    const PageSpan more = {last.page, last.end, static_cast<int16_t>(last.end + tail)};
    ledger.use_slots(more);
    if (spans.empty()) {
      ledger.add_span(more.page, true);
      spans.push_back(more);
    } else {
      spans.back().end = more.end;
    }
    rest -= tail;
  }
  while (rest > 0) {
    const int32_t len = std::min(rest, ledger.page_size());
    spans.push_back({ledger.take_page(), 0, static_cast<int16_t>(len)});
    ledger.use_slots(spans.back());
    rest -= len;
  }
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
  Branch& branch = impl_->find(id);
  if (branch.has_fresh() && !branch.has_draft()) {
    throw bad_argument("Branch " + std::to_string(id) + " holds a chain of fresh tokens and no draft.", {{"branch", id}});
  }
  for (size_t i = 0; i < path.size(); ++i) {
    const int32_t parent = i == 0 ? -1 : path[i - 1];
    if (path[i] < 0 || path[i] >= branch.num_fresh() || branch.draft_parents[path[i]] != parent) {
      throw bad_argument("Draft token " + std::to_string(path[i]) + " does not follow token " + std::to_string(parent) +
                             " in a draft of " + std::to_string(branch.num_fresh()) + " tokens.",
                         {{"token", path[i]}, {"parent", parent}});
    }
  }

  SlotLedger& ledger = impl_->ledger;
  std::vector<int32_t> kept_tokens;
  std::vector<PageSpan> kept_spans;
  auto next = path.begin();
  int32_t j = 0;
  for (const PageSpan& span : branch.fresh_spans) {
    for (int16_t offset = span.begin; offset < span.end; ++offset, ++j) {
      const PageSpan slot = {span.page, offset, static_cast<int16_t>(offset + 1)};
      if (next == path.end() || *next != j) {
        ledger.free_slots(slot);
        continue;
      }
      ++next;
      kept_tokens.push_back(branch.fresh_tokens[j]);
      ledger.add_span(slot.page, true);
      impl_->join_spans(kept_spans, std::span(&slot, 1), true);
    }
  }
  for (const PageSpan& span : branch.fresh_spans) ledger.drop_span(span.page, true);
  branch.fresh_tokens = std::move(kept_tokens);
  branch.fresh_spans = std::move(kept_spans);
  branch.draft_parents.clear();
  branch.draft_depths.clear();
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
  const PageCount pages = count_pages(impl_->ledger, tip.spans);
  const bool whole_path = tip.parent == kForestRoot && tip.num_tips == 1 && tip.children.empty();
  if (len == 0 || (whole_path && pages.all == pages.owned)) return {};

  impl_->make_room_for_pages(pages_for(len, page_size()));
  std::vector<PageSpan> from;
  for (NodeId node = branch.tip; node != kForestRoot; node = impl_->nodes[node].parent) {
    const std::vector<PageSpan>& spans = impl_->nodes[node].spans;
    from.insert(from.begin(), spans.begin(), spans.end());
  }
  std::vector<SlotCopy> copies;
  std::vector<PageSpan> to;
  for (const PageSpan& span : from) {
    for (int32_t done = 0; done < span.len();) {
      if (to.empty() || to.back().end == page_size()) to.push_back({impl_->ledger.take_page(), 0, 0});
      PageSpan& last = to.back();
      const int32_t part = std::min<int32_t>(span.len() - done, page_size() - last.end);
      copies.push_back({span.page * page_size() + span.begin + done, last.page * page_size() + last.end, part});
      impl_->ledger.use_slots({last.page, last.end, static_cast<int16_t>(last.end + part)});
      last.end = static_cast<int16_t>(last.end + part);
      done += part;
    }
  }
  const NodeId old_tip = branch.tip;
  branch.tip = impl_->add_live_leaf(kForestRoot, tokens(id), std::move(to));
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
  return pages_for(num_tokens - impl_->tail_slots(impl_->find(branch)), page_size());
}

int32_t TreeCache::private_pages(BranchId id) const {
  const Branch& branch = impl_->find(id);
  const Node& tip = impl_->nodes[branch.tip];
  std::vector<PageSpan> own;
  if (branch.tip != kForestRoot && tip.num_tips == 1 && tip.children.empty()) own = tip.spans;
  own.insert(own.end(), branch.fresh_spans.begin(), branch.fresh_spans.end());
  return count_pages(impl_->ledger, own).owned;
}

StepSnapshot TreeCache::snapshot(std::span<const StepBranch> branches) const {
  StepSnapshot out;
  impl_->snapshot(branches, out);
  return out;
}

void TreeCache::snapshot(std::span<const StepBranch> branches, StepSnapshot& out) const { impl_->snapshot(branches, out); }

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
