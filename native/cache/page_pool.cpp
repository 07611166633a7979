#include "cache/page_pool.h"

#include "common/error.h"

namespace deftree {

PagePool::PagePool(int num_pages) {
  if (num_pages < 1) {
    throw Error(ErrorCode::kBadArgument, "A page pool needs at least one page, not " + std::to_string(num_pages) + ".",
                {{"num_pages", static_cast<double>(num_pages)}});
  }
  readers_.assign(num_pages, 0);
  free_.reserve(num_pages);
  for (int32_t page = num_pages - 1; page >= 0; --page) free_.push_back(page);
}

int32_t PagePool::take() {
  if (free_.empty()) return -1;
  const int32_t page = free_.back();
  free_.pop_back();
  readers_[page] = 1;
  return page;
}

void PagePool::add_reader(int32_t page) {
  ensure(page >= 0 && page < num_pages() && readers_[page] > 0, "a reader is added to a page in use");
  ++readers_[page];
}

void PagePool::drop_reader(int32_t page) {
  ensure(page >= 0 && page < num_pages() && readers_[page] > 0, "a reader is dropped from a page in use");
  if (--readers_[page] == 0) free_.push_back(page);
}

}  // namespace deftree
