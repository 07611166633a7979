#include "attention/appended_tokens.h"

#include <algorithm>
#include <span>

namespace deftree::attention {
namespace {

std::span<const PageSpan> spans_of(const TreeSnapshot& tree, int32_t node) {
  return std::span(tree.spans).subspan(tree.span_indptr[node], tree.span_indptr[node + 1] - tree.span_indptr[node]);
}

// `after` is `before` with one more slot: its last span is longer by one, or one more span of one slot follows.
bool is_longer_by_one(std::span<const PageSpan> before, std::span<const PageSpan> after) {
  if (before.empty()) return false;
  if (after.size() == before.size() + 1) {
    return after.back().len() == 1 && std::ranges::equal(before, after.first(before.size()));
  }
  if (after.size() != before.size()) return false;
  PageSpan grown = before.back();
  ++grown.end;
  return after.back() == grown && std::ranges::equal(before.first(before.size() - 1), after.first(after.size() - 1));
}

}  // namespace

bool find_appended_tokens(const TreeSnapshot& before, const TreeSnapshot& now, std::vector<AppendedToken>& appended) {
  appended.clear();
  if (before.page_size != now.page_size || before.parent != now.parent || before.query_indptr != now.query_indptr) {
    return false;
  }
  const auto is_plain = [](NodeMask mask) { return mask == NodeMask::kNone; };
  if (!std::ranges::all_of(before.mask, is_plain) || !std::ranges::all_of(now.mask, is_plain)) return false;
  for (int32_t node = 0; node < now.num_nodes(); ++node) {
    const std::span<const PageSpan> old_spans = spans_of(before, node), new_spans = spans_of(now, node);
    const int32_t num_queries = now.query_indptr[node + 1] - now.query_indptr[node];
    if (num_queries == 0) {
      if (!std::ranges::equal(old_spans, new_spans)) return false;
      continue;
    }
    if (num_queries > 1 || now.subtree_end[node] != node + 1 || !is_longer_by_one(old_spans, new_spans)) return false;
    const auto last_slot = [&](const PageSpan& span) { return span.page * now.page_size + span.end - 1; };
    appended.push_back({now.query_indptr[node], last_slot(old_spans.back()), last_slot(new_spans.back())});
  }
  return true;
}

}  // namespace deftree::attention
