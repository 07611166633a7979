#include <algorithm>
#include <string>

#include "cache/tree_cache_impl.h"
#include "common/error.h"

namespace deftree {

void TreeCache::Impl::join_spans(std::vector<PageSpan>& dst, std::span<const PageSpan> src, bool live) {
  for (const PageSpan& span : src) {
    if (!dst.empty() && dst.back().page == span.page && dst.back().end == span.begin) {
      dst.back().end = span.end;
      ledger.drop_span(span.page, live);
    } else {
      dst.push_back(span);
    }
  }
}

void TreeCache::Impl::release(PageSpan span, bool live) {
  ledger.free_slots(span);
  ledger.drop_span(span.page, live);
}

// A path never comes back to a page it has left, so the spans of a page stand together.
TreeCache::Impl::PageCount TreeCache::Impl::count_pages(std::span<const PageSpan> spans) const {
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

static const PageSpan* last_span(const Branch& branch, const Node& tip) {
  if (!branch.fresh_spans.empty()) return &branch.fresh_spans.back();
  return tip.spans.empty() ? nullptr : &tip.spans.back();
}

int32_t TreeCache::Impl::tail_slots(const Branch& branch) const {
  const PageSpan* last = last_span(branch, nodes[branch.tip]);
  return last == nullptr ? 0 : ledger.free_tail(*last);
}

void TreeCache::Impl::make_room(const Branch& branch, int32_t num_tokens) {
  int32_t wanted = ledger.pages_for(num_tokens - tail_slots(branch));
  const Node& tip = nodes[branch.tip];
  if (wanted > pages_within_reach() && !branch.has_fresh() && !tip.spans.empty() && tip.num_tips == 1 &&
      tip.num_live_children == 0) {
    // Only cached tokens can stand between the branch's end and the end of its page: it may fit once they are gone.
    const int32_t tail = ledger.page_size() - tip.spans.back().end;
    const int32_t wanted_without_cache = ledger.pages_for(num_tokens - tail);
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

void TreeCache::Impl::keep_fresh(Branch& branch, std::span<const int32_t> kept) {
  std::vector<int32_t> tokens;
  std::vector<PageSpan> spans;
  auto next = kept.begin();
  int32_t j = 0;
  for (const PageSpan& span : branch.fresh_spans) {
    for (int16_t offset = span.begin; offset < span.end; ++offset, ++j) {
      const PageSpan slot = {span.page, offset, static_cast<int16_t>(offset + 1)};
      if (next == kept.end() || *next != j) {
        ledger.free_slots(slot);
        continue;
      }
      ++next;
      tokens.push_back(branch.fresh_tokens[j]);
      ledger.add_span(slot.page, true);
      join_spans(spans, std::span(&slot, 1), true);
    }
  }
  for (const PageSpan& span : branch.fresh_spans) ledger.drop_span(span.page, true);
  branch.fresh_tokens = std::move(tokens);
  branch.fresh_spans = std::move(spans);
  branch.draft_parents.clear();
  branch.draft_depths.clear();
}

void TreeCache::Impl::gather_fresh(Branch& branch, std::span<const int32_t> kept, std::vector<SlotCopy>& copies) {
  // The first num_staying tokens stay, the others follow them without a gap and end before `end`, in front of which none
  // of the others lies: what is written is never read.
  const size_t num_kept = kept.size();
  size_t num_staying = 0, end = num_kept;
  while (num_staying < num_kept && static_cast<size_t>(kept[num_staying]) < end) {
    ++num_staying;
    end = static_cast<size_t>(kept[num_staying - 1]) + 1 + num_kept - num_staying;
  }
  std::vector<int32_t> slots, places(kept.begin(), kept.end());
  for (const PageSpan& span : branch.fresh_spans) {
    for (int32_t offset = span.begin; offset < span.end; ++offset) slots.push_back(span.page * ledger.page_size() + offset);
  }
  const size_t first_copy = copies.size();
  for (size_t i = num_staying; i < num_kept; ++i) {
    places[i] = static_cast<int32_t>(end - num_kept + i);
    if (places[i] == kept[i]) continue;
    branch.fresh_tokens[places[i]] = branch.fresh_tokens[kept[i]];
    const int32_t from = slots[kept[i]], to = slots[places[i]];
    SlotCopy* last = copies.size() > first_copy ? &copies.back() : nullptr;
    if (last != nullptr && last->from_slot + last->len == from && last->to_slot + last->len == to) {
      ++last->len;
    } else {
      copies.push_back({from, to, 1});
    }
  }
  keep_fresh(branch, places);
}

std::vector<PageSpan> TreeCache::Impl::copy_path(NodeId tip, std::vector<SlotCopy>& copies) {
  std::vector<const Node*> path;
  for (NodeId id = tip; id != kForestRoot; id = nodes[id].parent) path.push_back(&nodes[id]);
  std::reverse(path.begin(), path.end());

  const int32_t page_size = ledger.page_size();
  std::vector<PageSpan> copy;
  for (const Node* node : path) {
    for (const PageSpan& span : node->spans) {
      for (int32_t done = 0; done < span.len();) {
        if (copy.empty() || copy.back().end == page_size) copy.push_back({ledger.take_page(), 0, 0});
        PageSpan& last = copy.back();
        const int32_t len = std::min(span.len() - done, page_size - last.end);
        copies.push_back({span.page * page_size + span.begin + done, last.page * page_size + last.end, len});
        const PageSpan part = {last.page, last.end, static_cast<int16_t>(last.end + len)};
        ledger.use_slots(part);
        last.end = part.end;
        done += len;
      }
    }
  }
  return copy;
}

}  // namespace deftree
