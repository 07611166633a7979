#include "cache/page_pool.h"

#include "common/error.h"
#include "common/test.h"

namespace deftree {

TEST(page_pool_gives_each_page_once) {
  PagePool pool(3);
  std::vector<bool> taken(3, false);
  for (int i = 0; i < 3; ++i) {
    const int32_t page = pool.take();
    REQUIRE(page >= 0 && page < 3);
    CHECK(!taken[page]);
    taken[page] = true;
    CHECK_EQ(pool.readers(page), 1);
  }
  CHECK_EQ(pool.num_free(), 0);
  CHECK_EQ(pool.take(), -1);
}

TEST(page_pool_frees_a_page_with_its_last_reader) {
  PagePool pool(2);
  const int32_t page = pool.take();
  pool.add_reader(page);
  pool.drop_reader(page);
  CHECK_EQ(pool.num_free(), 1);
  pool.drop_reader(page);
  CHECK_EQ(pool.num_free(), 2);
  CHECK_EQ(pool.take(), page);  // warm pages first
}

TEST(page_pool_refuses_misuse) {
  CHECK_ERROR(PagePool(0), ErrorCode::kBadArgument);
  PagePool pool(1);
  CHECK_ERROR(pool.add_reader(0), ErrorCode::kInternal);
  CHECK_ERROR(pool.drop_reader(0), ErrorCode::kInternal);
  CHECK_ERROR(pool.drop_reader(7), ErrorCode::kInternal);
}

}  // namespace deftree
