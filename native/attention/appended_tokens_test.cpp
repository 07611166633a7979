#include "attention/appended_tokens.h"

#include <vector>

#include "cache/tree_cache.h"
#include "common/test.h"

namespace deftree::attention {
namespace {

TreeSnapshot step(TreeCache& cache, const std::vector<BranchId>& branches, int num_tokens = 1) {
  std::vector<StepBranch> step;
  for (const BranchId branch : branches) {
    cache.append(branch, std::vector<int32_t>(num_tokens, 7 + branch));
    step.push_back({branch, num_tokens});
  }
  TreeSnapshot tree = cache.snapshot(step).tree;
  for (const BranchId branch : branches) cache.commit(branch);
  return tree;
}

struct Setup {
  TreeCache cache{{.num_pages = 64, .page_size = 4}};
  std::vector<BranchId> branches;

  Setup() {
    const BranchId root = cache.create();
    cache.append(root, std::vector<int32_t>(10, 1));
    cache.commit(root);
    branches = cache.fork(root, 3);
    cache.prune(root, false);
    step(cache, branches);
  }
};

}  // namespace

TEST(appended_tokens_follow_each_other_across_pages) {
  Setup s;
  TreeSnapshot before = step(s.cache, s.branches);
  std::vector<int32_t> last_slot(3, -1);
  for (int i = 0; i < 20; ++i) {
    const TreeSnapshot now = step(s.cache, s.branches);
    std::vector<AppendedToken> appended;
    REQUIRE(find_appended_tokens(before, now, appended));
    REQUIRE(appended.size() == 3);
    for (int32_t q = 0; q < 3; ++q) {
      CHECK_EQ(appended[q].query, q);
      if (i > 0) CHECK_EQ(appended[q].previous_slot, last_slot[q]);
      last_slot[q] = appended[q].slot;
    }
    before = now;
  }
}

TEST(appended_tokens_are_none_when_the_shape_changes) {
  std::vector<AppendedToken> appended;
  {
    Setup s;
    const TreeSnapshot before = step(s.cache, s.branches);
    CHECK(!find_appended_tokens(before, before, appended));  // nothing was appended
    CHECK(!find_appended_tokens(before, step(s.cache, {s.branches[0], s.branches[1]}), appended));
  }
  {
    Setup s;
    const TreeSnapshot before = step(s.cache, s.branches);
    s.branches.push_back(s.cache.fork(s.branches[0], 1).front());
    CHECK(!find_appended_tokens(before, step(s.cache, s.branches), appended));
  }
  {
    Setup s;
    const TreeSnapshot before = step(s.cache, s.branches);
    CHECK(!find_appended_tokens(before, step(s.cache, s.branches, 2), appended));  // a chunk of two, with a mask
  }
  {
    Setup s;
    const TreeSnapshot before = step(s.cache, s.branches);
    step(s.cache, s.branches);
    CHECK(!find_appended_tokens(before, step(s.cache, s.branches), appended));  // a step was missed
  }
}

}  // namespace deftree::attention
