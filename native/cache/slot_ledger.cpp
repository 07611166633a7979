#include "cache/slot_ledger.h"

#include "common/error.h"

namespace deftree {

SlotLedger::SlotLedger(int32_t num_pages, int32_t page_size)
    : page_size_(page_size),
      words_per_page_((page_size + 63) / 64),
      pool_(num_pages),
      live_spans_(num_pages, 0),
      used_(static_cast<size_t>(num_pages) * words_per_page_, 0) {}

int32_t SlotLedger::take_page() {
  const int32_t page = pool_.take();
  ensure(page >= 0, "a page is free once room was made");
  live_spans_[page] = 1;
  return page;
}

void SlotLedger::add_span(int32_t page, bool live) {
  num_cached_pages_ -= cached(page);
  pool_.add_reader(page);
  live_spans_[page] += live;
  num_cached_pages_ += cached(page);
}

void SlotLedger::drop_span(int32_t page, bool live) {
  num_cached_pages_ -= cached(page);
  pool_.drop_reader(page);
  live_spans_[page] -= live;
  num_cached_pages_ += cached(page);
}

void SlotLedger::set_live(int32_t page, bool live) {
  num_cached_pages_ -= cached(page);
  live_spans_[page] += live ? 1 : -1;
  num_cached_pages_ += cached(page);
}

void SlotLedger::use_slots(PageSpan span) {
  for (int32_t offset = span.begin; offset < span.end; ++offset)
    used_[word_of(span.page, offset)] |= uint64_t{1} << (offset % 64);
  num_used_slots_ += span.len();
}

void SlotLedger::free_slots(PageSpan span) {
  for (int32_t offset = span.begin; offset < span.end; ++offset)
    used_[word_of(span.page, offset)] &= ~(uint64_t{1} << (offset % 64));
  num_used_slots_ -= span.len();
}

int32_t SlotLedger::free_tail(PageSpan last) const {
  if (last.end == page_size_) return 0;
  if (used_[word_of(last.page, last.end)] >> (last.end % 64) != 0) return 0;
  for (int32_t offset = (last.end / 64 + 1) * 64; offset < page_size_; offset += 64) {
    if (used_[word_of(last.page, offset)] != 0) return 0;
  }
  return page_size_ - last.end;
}

}  // namespace deftree
