// What the tree cache knows of its pages beyond the pool: which slots hold a token, and which pages only evictable
// nodes name. Internal to native/cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cache/page_pool.h"
#include "cache/tree_snapshot.h"

namespace deftree {

// The lists of spans are the caller's: the ledger counts the spans that name a page (the pool's readers). A span is
// *live* when a branch reads its node, or when it holds a branch's fresh tokens. A slot belongs to at most one span.
class SlotLedger {
 public:
  SlotLedger(int32_t num_pages, int32_t page_size);

  int32_t page_size() const { return page_size_; }
  int32_t num_pages() const { return pool_.num_pages(); }
  int32_t num_free_pages() const { return pool_.num_free(); }
  int32_t num_cached_pages() const { return num_cached_pages_; }  // pages that no live span names
  int64_t num_used_slots() const { return num_used_slots_; }
  int32_t pages_for(int32_t num_tokens) const { return num_tokens <= 0 ? 0 : (num_tokens - 1) / page_size_ + 1; }
  int32_t num_spans(int32_t page) const { return pool_.readers(page); }
  int32_t num_live_spans(int32_t page) const { return live_spans_[page]; }
  bool slot_used(int32_t page, int32_t offset) const { return (used_[word_of(page, offset)] >> (offset % 64)) & 1; }

  // A page that one live span names. Throws kInternal when none is free: the caller has made room.
  int32_t take_page();
  void add_span(int32_t page, bool live);
  void drop_span(int32_t page, bool live);  // the page returns to the pool with its last span
  void set_live(int32_t page, bool live);   // one of the page's spans became live, or ceased to be

  void use_slots(PageSpan span);
  void free_slots(PageSpan span);
  // Slots after `last` in its page when none of them is in use, else 0: what an append can write in place.
  int32_t free_tail(PageSpan last) const;

 private:
  size_t word_of(int32_t page, int32_t offset) const {
    return static_cast<size_t>(page) * words_per_page_ + offset / 64;
  }
  bool cached(int32_t page) const { return pool_.readers(page) > 0 && live_spans_[page] == 0; }

  int32_t page_size_;
  int32_t words_per_page_;
  PagePool pool_;
  std::vector<int32_t> live_spans_;  // [num_pages]
  std::vector<uint64_t> used_;       // [num_pages, words_per_page] bit = slot holds a token
  int32_t num_cached_pages_ = 0;
  int64_t num_used_slots_ = 0;
};

}  // namespace deftree
