#include <algorithm>
#include <string>

#include "cache/tree_cache_impl.h"
#include "common/error.h"

namespace deftree {
namespace {

// Counts, from the spans alone, what the ledger keeps book of.
struct Recount {
  explicit Recount(const SlotLedger& ledger)
      : page_size(ledger.page_size()),
        spans(ledger.num_pages(), 0),
        live_spans(ledger.num_pages(), 0),
        used(static_cast<size_t>(ledger.num_pages()) * page_size, false) {}

  // Returns the tokens that the list holds.
  int32_t add(const std::vector<PageSpan>& list, bool live) {
    int32_t num_tokens = 0;
    for (size_t i = 0; i < list.size(); ++i) {
      const PageSpan span = list[i];
      ensure(span.page >= 0 && span.page < static_cast<int32_t>(spans.size()), "a span names a page of the pool");
      ensure(0 <= span.begin && span.begin < span.end && span.end <= page_size, "a span lies within its page");
      ensure(i == 0 || list[i - 1].page != span.page || list[i - 1].end != span.begin, "spans that touch are joined");
      ++spans[span.page];
      live_spans[span.page] += live;
      for (int32_t offset = span.begin; offset < span.end; ++offset) {
        std::vector<bool>::reference slot = used[static_cast<size_t>(span.page) * page_size + offset];
        ensure(!slot, "a slot belongs to one span");
        slot = true;
      }
      num_tokens += span.len();
    }
    return num_tokens;
  }

  void check(const SlotLedger& ledger) const {
    int32_t num_free = 0, num_cached = 0;
    int64_t num_used = 0;
    for (int32_t page = 0; page < static_cast<int32_t>(spans.size()); ++page) {
      ensure(ledger.num_spans(page) == spans[page], "a page's readers are the spans that name it");
      ensure(ledger.num_live_spans(page) == live_spans[page],
             "a page's live spans are those of live nodes and of fresh tokens");
      num_free += spans[page] == 0;
      num_cached += spans[page] > 0 && live_spans[page] == 0;
      for (int32_t offset = 0; offset < page_size; ++offset) {
        const bool expected = used[static_cast<size_t>(page) * page_size + offset];
        ensure(ledger.slot_used(page, offset) == expected, "a slot is in use when a span covers it");
        num_used += expected;
      }
    }
    ensure(ledger.num_free_pages() == num_free, "free + referenced pages = all pages");
    ensure(ledger.num_cached_pages() == num_cached, "cached pages are those with no live span");
    ensure(ledger.num_used_slots() == num_used, "the count of slots in use is that of the spans");
  }

  int32_t page_size;
  std::vector<int32_t> spans, live_spans;
  std::vector<bool> used;
};

}  // namespace

void TreeCache::Impl::check_invariants() const {
  Recount recount(ledger);

  std::vector<int32_t> tips(nodes.size(), 0);
  tips[kForestRoot] = 1;
  for (const auto& [id, branch] : branches) {
    ensure(branch.tip >= 0 && branch.tip < static_cast<NodeId>(nodes.size()) && nodes[branch.tip].in_use,
           "a branch ends at a node in use");
    ++tips[branch.tip];
    ensure(recount.add(branch.fresh_spans, true) == branch.num_fresh(), "fresh tokens have a slot each");
    ensure(branch.draft_parents.size() == branch.draft_depths.size() &&
               (!branch.has_draft() || branch.draft_parents.size() == branch.fresh_tokens.size()),
           "a draft has a parent and a depth for each token");
    for (int32_t j = 0; j < static_cast<int32_t>(branch.draft_parents.size()); ++j) {
      const int32_t parent = branch.draft_parents[j];
      ensure(parent >= -1 && parent < j, "a draft token's parent stands before it");
      ensure(branch.draft_depths[j] == (parent < 0 ? 0 : branch.draft_depths[parent] + 1),
             "a draft token's depth follows its parent's");
    }
  }

  // Every node in use is reached from the forest's root exactly once, and knows how it was reached.
  std::vector<NodeId> order = {kForestRoot};
  std::vector<bool> reached(nodes.size(), false);
  size_t num_evictable = 0;
  ensure(nodes[kForestRoot].begin == 0 && nodes[kForestRoot].tokens.empty() && nodes[kForestRoot].spans.empty(),
         "the forest's root has no tokens");
  for (size_t next = 0; next < order.size(); ++next) {
    const NodeId id = order[next];
    const Node& node = nodes[id];
    ensure(!reached[id], "a node has one parent");
    reached[id] = true;
    ensure(node.in_use, "a node that is reached is in use");
    ensure(node.num_tips == tips[id], "a node's tips are the branches that end there");
    int32_t num_live_children = 0;
    for (const Child& child : node.children) {
      ensure(child.node > kForestRoot && child.node < static_cast<NodeId>(nodes.size()), "a child is a node");
      const Node& below = nodes[child.node];
      ensure(below.parent == id && below.begin == node.end(), "a child begins where its parent ends");
      ensure(!below.tokens.empty() && below.tokens.front() == child.first_token,
             "a child is listed by its first token");
      num_live_children += below.live();
      order.push_back(child.node);
    }
    ensure(node.num_live_children == num_live_children, "a node's live children are those that a branch reads");
    ensure(recount.add(node.spans, node.live()) == node.len(), "a node's length is that of its slots");
    if (id == kForestRoot) continue;
    ensure(node.len() > 0, "a node has tokens");
    ensure(node.num_tips > 0 || node.children.size() != 1, "a node with one child and no branch is joined with it");
    if (node.live()) continue;
    ensure(node.last_used <= clock, "a node was last used in the past");
    ensure(node.parent == kForestRoot || nodes[node.parent].live() || nodes[node.parent].last_used >= node.last_used,
           "a prefix was used no earlier than what follows it");
    if (!node.children.empty()) continue;
    ++num_evictable;
    ensure(evictable.contains({node.last_used, id}), "a leaf that no branch reads can be evicted");
  }
  ensure(num_evictable == evictable.size(), "only leaves that no branch reads can be evicted");
  ensure(static_cast<size_t>(num_nodes) == order.size(), "the count of nodes is that of the forest");
  ensure(nodes.size() == order.size() + free_nodes.size(), "a node is in the forest or free");
  for (const NodeId id : free_nodes) ensure(!nodes[id].in_use && !reached[id], "a free node is not in use");

  recount.check(ledger);
}

}  // namespace deftree
