#include "engine/draft_tree.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "common/error.h"
#include "common/test.h"
#include "engine/draft_gain.h"

namespace deftree {
namespace {

using Tokens = std::vector<int32_t>;

// ---- StepCost

TEST(step_cost_interpolates_and_goes_on_beyond_its_points) {
  const StepCost cost({{1, 100}, {2, 110}, {4, 150}, {8, 250}});
  CHECK_EQ(cost.ns(1), 100.0);
  CHECK_EQ(cost.ns(3), 130.0);
  CHECK_EQ(cost.ns(8), 250.0);
  CHECK_EQ(cost.ns(16), 450.0);
  CHECK_NEAR(cost.least_row_share(1), 0.1, 1e-12);
  CHECK_NEAR(cost.least_row_share(2), 20 / 110.0, 1e-12);
  CHECK_NEAR(cost.least_row_share(16), 25 / 450.0, 1e-12);
  const StepCost one({{1, 100}});
  CHECK_EQ(one.ns(3), 300.0);  // nothing known of rows: no gain from them
  CHECK(!StepCost().known());
  const StepCost noisy({{1, 100}, {2, 90}, {4, 120}});
  CHECK_EQ(noisy.ns(2), 100.0);
}

TEST(step_cost_refuses_what_is_no_curve) {
  for (const std::vector<StepCostPoint>& points : std::vector<std::vector<StepCostPoint>>{
           {{2, 100}}, {{1, 100}, {1, 110}}, {{1, 0}}, {{1, 100}, {2, NAN}}, {{1, 100}, {2, INFINITY}}}) {
    CHECK_ERROR(StepCost{points}, ErrorCode::kBadArgument);
  }
}

TEST(step_cost_follows_the_steps) {
  StepCost cost({{1, 100}, {2, 110}, {4, 150}, {8, 250}});
  for (int i = 0; i < 200; ++i) cost.observe(1, 50), cost.observe(4, 60);
  CHECK_NEAR(cost.ns(1), 50, 2);
  CHECK_NEAR(cost.ns(4), 60, 3);
  CHECK(cost.ns(2) >= cost.ns(1) && cost.ns(2) <= cost.ns(4));
  CHECK(cost.ns(8) < 125);  // never seen, but the clock is faster

  const double before = cost.ns(1);
  cost.observe(1, 1e9);  // a lost time slice
  CHECK(cost.ns(1) < 1.08 * before);
  cost.observe(1, 0);
  cost.observe(1, NAN);
  for (int rows = 1; rows < 20; ++rows) CHECK(std::isfinite(cost.ns(rows)) && cost.ns(rows + 1) >= cost.ns(rows));
}

TEST(step_cost_of_points_that_are_not_seen_goes_back_to_what_was_measured) {
  StepCost cost({{1, 100}, {8, 120}});
  for (int i = 0; i < 50; ++i) cost.observe(1, 200), cost.observe(8, 240);
  // The machine is quiet again, but only for steps without drafts, which are seen first.
  for (int i = 0; i < 60; ++i) cost.observe(1, 100);
  CHECK(cost.ns(8) > 2 * cost.ns(1));
  for (int i = 0; i < 300; ++i) cost.observe(1, 100);
  CHECK_NEAR(cost.ns(8) / cost.ns(1), 1.2, 0.02);
}

// ---- What pays

TEST(gain_bias_is_realised_over_predicted_gain) {
  GainBias bias;
  CHECK_EQ(bias.value(), 1.0);
  for (int i = 0; i < 100; ++i) bias.observe({3, 3, 100, 100});
  CHECK_NEAR(bias.value(), 1, 1e-9);
  // Tokens come as promised but a step takes a quarter longer; then they come in bursts, half as many on average.
  for (int i = 0; i < 100; ++i) bias.observe({3, 3, 100, 125});
  CHECK_NEAR(bias.value(), 0.8, 0.01);
  for (int i = 0; i < 200; ++i) bias.observe({4, i % 2 == 0 ? 1.0 : 3.0, 100, 100});
  CHECK_NEAR(bias.value(), 0.5, 0.02);
  for (int i = 0; i < 200; ++i) bias.observe({4, 0, 100, 1e9});
  CHECK_EQ(bias.value(), 0.25);
  GainBias other;
  other.observe({3, 3, 100, 1e9});  // one lost time slice
  CHECK(other.value() > 0.9);
}

TEST(gain_bias_begins_anew_less_and_less_often_until_predictions_come_true) {
  GainBias bias;
  const auto steps_to_start = [&] {
    int steps = 1;
    while (!bias.begins_anew()) ++steps;
    return steps;
  };
  for (const int steps : {16, 32, 64, 128, 256, 512, 1024, 1024}) {
    for (int i = 0; i < 40; ++i) bias.observe({4, 1, 100, 120});
    CHECK_EQ(bias.value(), 0.25);
    CHECK_EQ(steps_to_start(), steps);
    CHECK_EQ(bias.value(), 1.0);
  }
  for (int i = 0; i < 200; ++i) bias.observe({3, 3, 100, 100});
  CHECK_EQ(steps_to_start(), 16);
}

TEST(a_source_that_does_not_earn_its_time_takes_little_of_it) {
  constexpr double kStep = 1000;
  const auto share_asked = [&](double cost, double saved, int num_steps) {
    SourceLedger ledger;
    double spent = 0;
    for (int i = 0; i < num_steps; ++i) {
      if (!ledger.is_due()) continue;
      spent += cost;
      ledger.observe(cost, saved, kStep);
    }
    return spent / (num_steps * kStep);
  };
  CHECK_EQ(share_asked(300, 900, 2000), 0.3);           // a good draft model: always
  CHECK_EQ(share_asked(3, 0, 2000), 0.003);             // cheap: always
  CHECK(share_asked(300, 0, 20000) < 0.006);            // dear and useless
  CHECK(share_asked(300, 200, 20000) < 0.006);          // saves less than it costs
  // It is noticed when the text becomes guessable.
  SourceLedger ledger;
  for (int i = 0; i < 2000; ++i) {
    if (ledger.is_due()) ledger.observe(50, 0, kStep);
  }
  int asked = 0;
  for (int i = 0; i < 200; ++i) {
    if (!ledger.is_due()) continue;
    ledger.observe(50, 2000, kStep);
    ++asked;
  }
  CHECK(asked > 150);
}

// ---- Statistics

TEST(statistics_learn_what_a_claim_is_worth) {
  DraftStatistics statistics;
  const auto source = DraftSourceId::kSuffix;
  CHECK_NEAR(statistics.calibrated(source, 2, 0.5f), 0.3, 1e-6);
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform;
  for (int i = 0; i < 2000; ++i) {
    const float claim = static_cast<float>(0.1 + 0.9 * uniform(random));
    statistics.observe(source, 2, claim, uniform(random) < 0.4 * claim);  // it claims 2.5 times too much
  }
  CHECK_NEAR(statistics.ratio(source, 2), 0.4, 0.15);
  CHECK_NEAR(statistics.ratio(source, 3), 0.6, 1e-6);
  CHECK_NEAR(statistics.ratio(DraftSourceId::kRecycling, 2), 0.6, 1e-6);
  for (int i = 0; i < 100; ++i) statistics.observe(source, 5, 0.1f, true);
  CHECK_NEAR(statistics.calibrated(source, 5, 0.9f), 0.98, 1e-6);
}

// ---- Merging

constexpr DraftContext kContext = {0, 0, 8, 8, 0};

TEST(lists_that_are_no_draft_tree_are_told) {
  const auto good = [](std::vector<DraftNode> nodes) { return is_draft_tree(nodes, kContext, 100); };
  CHECK(good({}));
  CHECK(good({{-1, 5, 1, 0}, {0, 5, 0.5f, 15}, {-1, 6, 0.1f, 0}}));
  CHECK(!good({{0, 5, 1, 0}}));                     // its own parent
  CHECK(!good({{1, 5, 1, 0}, {0, 6, 1, 0}}));       // a cycle
  CHECK(!good({{-2, 5, 1, 0}}));
  CHECK(!good({{-1, 100, 1, 0}}));
  CHECK(!good({{-1, -1, 1, 0}}));
  CHECK(!good({{-1, 5, 0, 0}}));
  CHECK(!good({{-1, 5, 1.5f, 0}}));
  CHECK(!good({{-1, 5, NAN, 0}}));
  CHECK(!good({{-1, 5, 1, 16}}));
  CHECK(!good({{-1, 5, 1, 0}, {-1, 5, 1, 0}}));
  std::vector<DraftNode> deep;
  for (int32_t i = 0; i < 8; ++i) deep.push_back({i - 1, 5, 1, 0});
  CHECK(good(deep));
  CHECK(!is_draft_tree(deep, {0, 0, 8, 7, 0}, 100));
  std::vector<DraftNode> large;
  for (int32_t i = 0; i < 9; ++i) large.push_back({-1, i, 0.1f, 0});
  CHECK(!good(large));
}

TEST(merged_lists_share_equal_paths) {
  std::vector<DraftCandidate> candidates;
  const std::vector<DraftNode> suffix = {{-1, 5, 0.5f, 3}, {0, 6, 0.8f, 4}};
  const std::vector<DraftNode> recycled = {{-1, 7, 0.45f, 0}, {-1, 5, 0.2f, 1}, {1, 6, 0.9f, 0}, {1, 9, 0.1f, 1}, {0, 6, 0.3f, 0}};
  merge_draft(DraftSourceId::kSuffix, suffix, candidates);
  merge_draft(DraftSourceId::kRecycling, recycled, candidates);
  CHECK_EQ(candidates.size(), size_t{5});
  const float full = 1 / 0.6f;  // takes back what fresh statistics take off
  rank_candidates(DraftStatistics(), full, candidates);

  Tokens tokens, parents;
  for (const DraftCandidate& c : candidates) tokens.push_back(c.token), parents.push_back(c.parent);
  CHECK(tokens == Tokens({5, 6, 7, 6, 9}));     // 0.5, 0.45, 0.45, 0.135, 0.05
  CHECK(parents == Tokens({-1, 0, -1, 2, 0}));
  CHECK_NEAR(candidates[1].probability, 0.54, 1e-6);  // the likelier claim
  CHECK_EQ(candidates[0].claims[0].rank, 3);
  CHECK_EQ(candidates[0].claims[1].rank, 1);
  CHECK_EQ(candidates[2].claims[0].probability, 0.0f);

  rank_candidates(DraftStatistics(), full / 2, candidates);
  CHECK_NEAR(candidates[0].path_probability, 0.25, 1e-6);
  for (size_t i = 1; i < candidates.size(); ++i) {
    CHECK(candidates[i].path_probability <= candidates[i - 1].path_probability);
    CHECK(candidates[i].parent < static_cast<int32_t>(i));
  }
}

// ---- choose_draft_trees

struct Choice {
  double gain;
  std::vector<int32_t> counts;
};

Choice choose(const std::vector<std::vector<float>>& candidates, const StepCost& cost, DraftBudget budget) {
  Choice choice{0, std::vector<int32_t>(candidates.size(), -1)};
  choice.gain = choose_draft_trees(candidates, cost, budget, choice.counts);
  return choice;
}

const StepCost kFlat({{1, 100}, {128, 100}});
const StepCost kLinear({{1, 100}, {2, 200}});
const StepCost kCpu({{1, 100}, {2, 120}, {4, 140}, {8, 190}, {16, 320}});

TEST(free_rows_are_all_taken_and_dear_ones_none) {
  const std::vector<std::vector<float>> candidates = {{0.9f, 0.5f, 0.1f}, {0.3f}};
  const Choice all = choose(candidates, kFlat, {2, 2, 100, 0, 1.05});
  CHECK(all.counts == Tokens({3, 1}));
  CHECK_NEAR(all.gain, (2 + 1.8) / 2, 1e-6);
  CHECK(choose(candidates, kLinear, {2, 2, 100, 0, 1.05}).counts == Tokens({0, 0}));
  CHECK_EQ(choose(candidates, kLinear, {2, 2, 100, 0, 1.05}).gain, 1.0);
  CHECK(choose(candidates, StepCost(), {2, 2, 100, 0, 1.05}).counts == Tokens({0, 0}));
  CHECK(choose(candidates, kFlat, {2, 2, 0, 0, 1.05}).counts == Tokens({0, 0}));
}

TEST(a_small_gain_and_slow_drafting_fall_back_to_plain_decoding) {
  const std::vector<std::vector<float>> candidates = {{0.3f}};
  CHECK_NEAR(choose(candidates, kCpu, {1, 1, 100, 0, 1.05}).gain, 1.3 / 1.2, 1e-6);
  CHECK(choose(candidates, kCpu, {1, 1, 100, 0, 1.1}).counts == Tokens({0}));
  CHECK(choose(candidates, kCpu, {1, 1, 100, 5, 1.05}).counts == Tokens({0}));  // 1.3 / 1.25
}

TEST(the_choice_is_the_best_of_all_sizes) {
  // By trying every pair of prefixes.
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::vector<float>> candidates(2);
    for (auto& list : candidates) {
      list.resize(random() % 12);
      for (float& p : list) p = uniform(random);
      std::ranges::sort(list, std::greater<>());
    }
    const StepCost cost({{1, 100}, {2, 100 + 30 * uniform(random)}, {8, 130 + 200 * uniform(random)}});
    const DraftBudget budget = {3, 2, 100, 2, 1.0};
    double best = 1;
    for (size_t a = 0; a <= candidates[0].size(); ++a) {
      for (size_t b = 0; b <= candidates[1].size(); ++b) {
        if (a + b == 0) continue;
        double tokens = 2;
        for (size_t i = 0; i < a; ++i) tokens += candidates[0][i];
        for (size_t i = 0; i < b; ++i) tokens += candidates[1][i];
        best = std::max(best, tokens / (cost.ns(static_cast<int32_t>(3 + a + b)) + 2) / (2 / cost.ns(3)));
      }
    }
    const Choice choice = choose(candidates, cost, budget);
    CHECK_NEAR(choice.gain, best, 1e-9);
  }
}

TEST(short_rows_are_shared_fairly) {
  const std::vector<float> sure(40, 0.9f), unsure(40, 0.4f);
  const Choice choice = choose({sure, unsure, unsure}, kFlat, {3, 3, 30, 0, 1.05});
  CHECK(choice.counts == Tokens({10, 10, 10}));
  const Choice few = choose({sure, {0.2f}, {}}, kFlat, {3, 3, 30, 0, 1.05});
  CHECK(few.counts == Tokens({29, 1, 0}));  // what one leaves goes to the others
  const Choice tight = choose({sure, sure, sure}, kFlat, {3, 3, 2, 0, 1.05});
  CHECK_EQ(tight.counts[0] + tight.counts[1] + tight.counts[2], 2);
  CHECK_EQ(*std::ranges::max_element(tight.counts), 1);
}

}  // namespace
}  // namespace deftree
