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

TEST(tree_cache_refuses_bad_options) {
  CHECK_ERROR(TreeCache({.num_pages = 0, .page_size = 16}), ErrorCode::kBadArgument);
  CHECK_ERROR(TreeCache({.num_pages = 1, .page_size = 0}), ErrorCode::kBadArgument);
  CHECK_ERROR(TreeCache({.num_pages = 1, .page_size = 40000}), ErrorCode::kBadArgument);
  CHECK_ERROR(TreeCache({.num_pages = INT32_MAX, .page_size = 16}), ErrorCode::kBadArgument);
}

TEST(tree_cache_every_method_refuses_an_unknown_branch) {
  TreeCache cache({.num_pages = 4});
  const BranchId gone = cache.create();
  cache.prune(gone, false);
  for (const BranchId id : {gone, -1, 12345}) {
    CHECK_ERROR(cache.fork(id, 1), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.attach_prefix(id, {}, 1), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.append(id, Tokens{}), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.append_draft(id, {}, {}), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.commit(id), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.accept_draft(id, {}), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.rollback(id), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.truncate(id, 0), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.prune(id, true), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.make_private(id), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.length(id), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.num_fresh(id), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.tokens(id), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.token_at(id, 0), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.pages_wanted(id, 1), ErrorCode::kBadArgument);
    CHECK_ERROR(cache.private_pages(id), ErrorCode::kBadArgument);
    const StepBranch step = {id, 0};
    CHECK_ERROR(cache.snapshot({&step, 1}), ErrorCode::kBadArgument);
  }
  CHECK_EQ(cache.stats().num_branches, 0);
}

TEST(tree_cache_a_new_branch_is_empty) {
  TreeCache cache({.num_pages = 4});
  const BranchId branch = cache.create();
  CHECK_EQ(cache.length(branch), 0);
  CHECK(cache.tokens(branch).empty());
  CHECK_EQ(cache.stats().num_free_pages, 4);
  CHECK_ERROR(cache.token_at(branch, 0), ErrorCode::kBadArgument);
}

TEST(tree_cache_append_fills_pages_in_place) {
  TreeCache cache({.num_pages = 4, .page_size = 4});
  const BranchId branch = cache.create();
  CHECK_EQ(cache.pages_wanted(branch, 0), 0);
  CHECK_EQ(cache.pages_wanted(branch, 5), 2);
  cache.append(branch, range(0, 3));
  CHECK_EQ(cache.num_fresh(branch), 3);
  CHECK_EQ(cache.pages_wanted(branch, 1), 0);
  CHECK_EQ(cache.pages_wanted(branch, 2), 1);
  cache.append(branch, range(3, 2));
  CHECK_EQ(pages_in_use(cache), 2);
  cache.commit(branch);
  cache.check_invariants();
  CHECK_EQ(cache.num_fresh(branch), 0);
  grow(cache, branch, range(5, 3));
  CHECK_EQ(pages_in_use(cache), 2);
  CHECK_EQ(cache.stats().num_nodes, 1);
  CHECK(cache.tokens(branch) == range(0, 8));
  CHECK_EQ(cache.token_at(branch, 6), 6);
  CHECK_ERROR(cache.token_at(branch, 8), ErrorCode::kBadArgument);
  CHECK_ERROR(cache.token_at(branch, -1), ErrorCode::kBadArgument);
}

TEST(tree_cache_rollback_gives_the_slots_back) {
  TreeCache cache({.num_pages = 3, .page_size = 4});
  const BranchId branch = grown(cache, range(0, 3));
  cache.append(branch, range(3, 6));
  CHECK_EQ(pages_in_use(cache), 3);
  cache.rollback(branch);
  cache.check_invariants();
  CHECK_EQ(pages_in_use(cache), 1);
  CHECK_EQ(cache.pages_wanted(branch, 1), 0);
  CHECK(cache.tokens(branch) == range(0, 3));
}

TEST(tree_cache_fork_shares_every_page) {
  TreeCache cache({.num_pages = 40, .page_size = 4});
  const BranchId trunk = grown(cache, range(0, 10));
  const std::vector<BranchId> forks = cache.fork(trunk, 20);
  CHECK_EQ(forks.size(), size_t{20});
  CHECK_EQ(pages_in_use(cache), 3);
  CHECK_EQ(cache.stats().num_nodes, 1);
  CHECK_EQ(cache.private_pages(trunk), 0);

  // The first writer takes the rest of the shared page, each other a page of its own; nobody sees another's tokens.
  for (size_t i = 0; i < forks.size(); ++i) grow(cache, forks[i], {100 + static_cast<int32_t>(i)});
  CHECK_EQ(pages_in_use(cache), 3 + 19);
  CHECK_EQ(cache.stats().num_tokens, int64_t{30});
  CHECK_EQ(cache.private_pages(forks[0]), 0);
  CHECK_EQ(cache.private_pages(forks[1]), 1);
  for (size_t i = 0; i < forks.size(); ++i) {
    Tokens expected = range(0, 10);
    expected.push_back(100 + static_cast<int32_t>(i));
    CHECK(cache.tokens(forks[i]) == expected);
  }
  grow(cache, trunk, {7});
  CHECK_EQ(cache.length(trunk), 11);

  CHECK(cache.fork(trunk, 0).empty());
  CHECK_ERROR(cache.fork(trunk, -1), ErrorCode::kBadArgument);
  cache.append(trunk, Tokens{8});
  CHECK_ERROR(cache.fork(trunk, 1), ErrorCode::kBadArgument);
}

TEST(tree_cache_prune_frees_pages_at_once_and_joins_what_is_left) {
  TreeCache cache({.num_pages = 10, .page_size = 4});
  const BranchId trunk = grown(cache, range(0, 4));
  const std::vector<BranchId> forks = cache.fork(trunk, 2);
  grow(cache, forks[0], range(10, 5));
  grow(cache, forks[1], range(20, 5));
  cache.prune(trunk, false);
  cache.check_invariants();
  CHECK_EQ(cache.stats().num_nodes, 3);
  CHECK_EQ(pages_in_use(cache), 5);
  CHECK_EQ(cache.private_pages(forks[1]), 2);
  cache.prune(forks[1], false);
  cache.check_invariants();
  CHECK_EQ(pages_in_use(cache), 3);
  CHECK_EQ(cache.stats().num_nodes, 1);
  CHECK_EQ(cache.private_pages(forks[0]), 3);
  CHECK_EQ(cache.length(forks[0]), 9);
}

TEST(tree_cache_nodes_do_not_grow_with_the_depth_of_a_search) {
  TreeCache cache({.num_pages = 200, .page_size = 4});
  BranchId best = grown(cache, range(0, 6));
  for (int level = 0; level < 30; ++level) {
    const std::vector<BranchId> thoughts = cache.fork(best, 5);
    for (const BranchId thought : thoughts) grow(cache, thought, {level, thought, 1});
    cache.prune(best, false);
    best = thoughts[level % 5];
    for (const BranchId thought : thoughts)
      if (thought != best) cache.prune(thought, false);
    cache.check_invariants();
    CHECK_EQ(cache.stats().num_nodes, 1);
  }
  CHECK_EQ(cache.length(best), 6 + 30 * 3);
}

TEST(tree_cache_pruned_tokens_stay_attachable_when_kept) {
  TreeCache cache({.num_pages = 10, .page_size = 4});
  const BranchId first = grown(cache, range(0, 9));
  cache.append(first, Tokens{9});
  cache.prune(first, true);
  cache.check_invariants();
  CHECK_EQ(cache.stats().num_cached_pages, 3);
  CHECK_EQ(cache.stats().num_tokens, int64_t{9});  // the fresh token had no KV and is gone

  const BranchId second = cache.create();
  CHECK_EQ(cache.attach_prefix(second, range(0, 20), INT32_MAX), 9);
  cache.check_invariants();
  CHECK_EQ(cache.stats().num_cached_pages, 0);
  CHECK(cache.tokens(second) == range(0, 9));
  CHECK_EQ(cache.pages_wanted(second, 3), 0);  // and it goes on where they end
}

TEST(tree_cache_attach_splits_where_the_match_ends) {
  TreeCache cache({.num_pages = 10, .page_size = 4});
  const BranchId first = grown(cache, range(0, 10));
  const BranchId second = cache.create();
  CHECK_EQ(cache.attach_prefix(second, Tokens{0, 1, 2, 3, 4, 5, 77}, INT32_MAX), 6);
  cache.check_invariants();
  CHECK_EQ(cache.stats().num_nodes, 2);
  CHECK_EQ(cache.pages_wanted(second, 1), 1);  // the rest of its page belongs to the first branch
  grow(cache, second, {77});
  CHECK(cache.tokens(first) == range(0, 10));
  CHECK_EQ(cache.token_at(second, 6), 77);

  const BranchId third = cache.create();
  CHECK_EQ(cache.attach_prefix(third, range(0, 10), 3), 3);
  CHECK_EQ(cache.attach_prefix(third, range(3, 7), INT32_MAX), 7);  // on from the middle of a path
  cache.check_invariants();
  CHECK(cache.tokens(third) == range(0, 10));
  CHECK_EQ(cache.attach_prefix(third, Tokens{1}, INT32_MAX), 0);

  const BranchId fourth = cache.create();
  CHECK_EQ(cache.attach_prefix(fourth, Tokens{5, 6}, INT32_MAX), 0);
  CHECK_EQ(cache.attach_prefix(fourth, {}, INT32_MAX), 0);
  CHECK_EQ(cache.attach_prefix(fourth, range(0, 3), 0), 0);
  CHECK_ERROR(cache.attach_prefix(fourth, range(0, 3), -1), ErrorCode::kBadArgument);
  cache.append(fourth, Tokens{0});
  CHECK_ERROR(cache.attach_prefix(fourth, range(1, 3), 3), ErrorCode::kBadArgument);
}

TEST(tree_cache_attach_sees_committed_tokens_only) {
  TreeCache cache({.num_pages = 10, .page_size = 4});
  const BranchId first = grown(cache, range(0, 5));
  cache.append(first, range(5, 3));
  const BranchId second = cache.create();
  CHECK_EQ(cache.attach_prefix(second, range(0, 8), INT32_MAX), 5);
  cache.commit(first);
  cache.check_invariants();
  CHECK_EQ(cache.attach_prefix(second, range(5, 3), INT32_MAX), 3);
  CHECK(cache.tokens(second) == range(0, 8));
}

TEST(tree_cache_attach_takes_the_longest_of_equal_beginnings) {
  TreeCache cache({.num_pages = 20, .page_size = 4});
  const BranchId trunk = grown(cache, range(0, 4));
  const std::vector<BranchId> forks = cache.fork(trunk, 3);
  grow(cache, forks[0], {50, 51, 9});
  grow(cache, forks[1], {50, 51, 52, 53});
  grow(cache, forks[2], {50, 8});
  grow(cache, cache.fork(forks[1], 1)[0], {54, 55});
  const BranchId late = cache.create();
  CHECK_EQ(cache.attach_prefix(late, Tokens{0, 1, 2, 3, 50, 51, 52, 53, 54, 55, 56}, INT32_MAX), 10);
  cache.check_invariants();
}

TEST(tree_cache_truncate) {
  TreeCache cache({.num_pages = 10, .page_size = 4});
  const BranchId branch = grown(cache, range(0, 10));
  cache.append(branch, range(10, 4));
  cache.truncate(branch, 12);  // among the fresh tokens
  CHECK_EQ(cache.num_fresh(branch), 2);
  CHECK(cache.tokens(branch) == range(0, 12));
  cache.truncate(branch, 6);  // among the committed ones: the rest stays as cache
  cache.check_invariants();
  CHECK(cache.tokens(branch) == range(0, 6));
  CHECK_EQ(cache.num_fresh(branch), 0);
  CHECK_EQ(cache.stats().num_cached_pages, 1);
  CHECK_EQ(cache.attach_prefix(branch, range(6, 4), INT32_MAX), 4);
  cache.check_invariants();
  CHECK_EQ(cache.stats().num_nodes, 1);

  CHECK_ERROR(cache.truncate(branch, 11), ErrorCode::kBadArgument);
  CHECK_ERROR(cache.truncate(branch, -1), ErrorCode::kBadArgument);
  cache.truncate(branch, 10);
  CHECK_EQ(cache.length(branch), 10);
  cache.truncate(branch, 0);
  cache.check_invariants();
  CHECK_EQ(cache.length(branch), 0);
  cache.append_draft(branch, Tokens{1, 2}, Tokens{-1, 0});
  CHECK_ERROR(cache.truncate(branch, 1), ErrorCode::kBadArgument);
}

TEST(tree_cache_evicts_the_least_recently_used_first_and_from_the_end) {
  TreeCache cache({.num_pages = 10, .page_size = 4});
  const BranchId old_one = grown(cache, range(0, 12));
  const BranchId new_one = grown(cache, range(100, 8));
  const BranchId live = grown(cache, range(200, 4));
  cache.prune(old_one, true);
  cache.prune(new_one, true);
  CHECK_EQ(cache.stats().num_cached_pages, 5);
  CHECK_EQ(cache.evict(1), 1);
  cache.check_invariants();

  const BranchId again = cache.create();
  CHECK_EQ(cache.attach_prefix(again, range(0, 12), INT32_MAX), 8);  // its beginning is still there
  cache.prune(again, true);                                          // and now it is the more recent one
  CHECK_EQ(cache.evict(2), 2);
  cache.check_invariants();
  const BranchId probe = cache.create();
  CHECK_EQ(cache.attach_prefix(probe, range(100, 8), INT32_MAX), 0);
  CHECK_EQ(cache.attach_prefix(probe, range(0, 12), INT32_MAX), 8);

  CHECK_EQ(cache.evict(100), 0);  // what a branch reads stays
  CHECK_EQ(cache.length(live), 4);
  CHECK_EQ(cache.evict(0), 0);
  CHECK_ERROR(cache.evict(-1), ErrorCode::kBadArgument);
}

TEST(tree_cache_append_evicts_before_it_gives_up) {
  TreeCache cache({.num_pages = 4, .page_size = 4});
  const BranchId cached = grown(cache, range(0, 8));
  cache.prune(cached, true);
  const BranchId branch = grown(cache, range(100, 8));
  CHECK_EQ(cache.stats().num_free_pages, 0);
  grow(cache, branch, range(108, 5));
  CHECK_EQ(cache.stats().num_cached_pages, 0);

  try {
    cache.append(branch, range(0, 9));
    CHECK(false);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kKvFull);
    const ErrorFigures expected = {{"wanted_pages", 2}, {"free_pages", 0}, {"num_pages", 4}, {"page_size", 4}};
    CHECK(error.figures() == expected);
    CHECK(std::string(error.what()).find("kvTokens") != std::string::npos);
  }
  CHECK_EQ(cache.length(branch), 13);
  CHECK_EQ(cache.num_fresh(branch), 0);
  cache.check_invariants();
}

TEST(tree_cache_a_full_cache_evicts_nothing_in_vain) {
  TreeCache cache({.num_pages = 4, .page_size = 4});
  cache.prune(grown(cache, range(0, 8)), true);
  const BranchId branch = grown(cache, range(100, 8));
  CHECK_ERROR(cache.append(branch, range(0, 9)), ErrorCode::kKvFull);
  CHECK_ERROR(cache.append_draft(branch, range(0, 9), Tokens(9, -1)), ErrorCode::kKvFull);
  CHECK_EQ(cache.stats().num_cached_pages, 2);
}

TEST(tree_cache_append_reclaims_the_cached_rest_of_its_own_page) {
  TreeCache cache({.num_pages = 1, .page_size = 16});
  const BranchId branch = grown(cache, range(0, 10));
  cache.truncate(branch, 5);
  grow(cache, branch, range(50, 11));
  CHECK_EQ(cache.length(branch), 16);

  // Not so when another branch's fresh tokens stand there.
  cache.truncate(branch, 5);
  cache.evict(1);
  const BranchId other = cache.fork(branch, 1)[0];
  cache.append(other, Tokens{1});
  CHECK_ERROR(cache.append(branch, Tokens{2}), ErrorCode::kKvFull);
  cache.check_invariants();
}

TEST(tree_cache_make_private_copies_the_whole_path_once) {
  TreeCache cache({.num_pages = 10, .page_size = 4});
  test::ShadowKv kv(40);
  const BranchId trunk = cache.create();
  cache.append(trunk, range(0, 6));
  const StepBranch prefill = {trunk, 6};
  kv.write(cache.snapshot({&prefill, 1}));
  cache.commit(trunk);
  const BranchId fork = cache.fork(trunk, 1)[0];
  cache.append(fork, Tokens{6});
  CHECK_ERROR(cache.make_private(fork), ErrorCode::kBadArgument);
  const StepBranch decode = {fork, 1};
  kv.write(cache.snapshot({&decode, 1}));
  cache.commit(fork);

  const std::vector<SlotCopy> copies = cache.make_private(fork);
  cache.check_invariants();
  kv.copy(copies);
  int32_t copied = 0;
  for (const SlotCopy& copy : copies) copied += copy.len;
  CHECK_EQ(copied, 7);
  CHECK_EQ(cache.private_pages(fork), 2);
  CHECK_EQ(cache.private_pages(trunk), 2);
  const StepBranch tip = {fork, 0};
  std::vector<test::Key> keys;
  for (const int32_t slot : test::visible_slots(cache.snapshot({&tip, 1}).tree, 0)) keys.push_back(kv[slot]);
  CHECK(keys == test::keys_of(range(0, 7)));

  CHECK(cache.make_private(fork).empty());
  CHECK(cache.make_private(cache.create()).empty());
  CHECK_EQ(cache.tokens(fork).size(), size_t{7});
}

TEST(tree_cache_branch_ids_are_not_used_twice) {
  TreeCache cache({.num_pages = 1});
  const BranchId first = cache.create();
  cache.prune(first, false);
  CHECK(cache.create() != first);
}

}  // namespace deftree
