#include "engine/speculation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/test.h"
#include "engine/sampler.h"

namespace deftree {
namespace {

using Tokens = std::vector<int32_t>;

Verified verified(const Tokens& tokens, const Tokens& parents, const Tokens& drawn) {
  check_draft_tree(tokens, parents, 100);
  Verified result;
  verify(tokens, parents, drawn, result);
  return result;
}

TEST(verify_of_a_root_alone_is_a_plain_step) {
  const Verified v = verified({5}, {-1}, {9});
  CHECK(v.path == Tokens({0}));
  CHECK(v.tokens == Tokens({9}));
}

TEST(verify_descends_while_a_child_carries_the_drawn_token) {
  // 0 -> 1 -> 2 -> 3
  //   -> 4 -> 5
  const Tokens tokens = {5, 10, 11, 12, 20, 21}, parents = {-1, 0, 1, 2, 0, 4};
  const Verified second = verified(tokens, parents, {20, 0, 0, 0, 21, 7});
  CHECK(second.path == Tokens({0, 4, 5}));
  CHECK(second.tokens == Tokens({20, 21, 7}));

  const Verified none = verified(tokens, parents, {30, 11, 12, 0, 21, 7});
  CHECK(none.path == Tokens({0}));
  CHECK(none.tokens == Tokens({30}));

  const Verified half = verified(tokens, parents, {10, 99, 12, 0, 21, 7});
  CHECK(half.path == Tokens({0, 1}));
  CHECK(half.tokens == Tokens({10, 99}));
}

TEST(verify_takes_a_token_only_below_its_own_parent) {
  // The drawn token 11 stands in the tree, but under row 1, which was not reached.
  const Verified v = verified({5, 10, 11, 12}, {-1, 0, 1, 0}, {12, 11, 0, 11});
  CHECK(v.path == Tokens({0, 3}));
  CHECK(v.tokens == Tokens({12, 11}));
}

TEST(verify_ends_at_a_row_of_which_nothing_was_drawn) {
  const Verified v = verified({5, 10, 11}, {-1, 0, 1}, {10, -1, 3});
  CHECK(v.path == Tokens({0, 1}));
  CHECK(v.tokens == Tokens({10, -1}));
}

TEST(a_draft_that_is_no_tree_is_refused) {
  const auto refused = [](const Tokens& tokens, const Tokens& parents) {
    CHECK_ERROR(check_draft_tree(tokens, parents, 100), ErrorCode::kBadArgument);
  };
  refused({}, {});
  refused({5, 6}, {-1});
  refused({5}, {0});
  refused({5, 6}, {-1, -1});        // a second root
  refused({5, 6}, {-1, 1});         // its own parent
  refused({5, 6, 7}, {-1, 2, 1});   // a cycle
  refused({5, 6, 7}, {-1, 0, -2});
  refused({5, 6, 6}, {-1, 0, 0});   // the same token twice under one parent
  refused({5, 100}, {-1, 0});
  refused({5, -1}, {-1, 0});
  check_draft_tree(Tokens{5, 6, 6, 5}, Tokens{-1, 0, 1, 0}, 100);
}

// ---- The distribution: a model of 64 tokens whose logits depend on the last token.

constexpr int32_t kVocab = 64;
constexpr int32_t kRoot = 7, kNumDraws = 200'000;

std::vector<float> model_logits(int32_t last) {
  std::vector<float> logits(kVocab);
  for (int32_t t = 0; t < kVocab; ++t) logits[t] = static_cast<float>(4 * uniform_random(11, last, t));
  return logits;
}

// The processed distribution as plain formulas, for temperature and top-k.
std::vector<double> model_distribution(int32_t last, const SamplingParams& params) {
  std::vector<float> logits = model_logits(last), sorted = logits;
  std::ranges::sort(sorted, std::greater<>());
  const float kept = params.top_k > 0 ? sorted[params.top_k - 1] : sorted.back();
  std::vector<double> p(kVocab);
  double sum = 0;
  for (int32_t t = 0; t < kVocab; ++t) {
    p[t] = logits[t] >= kept ? std::exp(double{logits[t]} / params.temperature) : 0;
    sum += p[t];
  }
  for (double& x : p) x /= sum;
  return p;
}

struct Draft {
  Tokens tokens = {kRoot}, parents = {-1};
  void add(int32_t parent, int32_t token) {
    parents.push_back(parent);
    tokens.push_back(token);
  }
};

using MakeDraft = std::function<Draft(const std::function<int32_t(int32_t last, int32_t depth)>& draw, uint64_t seed)>;

// Chi-square of the first two emitted tokens over `kNumDraws` seeds: the first over the vocabulary, the second over the
// vocabulary given the likeliest first. The 99% quantile by the Wilson-Hilferty approximation.
void check_distribution(const char* name, const SamplingParams& base, const MakeDraft& make_draft) {
  const std::vector<double> first = model_distribution(kRoot, base);
  const int32_t likeliest = static_cast<int32_t>(std::ranges::max_element(first) - first.begin());
  const std::vector<double> second = model_distribution(likeliest, base);
  std::array<std::vector<double>, 2> counts = {std::vector<double>(kVocab), std::vector<double>(kVocab)};

  std::vector<std::vector<float>> logits;
  for (int32_t t = 0; t < kVocab; ++t) logits.push_back(model_logits(t));
  SamplerScratch scratch;
  SampledToken sampled;
  SamplingParams params = base;
  for (int32_t i = 0; i < kNumDraws; ++i) {
    params.seed = 1'000 + i;
    const auto draw = [&](int32_t last, int32_t depth) {
      sample_token(logits[last], {0, &params, 3, 20 + depth, {}, {}}, scratch, sampled);
      return sampled.token;
    };
    const Draft draft = make_draft(draw, params.seed);
    check_draft_tree(draft.tokens, draft.parents, kVocab);
    Tokens drawn, depths;
    for (size_t row = 0; row < draft.tokens.size(); ++row) {
      depths.push_back(row == 0 ? 0 : depths[draft.parents[row]] + 1);
      drawn.push_back(draw(draft.tokens[row], depths[row]));
    }
    Verified v;
    verify(draft.tokens, draft.parents, drawn, v);
    ++counts[0][v.tokens[0]];
    if (v.tokens[0] != likeliest) continue;
    ++counts[1][v.tokens.size() > 1 ? v.tokens[1] : draw(likeliest, 1)];
  }
  for (int k = 0; k < 2; ++k) {
    const std::vector<double>& p = k == 0 ? first : second;
    double total = 0, chi2 = 0;
    int cells = 0;
    for (double n : counts[k]) total += n;
    for (int32_t t = 0; t < kVocab; ++t) {
      if (p[t] == 0) {
        CHECK_EQ(counts[k][t], 0.0);
        continue;
      }
      REQUIRE(total * p[t] > 5);
      chi2 += (counts[k][t] - total * p[t]) * (counts[k][t] - total * p[t]) / (total * p[t]);
      ++cells;
    }
    const double df = cells - 1, z = 2.326348, h = 2 / (9 * df);
    const double limit = df * std::pow(1 - h + z * std::sqrt(h), 3);
    if (chi2 > limit) {
      test::fail(__FILE__, __LINE__, std::string(name) + ": token " + std::to_string(k) + " has chi-square " +
                                         std::to_string(chi2) + " over " + std::to_string(limit));
    }
  }
}

// A draft that would be right, four levels deep, beside a wrong one.
Draft right_draft(const std::function<int32_t(int32_t, int32_t)>& draw, uint64_t) {
  Draft draft;
  int32_t last = kRoot;
  for (int32_t depth = 0; depth < 4; ++depth) {
    last = draw(last, depth);
    draft.add(depth, last);
  }
  draft.add(0, (draft.tokens[1] + 1) % kVocab);
  return draft;
}

Draft wrong_draft(const std::function<int32_t(int32_t, int32_t)>& draw, uint64_t) {
  Draft draft;
  const int32_t first = draw(kRoot, 0);
  for (int32_t i = 1; i <= 3; ++i) draft.add(0, (first + i) % kVocab);
  draft.add(1, first);
  return draft;
}

// Knows the random numbers and helps only the tokens it favours: under a rule that draws again after a rejection, or
// that skips rejected tokens, the emitted ones would lean to the lower half of the vocabulary.
Draft adversarial_draft(const std::function<int32_t(int32_t, int32_t)>& draw, uint64_t seed) {
  Draft draft;
  const int32_t first = draw(kRoot, 0);
  if (first < kVocab / 2) draft.add(0, first);
  for (int32_t t = 0; t < kVocab; t += 16) {
    if (t != first) draft.add(0, t);
  }
  const int32_t num_children = static_cast<int32_t>(draft.tokens.size()) - 1;
  for (int32_t child = 1; child <= num_children; ++child) {
    const int32_t next = draw(draft.tokens[child], 1);
    if (next < kVocab / 2) draft.add(child, next);
    if (seed % 2 == 0) draft.add(child, kVocab / 2 + static_cast<int32_t>(seed % 31));
  }
  return draft;
}

TEST(emitted_tokens_have_the_target_distribution_whatever_the_draft) {
  SamplingParams whole;
  whole.temperature = 1;
  SamplingParams cut = whole;
  cut.temperature = 0.8f;
  cut.top_k = 20;
  check_distribution("right", whole, right_draft);
  check_distribution("wrong", whole, wrong_draft);
  check_distribution("adversarial", whole, adversarial_draft);
  check_distribution("adversarial, top-k", cut, adversarial_draft);
}

}  // namespace
}  // namespace deftree
