// Random operations against a model in which every branch is a plain list of tokens.

#include <map>
#include <random>

#include "cache/tree_cache.h"
#include "cache/tree_cache_test_util.h"
#include "common/error.h"
#include "common/test.h"

namespace deftree {
namespace {

using test::Key;
using test::keys_of;

struct ModelBranch {
  std::vector<int32_t> committed, fresh, draft_parents;
};

class RandomForest {
 public:
  RandomForest(uint32_t seed, const TreeCacheOptions& options)
      : random_(seed), options_(options), cache_(options), kv_(options.num_pages * options.page_size) {}

  void run(int num_operations) {
    for (int i = 0; i < num_operations && test::failures() == 0; ++i) {
      one_operation();
      cache_.check_invariants();
      compare_lengths();
      if (i % 8 == 0) check_step(some_branches());
    }
    for (const auto& [id, branch] : std::map(model_)) compare_tokens(id);
    while (!model_.empty()) prune(any(), below(2) == 0);
    cache_.check_invariants();
    CHECK_EQ(cache_.stats().num_free_pages + cache_.stats().num_cached_pages, options_.num_pages);
    cache_.evict(options_.num_pages);
    cache_.check_invariants();
    CHECK_EQ(cache_.stats().num_free_pages, options_.num_pages);
    CHECK_EQ(cache_.stats().num_nodes, 0);
    CHECK_EQ(cache_.stats().num_tokens, 0);
  }

  // How often the rare things happened; a run in which one never did has tested too little.
  struct Counts {
    int full = 0, accepted = 0, matched = 0, copies = 0;
  };
  const Counts& counts() const { return counts_; }

 private:
  int below(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }

  // Few different tokens, so that branches meet again.
  std::vector<int32_t> some_tokens(int max_len) {
    std::vector<int32_t> tokens(1 + below(max_len));
    for (int32_t& token : tokens) token = below(3) == 0 ? 1 : 0;
    return tokens;
  }

  BranchId any() { return std::next(model_.begin(), below(static_cast<int>(model_.size())))->first; }

  void one_operation() {
    if (model_.empty() || below(25) == 0) {
      const BranchId id = cache_.create();
      CHECK(model_.emplace(id, ModelBranch{}).second);
      return;
    }
    const BranchId id = any();
    ModelBranch& branch = model_[id];
    const int what = below(100);
    if (!branch.fresh.empty()) {
      settle_or_grow(id, branch, what);
    } else if (what < 12) {
      attach(id, branch);
    } else if (what < 45) {
      append(id, branch, some_tokens(below(4) == 0 ? 30 : 2));
    } else if (what < 60) {
      append_draft(id, branch);
    } else if (what < 72) {
      const int n = model_.size() > 30 ? 0 : below(4);
      for (const BranchId fork : cache_.fork(id, n)) CHECK(model_.emplace(fork, branch).second);
    } else if (what < 80) {
      truncate(id, branch);
    } else if (what < 92) {
      prune(id, below(2) == 0);
    } else if (what < 95) {
      const int free_before = cache_.stats().num_free_pages;
      const int wanted = below(5);
      const int expected = std::min(wanted, cache_.stats().num_cached_pages);
      const int freed = cache_.evict(wanted);
      CHECK(freed >= expected);
      CHECK_EQ(cache_.stats().num_free_pages, free_before + freed);
    } else {
      make_private(id, branch);
    }
  }

  void settle_or_grow(BranchId id, ModelBranch& branch, int what) {
    if (what < 20) {
      cache_.rollback(id);
      branch.fresh.clear();
      branch.draft_parents.clear();
    } else if (what < 28) {
      prune(id, below(2) == 0);
    } else if (!branch.draft_parents.empty()) {
      if (what < 45)
        check_step({{id, cache_.num_fresh(id)}});
      else
        accept(id, branch);
    } else if (what < 40) {
      append(id, branch, some_tokens(6));
    } else if (what < 50) {
      truncate(id, branch);
    } else {
      check_step({{id, cache_.num_fresh(id)}});
      cache_.commit(id);
      branch.committed.insert(branch.committed.end(), branch.fresh.begin(), branch.fresh.end());
      branch.fresh.clear();
      compare_tokens(id);
    }
  }

  void attach(BranchId id, ModelBranch& branch) {
    std::vector<int32_t> tokens = some_tokens(20);
    if (below(2) == 0) {
      const ModelBranch& other = model_[any()];
      if (other.committed.size() > branch.committed.size())
        tokens.insert(tokens.begin(), other.committed.begin() + branch.committed.size(), other.committed.end());
    }
    const int32_t max_len = below(2) == 0 ? below(8) : INT32_MAX;
    const int32_t len = cache_.attach_prefix(id, tokens, max_len);
    CHECK(len <= max_len && len <= static_cast<int32_t>(tokens.size()));
    if (branch.committed.empty()) {
      for (const auto& [other_id, other] : model_) {
        const size_t common =
            std::mismatch(tokens.begin(), tokens.end(), other.committed.begin(), other.committed.end()).first -
            tokens.begin();
        CHECK(len >= std::min(max_len, static_cast<int32_t>(common)));
      }
    }
    branch.committed.insert(branch.committed.end(), tokens.begin(), tokens.begin() + len);
    counts_.matched += len;
    compare_tokens(id);
  }

  // Whether the cache had room; when it had none, nothing may have changed and the figures must be right.
  template <class Append>
  bool with_room(BranchId id, int num_tokens, Append append) {
    const CacheStats before = cache_.stats();
    const int32_t wanted = cache_.pages_wanted(id, num_tokens);
    try {
      append();
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kKvFull);
      CHECK_EQ(error.figures()[0].first, std::string("wanted_pages"));
      CHECK_EQ(error.figures()[0].second, wanted);
      CHECK_EQ(error.figures()[1].first, std::string("free_pages"));
      CHECK_EQ(error.figures()[1].second, before.num_free_pages + before.num_cached_pages);
      CHECK(error.figures()[0].second > error.figures()[1].second);
      CHECK_EQ(cache_.stats().num_tokens, before.num_tokens);
      CHECK_EQ(cache_.stats().num_free_pages, before.num_free_pages);
      ++counts_.full;
      prune(any(), false);
      return false;
    }
    if (wanted <= before.num_free_pages) CHECK_EQ(cache_.stats().num_free_pages, before.num_free_pages - wanted);
    return true;
  }

  void append(BranchId id, ModelBranch& branch, const std::vector<int32_t>& tokens) {
    const bool done = with_room(id, static_cast<int>(tokens.size()), [&] { cache_.append(id, tokens); });
    if (done) branch.fresh.insert(branch.fresh.end(), tokens.begin(), tokens.end());
  }

  void append_draft(BranchId id, ModelBranch& branch) {
    const std::vector<int32_t> tokens = some_tokens(12);
    std::vector<int32_t> parents;
    for (int j = 0; j < static_cast<int>(tokens.size()); ++j) parents.push_back(below(j + 1) - 1);
    const bool done = with_room(id, static_cast<int>(tokens.size()), [&] { cache_.append_draft(id, tokens, parents); });
    if (!done) return;
    branch.fresh = tokens;
    branch.draft_parents = parents;
  }

  void accept(BranchId id, ModelBranch& branch) {
    check_step({{id, cache_.num_fresh(id)}});
    std::vector<int32_t> path;
    for (int32_t j = 0, tip = -1; j < static_cast<int32_t>(branch.fresh.size()); ++j) {
      if (branch.draft_parents[j] != tip || below(3) == 0) continue;
      path.push_back(tip = j);
    }
    std::vector<SlotCopy> copies;
    below(2) == 0 ? cache_.accept_draft(id, path) : cache_.accept_draft(id, path, copies);
    kv_.copy(copies);
    for (const int32_t j : path) branch.committed.push_back(branch.fresh[j]);
    branch.fresh.clear();
    branch.draft_parents.clear();
    counts_.accepted += static_cast<int>(path.size());
    compare_tokens(id);
  }

  void truncate(BranchId id, ModelBranch& branch) {
    const int32_t len = below(cache_.length(id) + 1);
    cache_.truncate(id, len);
    const size_t committed = std::min<size_t>(len, branch.committed.size());
    branch.fresh.resize(len - committed);
    branch.committed.resize(committed);
    compare_tokens(id);
  }

  void prune(BranchId id, bool keep_cached) {
    const int32_t free_before = cache_.stats().num_free_pages;
    const int32_t own = cache_.private_pages(id);
    cache_.prune(id, keep_cached);
    model_.erase(id);
    if (!keep_cached) CHECK_EQ(cache_.stats().num_free_pages, free_before + own);
    CHECK_ERROR(cache_.length(id), ErrorCode::kBadArgument);
  }

  void make_private(BranchId id, ModelBranch& branch) {
    std::vector<SlotCopy> copies;
    try {
      copies = cache_.make_private(id);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kKvFull);
      ++counts_.full;
      return;
    }
    counts_.copies += static_cast<int>(copies.size());
    kv_.copy(copies);
    CHECK(cache_.make_private(id).empty());
    CHECK_EQ(cache_.private_pages(id) > 0, !branch.committed.empty());
    compare_tokens(id);
  }

  std::vector<StepBranch> some_branches() {
    std::vector<StepBranch> steps;
    for (const auto& [id, branch] : model_)
      if (cache_.length(id) > 0 && below(3) > 0) steps.push_back({id, cache_.num_fresh(id)});
    std::shuffle(steps.begin(), steps.end(), random_);
    return steps;
  }

  void compare_lengths() {
    CHECK_EQ(cache_.stats().num_branches, static_cast<int32_t>(model_.size()));
    for (const auto& [id, branch] : model_) {
      CHECK_EQ(cache_.length(id), static_cast<int32_t>(branch.committed.size() + branch.fresh.size()));
      CHECK_EQ(cache_.num_fresh(id), static_cast<int32_t>(branch.fresh.size()));
    }
  }

  void compare_tokens(BranchId id) {
    const ModelBranch& branch = model_[id];
    std::vector<int32_t> expected = branch.committed;
    if (branch.draft_parents.empty()) expected.insert(expected.end(), branch.fresh.begin(), branch.fresh.end());
    CHECK(cache_.tokens(id) == expected);
    for (int i = 0; i < static_cast<int>(expected.size()); i += 1 + below(5))
      CHECK_EQ(cache_.token_at(id, i), expected[i]);
    if (branch.fresh.empty() && !branch.committed.empty()) check_step({{id, 0}});
  }

  // Runs a step: every query must see exactly the KV of the tokens before it and of itself, in order.
  void check_step(const std::vector<StepBranch>& steps) {
    cache_.snapshot(steps, step_);
    check_snapshot(step_.tree);
    test::check_minimal(step_.tree);
    kv_.write(step_);
    REQUIRE(step_.first_query.size() == steps.size());
    std::vector<int> claimed(step_.queries.size(), 0);
    for (size_t s = 0; s < steps.size(); ++s) {
      const ModelBranch& branch = model_[steps[s].branch];
      for (int j = 0; j < std::max(1, steps[s].num_fresh); ++j) {
        const int row = step_.first_query[s] + j;
        REQUIRE(row >= 0 && row < static_cast<int>(step_.queries.size()));
        ++claimed[row];
        std::vector<int32_t> path = branch.committed;
        if (branch.draft_parents.empty()) {
          if (steps[s].num_fresh > 0) path.insert(path.end(), branch.fresh.begin(), branch.fresh.begin() + j + 1);
        } else {
          const size_t trunk = path.size();
          for (int t = j; t >= 0; t = branch.draft_parents[t]) path.insert(path.begin() + trunk, branch.fresh[t]);
        }
        const SnapshotQuery& query = step_.queries[row];
        CHECK_EQ(query.position, static_cast<int32_t>(path.size()) - 1);
        CHECK_EQ(query.token, path.back());
        CHECK_EQ(query.slot < 0, steps[s].num_fresh == 0);
        const std::vector<int32_t> slots = test::visible_slots(step_.tree, row);
        std::vector<Key> seen;
        for (const int32_t slot : slots) seen.push_back(kv_[slot]);
        CHECK(seen == keys_of(path));
        CHECK_EQ(std::set(slots.begin(), slots.end()).size(), slots.size());
      }
      if (steps[s].num_fresh > 0) CHECK_EQ(step_.queries[step_.first_query[s]].step_branch, static_cast<int32_t>(s));
    }
    for (size_t row = 0; row < claimed.size(); ++row) {
      CHECK(claimed[row] > 0);
      if (step_.queries[row].slot >= 0) CHECK_EQ(claimed[row], 1);
    }
  }

  std::mt19937 random_;
  TreeCacheOptions options_;
  TreeCache cache_;
  test::ShadowKv kv_;
  std::map<BranchId, ModelBranch> model_;
  StepSnapshot step_;
  Counts counts_;
};

void run_seeds(const TreeCacheOptions& options, int num_operations) {
  RandomForest::Counts total;
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    RandomForest forest(seed, options);
    forest.run(num_operations);
    if (test::failures() > 0) std::printf("    seed %u, page_size %d\n", seed, options.page_size);
    const RandomForest::Counts& counts = forest.counts();
    total.full += counts.full;
    total.accepted += counts.accepted;
    total.matched += counts.matched;
    total.copies += counts.copies;
  }
  CHECK(total.full > 0 && total.accepted > 0 && total.matched > 0 && total.copies > 0);
}

}  // namespace

TEST(tree_cache_random_operations_scarce_pages) { run_seeds({.num_pages = 40, .page_size = 4}, 1200); }
TEST(tree_cache_random_operations_usual_pages) { run_seeds({.num_pages = 24, .page_size = 16}, 1200); }
TEST(tree_cache_random_operations_one_slot_pages) { run_seeds({.num_pages = 150, .page_size = 1}, 600); }
TEST(tree_cache_random_operations_wide_pages) { run_seeds({.num_pages = 12, .page_size = 100}, 600); }

}  // namespace deftree
