#include <algorithm>

#include "cache/tree_cache_impl.h"
#include "common/error.h"

namespace deftree {

NodeId TreeCache::Impl::new_node() {
  NodeId id;
  if (free_nodes.empty()) {
    id = static_cast<NodeId>(nodes.size());
    nodes.emplace_back();
  } else {
    id = free_nodes.back();
    free_nodes.pop_back();
  }
  nodes[id].in_use = true;
  ++num_nodes;
  return id;
}

void TreeCache::Impl::free_node(NodeId id) {
  nodes[id] = Node{};
  free_nodes.push_back(id);
  --num_nodes;
}

NodeId TreeCache::Impl::add_live_leaf(NodeId parent, std::vector<int32_t> tokens, std::vector<PageSpan> spans) {
  const NodeId id = new_node();
  Node& leaf = nodes[id];
  leaf.parent = parent;
  leaf.begin = nodes[parent].end();
  leaf.num_tips = 1;
  leaf.tokens = std::move(tokens);
  leaf.spans = std::move(spans);
  nodes[parent].children.push_back({leaf.tokens.front(), id});
  ++nodes[parent].num_live_children;
  return id;
}

static Child& child_entry(Node& parent, NodeId child) {
  const auto entry = std::find_if(parent.children.begin(), parent.children.end(),
                                  [child](const Child& candidate) { return candidate.node == child; });
  ensure(entry != parent.children.end(), "a node is among its parent's children");
  return *entry;
}

// The lower part keeps the id: its branches, its children and its place among the evictable leaves stay as they are.
NodeId TreeCache::Impl::split(NodeId lower_id, int32_t at) {
  const NodeId upper_id = new_node();
  Node& upper = nodes[upper_id];
  Node& lower = nodes[lower_id];
  const bool live = lower.live();

  upper.parent = lower.parent;
  upper.begin = lower.begin;
  upper.num_live_children = live;
  upper.last_used = lower.last_used;
  upper.tokens.assign(lower.tokens.begin(), lower.tokens.begin() + at);
  lower.tokens.erase(lower.tokens.begin(), lower.tokens.begin() + at);

  auto span = lower.spans.begin();
  for (int32_t rest = at; rest > 0;) {
    if (span->len() <= rest) {
      rest -= span->len();
      upper.spans.push_back(*span++);
    } else {
      const int16_t cut = static_cast<int16_t>(span->begin + rest);
      upper.spans.push_back({span->page, span->begin, cut});
      span->begin = cut;
      ledger.add_span(span->page, live);
      rest = 0;
    }
  }
  lower.spans.erase(lower.spans.begin(), span);

  child_entry(nodes[upper.parent], lower_id).node = upper_id;
  lower.parent = upper_id;
  lower.begin += at;
  upper.children.push_back({lower.tokens.front(), lower_id});
  return upper_id;
}

// The lower node lives on, for the same reason as in split().
void TreeCache::Impl::tidy(NodeId upper_id) {
  Node& upper = nodes[upper_id];
  if (upper_id == kForestRoot || upper.num_tips > 0 || upper.children.size() != 1) return;
  const NodeId lower_id = upper.children.front().node;
  Node& lower = nodes[lower_id];

  lower.tokens.insert(lower.tokens.begin(), upper.tokens.begin(), upper.tokens.end());
  std::vector<PageSpan> spans = std::move(upper.spans);
  join_spans(spans, lower.spans, lower.live());
  lower.spans = std::move(spans);
  lower.begin = upper.begin;
  lower.parent = upper.parent;
  child_entry(nodes[upper.parent], upper_id).node = lower_id;
  free_node(upper_id);
}

void TreeCache::Impl::add_tip(NodeId id) {
  const bool was_live = nodes[id].live();
  ++nodes[id].num_tips;
  if (was_live) return;
  for (;;) {
    Node& node = nodes[id];
    if (node.children.empty()) evictable.erase({node.last_used, id});
    for (const PageSpan& span : node.spans) ledger.set_live(span.page, true);
    Node& parent = nodes[node.parent];
    const bool parent_was_live = parent.live();
    ++parent.num_live_children;
    if (parent_was_live) return;
    id = node.parent;
  }
}

void TreeCache::Impl::drop_tip(NodeId id) {
  --nodes[id].num_tips;
  if (nodes[id].live()) return;
  ++clock;
  for (;;) {
    Node& node = nodes[id];
    node.last_used = clock;
    if (node.children.empty()) evictable.insert({clock, id});
    for (const PageSpan& span : node.spans) ledger.set_live(span.page, false);
    Node& parent = nodes[node.parent];
    --parent.num_live_children;
    if (parent.live()) return;
    id = node.parent;
  }
}

// The parent cannot turn into an evictable leaf here: an unread node with children has two or more, and when the last
// but one goes, tidy() joins it with the other.
NodeId TreeCache::Impl::remove_leaf(NodeId id) {
  Node& leaf = nodes[id];
  const NodeId parent_id = leaf.parent;
  Node& parent = nodes[parent_id];
  evictable.erase({leaf.last_used, id});
  for (const PageSpan& span : leaf.spans) release(span, false);
  parent.children.erase(parent.children.begin() + (&child_entry(parent, id) - parent.children.data()));
  free_node(id);
  return parent_id;
}

int32_t TreeCache::Impl::evict(int32_t num_pages) {
  const int32_t free_before = ledger.num_free_pages();
  const auto freed = [&] { return ledger.num_free_pages() - free_before; };
  while (freed() < num_pages && !evictable.empty()) {
    const NodeId id = evictable.begin()->second;
    Node& leaf = nodes[id];
    // From the end: what is left of the run is still a prefix that others can attach to.
    while (freed() < num_pages && !leaf.spans.empty()) {
      const PageSpan last = leaf.spans.back();
      leaf.spans.pop_back();
      leaf.tokens.resize(leaf.tokens.size() - last.len());
      release(last, false);
    }
    if (leaf.spans.empty()) tidy(remove_leaf(id));
  }
  return freed();
}

void TreeCache::Impl::evict_below(NodeId id) {
  while (!nodes[id].children.empty()) {
    NodeId leaf = nodes[id].children.back().node;
    while (!nodes[leaf].children.empty()) leaf = nodes[leaf].children.back().node;
    const NodeId parent = remove_leaf(leaf);
    if (parent != id) tidy(parent);
  }
}

// Siblings may begin with the same token (two forks drew it), so each of them is followed; the forest is a tree, so
// every node is looked at once at most.
TreeCache::Impl::Match TreeCache::Impl::longest_match(NodeId from, std::span<const int32_t> tokens) {
  Match best;
  match_stack.clear();
  match_stack.emplace_back(from, 0);
  while (!match_stack.empty()) {
    const auto [id, matched] = match_stack.back();
    match_stack.pop_back();
    const std::span<const int32_t> rest = tokens.subspan(matched);
    if (rest.empty()) break;
    for (const Child& child : nodes[id].children) {
      if (child.first_token != rest.front()) continue;
      const std::vector<int32_t>& run = nodes[child.node].tokens;
      const auto common = std::min(run.size(), rest.size());
      const auto end = std::mismatch(run.begin(), run.begin() + common, rest.begin()).first;
      const int32_t len = static_cast<int32_t>(end - run.begin());
      if (matched + len > best.len) best = {child.node, len, matched + len};
      if (static_cast<size_t>(len) == run.size()) match_stack.emplace_back(child.node, matched + len);
    }
  }
  return best;
}

}  // namespace deftree
