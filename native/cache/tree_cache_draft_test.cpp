#include <map>
#include <set>

#include "cache/tree_cache.h"
#include "cache/tree_cache_test_util.h"
#include "common/error.h"
#include "common/test.h"

namespace deftree {

using test::grow;
using test::grown;
using test::pages_in_use;
using test::range;
using test::Tokens;

TEST(tree_cache_draft_keeps_the_accepted_path_where_it_is) {
  TreeCache cache({.num_pages = 10, .page_size = 4});
  const BranchId branch = grown(cache, range(0, 3));
  //  -1 -> 0 -> 1
  //          -> 2 -> 4
  //     -> 3
  cache.append_draft(branch, Tokens{10, 11, 12, 13, 14}, Tokens{-1, 0, 0, -1, 2});
  CHECK_EQ(cache.length(branch), 8);
  CHECK(cache.tokens(branch) == range(0, 3));
  CHECK_ERROR(cache.token_at(branch, 3), ErrorCode::kBadArgument);
  const StepBranch step = {branch, 5};
  const StepSnapshot before = cache.snapshot({&step, 1});
  cache.accept_draft(branch, Tokens{0, 2, 4});
  cache.check_invariants();
  CHECK(cache.tokens(branch) == Tokens({0, 1, 2, 10, 12, 14}));
  CHECK_EQ(cache.num_fresh(branch), 0);

  const StepBranch tip = {branch, 0};
  const std::vector<int32_t> slots = test::visible_slots(cache.snapshot({&tip, 1}).tree, 0);
  for (int i = 0; i < 3; ++i) CHECK_EQ(slots[3 + i], before.queries[2 * i].slot);
  CHECK_EQ(cache.stats().num_tokens, int64_t{6});
}

TEST(tree_cache_draft_moves_up_what_lies_far_behind) {
  // Chains below the root: 1..4, 5..8, 9..12. Pages of 4 slots, of which 3 are taken.
  Tokens parents = {-1};
  for (int32_t chain = 0; chain < 3; ++chain) {
    for (int32_t i = 0; i < 4; ++i) parents.push_back(i == 0 ? 0 : 4 * chain + i);
  }
  const Tokens drafts = range(10, 13);
  struct Case {
    Tokens path;
    size_t num_copies;
    int32_t num_holes;
  };
  for (const auto& [path, num_copies, num_holes] : std::vector<Case>{
           {{}, 0, 0}, {{0, 1, 2}, 0, 0}, {{0, 5}, 1, 0}, {{0, 9, 10, 11, 12}, 1, 0}, {{0, 5, 6, 7, 8}, 1, 0}}) {
    TreeCache cache({.num_pages = 10, .page_size = 4});
    const BranchId branch = grown(cache, range(0, 3));
    cache.append_draft(branch, drafts, parents);
    const StepBranch step = {branch, 13};
    const StepSnapshot before = cache.snapshot({&step, 1});
    std::map<int32_t, int32_t> kv;
    for (const SnapshotQuery& query : before.queries) kv[query.slot] = query.token;

    std::vector<SlotCopy> copies;
    cache.accept_draft(branch, path, copies);
    CHECK_EQ(copies.size(), num_copies);
    // At once: all is read before anything is written.
    const std::map<int32_t, int32_t> old = kv;
    std::set<int32_t> read, written;
    for (const SlotCopy& copy : copies) {
      for (int32_t i = 0; i < copy.len; ++i) {
        kv[copy.to_slot + i] = old.at(copy.from_slot + i);
        read.insert(copy.from_slot + i);
        written.insert(copy.to_slot + i);
      }
    }
    for (int32_t slot : written) CHECK(!read.contains(slot));
    cache.check_invariants();

    Tokens expected = range(0, 3);
    for (int32_t row : path) expected.push_back(drafts[row]);
    CHECK(cache.tokens(branch) == expected);
    const StepBranch tip = {branch, 0};
    const std::vector<int32_t> slots = test::visible_slots(cache.snapshot({&tip, 1}).tree, 0);
    for (size_t i = 0; i < path.size(); ++i) CHECK_EQ(kv[slots[3 + i]], drafts[path[i]]);
    if (!path.empty()) CHECK_EQ(slots.back(), before.queries[path.size() - 1 + num_holes].slot);
  }
}

TEST(tree_cache_draft_leaves_a_hole_rather_than_read_what_it_writes) {
  TreeCache cache({.num_pages = 4, .page_size = 16});
  const BranchId branch = grown(cache, range(0, 3));
  cache.append_draft(branch, range(10, 6), Tokens{-1, 0, 0, 2, 3, 4});
  std::vector<SlotCopy> copies;
  cache.accept_draft(branch, Tokens{0, 2, 3, 4, 5}, copies);  // moving up by one would write what is read
  CHECK(copies.empty());
  CHECK(cache.tokens(branch) == Tokens({0, 1, 2, 10, 12, 13, 14, 15}));
  CHECK_ERROR(cache.accept_draft(branch, Tokens{0}, copies), ErrorCode::kBadArgument);
  cache.check_invariants();
}

TEST(tree_cache_append_spares_a_slot_far_behind_in_its_page) {
  TreeCache cache({.num_pages = 4, .page_size = 128});
  const BranchId branch = grown(cache, range(0, 3));
  Tokens parents(100, -1);
  parents[99] = 0;
  cache.append_draft(branch, range(10, 100), parents);
  cache.accept_draft(branch, Tokens{0, 99});  // kept slots: 3 and 102
  cache.truncate(branch, 4);
  CHECK_EQ(cache.pages_wanted(branch, 1), 1);
  grow(cache, branch, range(200, 110));
  CHECK_EQ(pages_in_use(cache), 2);
}

TEST(tree_cache_draft_of_which_nothing_is_accepted_leaves_no_trace) {
  TreeCache cache({.num_pages = 10, .page_size = 4});
  const BranchId branch = grown(cache, range(0, 3));
  cache.append_draft(branch, range(10, 9), Tokens{-1, 0, 1, 2, -1, 4, 4, 4, -1});
  cache.accept_draft(branch, {});
  cache.check_invariants();
  CHECK_EQ(pages_in_use(cache), 1);
  CHECK_EQ(cache.pages_wanted(branch, 1), 0);
}

TEST(tree_cache_draft_refuses_what_is_no_tree_and_no_path) {
  TreeCache cache({.num_pages = 10, .page_size = 4});
  const BranchId branch = grown(cache, range(0, 3));
  CHECK_ERROR(cache.append_draft(branch, Tokens{1, 2}, Tokens{-1}), ErrorCode::kBadArgument);
  CHECK_ERROR(cache.append_draft(branch, Tokens{1, 2}, Tokens{-1, 1}), ErrorCode::kBadArgument);
  CHECK_ERROR(cache.append_draft(branch, Tokens{1, 2}, Tokens{-2, 0}), ErrorCode::kBadArgument);
  CHECK_EQ(cache.length(branch), 3);

  cache.append_draft(branch, Tokens{1, 2, 3}, Tokens{-1, 0, -1});
  CHECK_ERROR(cache.append_draft(branch, Tokens{1}, Tokens{-1}), ErrorCode::kBadArgument);
  CHECK_ERROR(cache.append(branch, Tokens{1}), ErrorCode::kBadArgument);
  CHECK_ERROR(cache.commit(branch), ErrorCode::kBadArgument);
  CHECK_ERROR(cache.fork(branch, 1), ErrorCode::kBadArgument);
  CHECK_ERROR(cache.make_private(branch), ErrorCode::kBadArgument);
  for (const Tokens& path : {Tokens{1}, Tokens{0, 2}, Tokens{0, 3}, Tokens{-1}, Tokens{0, 1, 1}})
    CHECK_ERROR(cache.accept_draft(branch, path), ErrorCode::kBadArgument);
  CHECK_EQ(cache.num_fresh(branch), 3);
  cache.rollback(branch);

  cache.append(branch, Tokens{5});
  CHECK_ERROR(cache.append_draft(branch, Tokens{1}, Tokens{-1}), ErrorCode::kBadArgument);
  CHECK_ERROR(cache.accept_draft(branch, {}), ErrorCode::kBadArgument);
  cache.check_invariants();
}

}  // namespace deftree
