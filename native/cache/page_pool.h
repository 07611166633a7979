// Reference-counted page ids. The pool knows no memory: the KV tensors of every layer are indexed by the same ids.
#pragma once

#include <cstdint>
#include <vector>

namespace deftree {

class PagePool {
 public:
  explicit PagePool(int num_pages);

  int num_pages() const { return static_cast<int>(readers_.size()); }
  int num_free() const { return static_cast<int>(free_.size()); }

  // A page with one reader, or -1 when none is free.
  int32_t take();
  void add_reader(int32_t page);
  // Returns the page to the pool when this was its last reader.
  void drop_reader(int32_t page);
  int readers(int32_t page) const { return readers_[page]; }

 private:
  std::vector<int32_t> readers_;  // [num_pages] 0 = free
  std::vector<int32_t> free_;     // stack: the page freed last is taken first (it is warm)
};

}  // namespace deftree
