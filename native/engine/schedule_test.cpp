#include "engine/schedule.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "common/test.h"

namespace deftree {
namespace {

std::vector<int32_t> share(int32_t budget, std::vector<int32_t> wanted) {
  std::vector<int32_t> given(wanted.size());
  share_prefill_rows(budget, wanted, given);
  return given;
}

TEST(schedule_shares_rows_equally_and_passes_on_what_short_prompts_leave) {
  CHECK(share(30, {100, 100, 100}) == (std::vector<int32_t>{10, 10, 10}));
  CHECK(share(30, {100, 4, 100}) == (std::vector<int32_t>{13, 4, 13}));
  CHECK(share(31, {100, 4, 100}) == (std::vector<int32_t>{14, 4, 13}));
  CHECK(share(2, {5, 5, 5}) == (std::vector<int32_t>{1, 1, 0}));
  CHECK(share(100, {5, 6}) == (std::vector<int32_t>{5, 6}));
  CHECK(share(0, {5}) == (std::vector<int32_t>{0}));
}

TEST(schedule_spends_the_whole_budget_and_is_fair) {
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> wanted(1 + random() % 20);
    for (int32_t& rows : wanted) rows = 1 + random() % 300;
    const int32_t budget = random() % 400;
    const std::vector<int32_t> given = share(budget, wanted);
    CHECK_EQ(std::accumulate(given.begin(), given.end(), 0),
             std::min(budget, std::accumulate(wanted.begin(), wanted.end(), 0)));
    // Whoever is left wanting got at least as much as anyone else, but for the remainder.
    const int32_t most = *std::max_element(given.begin(), given.end());
    for (size_t i = 0; i < wanted.size(); ++i) {
      CHECK(given[i] >= 0 && given[i] <= wanted[i]);
      if (given[i] < wanted[i]) CHECK(given[i] >= most - 1);
    }
  }
}

TEST(schedule_decoding_comes_first_but_leaves_an_eighth_to_prefill) {
  CHECK_EQ(decode_rows(256, 16, 3), 16);
  CHECK_EQ(decode_rows(256, 1000, 0), 256);
  CHECK_EQ(decode_rows(256, 1000, 1), 224);
  CHECK_EQ(decode_rows(1, 5, 1), 1);
  CHECK_EQ(decode_rows(4, 5, 1), 3);
}

}  // namespace
}  // namespace deftree
