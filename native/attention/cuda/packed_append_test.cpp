// A plan that was appended to says what a plan made anew says: checked without a GPU.
#include "attention/cuda/packed_append.h"

#include <algorithm>
#include <random>
#include <vector>

#include "attention/cuda/packed_reads.h"
#include "cache/tree_cache.h"
#include "common/test.h"

namespace deftree::attention {
namespace {

constexpr AttentionShape kShape{8, 2, 64, 16};
constexpr int kNumBins = 32;
constexpr PlanDevice kDevice{.num_processors = 64, .min_chunk_len = 64, .max_group_rows = 64, .chunk_align = 4};

// Branches that decode, and the forest they are in.
struct Forest {
  explicit Forest(unsigned seed) : random(seed) {}

  int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }

  void grow(BranchId branch, int num_tokens) {
    std::vector<int32_t> tokens(num_tokens);
    for (int32_t& token : tokens) token = next_token++;
    cache.append(branch, tokens);
  }

  void plant(int num_branches) {
    const BranchId root = cache.create();
    grow(root, uniform(1, 300));
    cache.commit(root);
    branches.push_back(root);
    while (static_cast<int>(branches.size()) < num_branches) fork();
  }

  void fork() {
    const BranchId child = cache.fork(branches[uniform(0, static_cast<int>(branches.size()) - 1)], 1).front();
    grow(child, uniform(1, 60));
    cache.commit(child);
    branches.push_back(child);
  }

  // Each branch with one fresh token.
  StepSnapshot step() {
    std::vector<StepBranch> step;
    for (const BranchId branch : branches) {
      grow(branch, 1);
      step.push_back({branch, 1});
    }
    return cache.snapshot(step);
  }

  void commit() {
    for (const BranchId branch : branches) cache.commit(branch);
  }

  std::mt19937 random;
  TreeCache cache{{.num_pages = 4096, .page_size = 16}};
  std::vector<BranchId> branches;
  int32_t next_token = 0;
};

// Tiles that this step writes to wait for the kernel in front, all of them.
void check_fresh(const PackedPlan& packed, const std::vector<AppendedToken>& appended) {
  for (const PackedItem& item : packed.items) {
    for (int32_t t = item.tile_begin; t < item.tile_begin + item.num_tiles; ++t) {
      const KvTile& tile = at<KvTile>(packed, packed.header().tiles)[t];
      const bool writes = std::ranges::any_of(appended, [&](const AppendedToken& token) {
        const auto page = std::find(tile.page, tile.page + kTilePages, token.slot / kCudaPageSize);
        if (page == tile.page + kTilePages) return false;
        return (tile.valid >> ((page - tile.page) * kCudaPageSize + token.slot % kCudaPageSize) & 1) != 0;
      });
      CHECK_EQ((tile.flags & kTileFresh) != 0, writes);
    }
  }
}

void check_same_reads(const PackedPlan& appended, const PackedPlan& fresh) {
  for (int kv_head = 0; kv_head < kShape.num_kv_heads; ++kv_head) {
    CHECK(reads_of(appended, kv_head) == reads_of(fresh, kv_head));
  }
}

}  // namespace

TEST(packed_append_says_what_a_new_plan_says) {
  for (unsigned seed = 0; seed < 12; ++seed) {
    for (const Policy policy : all_policies()) {
      if (policy == Policy::kFlashDecoding) continue;  // plans as radix does
      Forest forest(seed);
      forest.plant(forest.uniform(1, 24));
      Plan plan, fresh_plan;
      PackedPlan packed, fresh;
      TreeSnapshot before;
      std::vector<AppendedToken> appended;
      int num_appended = 0, num_planned = 0;
      for (int step = 0; step < 60; ++step) {
        if (step % 25 == 24) forest.fork();
        const TreeSnapshot now = forest.step().tree;
        make_plan(now, policy, kShape, kDevice, fresh_plan);
        pack_plan(fresh_plan, kShape, kNumBins, fresh);
        std::optional<int64_t> more;
        const bool grown_only = step > 0 && find_appended_tokens(before, now, appended);
        if (step > 0) CHECK_EQ(grown_only, step % 25 != 24);
        if (grown_only) more = append_to_packed_plan(packed, appended);
        if (more) {
          ++num_appended;
          plan.counters.kv_tokens_read += *more;
          CHECK_EQ(appended.size(), forest.branches.size());
          check_same_reads(packed, fresh);
          check_fresh(packed, appended);
        } else {
          ++num_planned;
          make_plan(now, policy, kShape, kDevice, plan);
          pack_plan(plan, kShape, kNumBins, packed);
        }
        before = now;
        forest.commit();
      }
      // Medusa gives every query every token, and its tiles fill up at once; the others have room for a while.
      CHECK(num_appended > num_planned);
    }
  }
}

TEST(packed_append_counts_what_items_read) {
  Forest forest(3);
  forest.plant(9);
  Plan plan;
  PackedPlan packed;
  const TreeSnapshot before = forest.step().tree;
  make_plan(before, Policy::kRadix, kShape, kDevice, plan);
  pack_plan(plan, kShape, kNumBins, packed);
  forest.commit();
  const TreeSnapshot now = forest.step().tree;
  std::vector<AppendedToken> appended;
  REQUIRE(find_appended_tokens(before, now, appended));
  const std::optional<int64_t> more = append_to_packed_plan(packed, appended);
  REQUIRE(more.has_value());
  Plan fresh;
  make_plan(now, Policy::kRadix, kShape, kDevice, fresh);
  CHECK_EQ(plan.counters.kv_tokens_read + *more, fresh.counters.kv_tokens_read);
}

TEST(packed_append_gives_up_when_an_item_is_full) {
  Forest forest(5);
  forest.plant(2);
  Plan plan;
  PackedPlan packed;
  TreeSnapshot before = forest.step().tree;
  make_plan(before, Policy::kDeftFlatten, kShape, kDevice, plan);
  pack_plan(plan, kShape, kNumBins, packed);
  std::vector<AppendedToken> appended;
  for (int step = 0; step < 400; ++step) {
    forest.commit();
    const TreeSnapshot now = forest.step().tree;
    REQUIRE(find_appended_tokens(before, now, appended));
    if (!append_to_packed_plan(packed, appended)) return;
    before = now;
  }
  test::fail(__FILE__, __LINE__, "an item took hundreds of tokens that it has no room for");
}

}  // namespace deftree::attention
