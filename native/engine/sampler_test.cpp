#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "common/error.h"
#include "common/test.h"

namespace deftree {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

SampledToken sample(std::span<const float> logits, const SamplingParams& params, int32_t position = 0,
                    std::span<const int32_t> seen = {}, std::span<const uint64_t> allowed = {}) {
  static SamplerScratch scratch;
  SampledToken result;
  sample_token(logits, {0, &params, 0, position, seen, allowed}, scratch, result);
  return result;
}

std::vector<float> random_logits(int vocab_size, unsigned seed, float spread = 2.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> logits(vocab_size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

std::vector<double> softmax(std::span<const float> logits, double temperature = 1) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p(logits.size());
  for (size_t i = 0; i < p.size(); ++i) p[i] = std::exp((logits[i] - largest) / temperature);
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

// The kept probabilities by sorting everything, the definition of the processors.
std::vector<double> reference_distribution(std::span<const float> logits, const SamplingParams& params) {
  std::vector<double> p = softmax(logits, params.temperature);
  std::vector<int> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  if (params.top_k > 0 && params.top_k < static_cast<int>(order.size())) order.resize(params.top_k);
  if (params.top_p < 1) {
    double sum = 0, reached = 0;
    for (int token : order) sum += p[token];
    size_t kept = 0;
    while (kept < order.size() && (kept == 0 || reached < params.top_p * sum)) reached += p[order[kept++]];
    order.resize(kept);
  }
  const double floor = params.min_p * p[order[0]];
  std::vector<double> kept(p.size(), 0.0);
  for (int token : order) {
    if (p[token] >= floor) kept[token] = p[token];
  }
  const double sum = std::accumulate(kept.begin(), kept.end(), 0.0);
  for (double& value : kept) value /= sum;
  return kept;
}

// Draws and compares with the reference: no token outside the kept set, and a chi-square below its 1 - 1e-6 quantile
// (Wilson-Hilferty) over the tokens expected at least 8 times.
void check_distribution(std::span<const float> logits, const SamplingParams& params, int draws) {
  const std::vector<double> expected = reference_distribution(logits, params);
  std::vector<int> counts(logits.size(), 0);
  for (int i = 0; i < draws; ++i) ++counts[sample(logits, params, i).token];
  double chi_square = 0, rest_expected = 0;
  int rest_count = 0, cells = 0;
  for (size_t token = 0; token < counts.size(); ++token) {
    if (expected[token] == 0) {
      CHECK_EQ(counts[token], 0);
      continue;
    }
    const double mean = expected[token] * draws;
    if (mean >= 8) {
      chi_square += (counts[token] - mean) * (counts[token] - mean) / mean;
      ++cells;
    } else {
      rest_expected += mean;
      rest_count += counts[token];
    }
  }
  if (rest_expected >= 8) {
    chi_square += (rest_count - rest_expected) * (rest_count - rest_expected) / rest_expected;
    ++cells;
  }
  const double freedom = std::max(1, cells - 1), h = 2.0 / (9 * freedom);
  CHECK(chi_square < freedom * std::pow(1 - h + 4.75 * std::sqrt(h), 3));
}

TEST(sampler_greedy_is_argmax_and_ties_go_to_the_lowest_id) {
  for (int vocab_size : {1, 2, 15, 128, 129, 300, 49152}) {
    std::vector<float> logits = random_logits(vocab_size, vocab_size);
    const auto best = std::max_element(logits.begin(), logits.end());
    CHECK_EQ(sample(logits, {}).token, static_cast<int32_t>(best - logits.begin()));
    logits.back() = *best;
    CHECK_EQ(sample(logits, {}).token, static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  CHECK_EQ(sample(std::vector<float>(1000, -3.0f), {}).token, 0);
}

TEST(sampler_draws_from_the_softmax) {
  for (float temperature : {0.5f, 1.0f, 3.0f}) {
    SamplingParams params;
    params.temperature = temperature;
    params.seed = 7;
    check_distribution(random_logits(300, 1), params, 20000);
  }
}

TEST(sampler_processors_keep_what_their_definitions_keep) {
  const std::vector<float> logits = random_logits(1000, 2);
  SamplingParams params;
  params.temperature = 0.9f;
  params.seed = 11;
  for (int top_k : {0, 1, 2, 17, 500, 999, 1000, 5000}) {
    for (float top_p : {1.0f, 0.95f, 0.3f, 0.0f}) {
      for (float min_p : {0.0f, 0.05f, 1.0f}) {
        params.top_k = top_k;
        params.top_p = top_p;
        params.min_p = min_p;
        check_distribution(logits, params, 1500);
      }
    }
  }
}

TEST(sampler_top_k_boundary_ties_keep_exactly_k_lowest_ids) {
  std::vector<float> logits(600, 0.0f);
  logits[400] = 1.0f;
  SamplingParams params;
  params.temperature = 1.0f;
  params.top_k = 3;
  std::set<int32_t> drawn;
  for (int i = 0; i < 200; ++i) drawn.insert(sample(logits, params, i).token);
  CHECK(drawn == (std::set<int32_t>{0, 1, 400}));
}

TEST(sampler_top_p_keeps_the_token_that_reaches_the_mass) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {std::log(8.0f), std::log(4.0f), std::log(2.0f), std::log(2.0f)};
  SamplingParams params;
  params.temperature = 1.0f;
  for (const auto& [top_p, kept] : std::map<float, size_t>{{0.45f, 1}, {0.55f, 2}, {0.74f, 2}, {0.76f, 3}, {0.99f, 4}}) {
    params.top_p = top_p;
    std::set<int32_t> drawn;
    for (int i = 0; i < 300; ++i) drawn.insert(sample(logits, params, i).token);
    CHECK_EQ(drawn.size(), kept);
  }
}

TEST(sampler_flat_large_vocabulary_with_top_p_widens_its_selection) {
  const std::vector<float> logits = random_logits(20000, 3, 0.01f);
  SamplingParams params;
  params.temperature = 1.0f;
  params.top_p = 0.5f;
  std::vector<float> sorted = logits;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  // Nearly uniform, so about half of the tokens are kept.
  int lowest_quarter = 0, upper_half = 0;
  for (int i = 0; i < 400; ++i) {
    const float logit = logits[sample(logits, params, i).token];
    lowest_quarter += logit < sorted[10200];
    upper_half += logit < sorted[5000];
  }
  CHECK_EQ(lowest_quarter, 0);
  CHECK(upper_half > 130 && upper_half < 270);
}

TEST(sampler_repetition_penalty_counts_a_token_once) {
  const std::vector<float> logits = {2.0f, 1.9f, -1.0f, -1.1f};
  SamplingParams params;
  params.repetition_penalty = 1.5f;
  const std::vector<int32_t> seen = {0, 0, 0};
  CHECK_EQ(sample(logits, params, 0, seen).token, 1);        // 2 / 1.5 = 1.33
  CHECK_EQ(sample(logits, params, 0, std::vector<int32_t>{0, 1}).token, 0);
  const std::vector<float> negative = {-1.0f, -1.1f};
  CHECK_EQ(sample(negative, params, 0, seen).token, 1);      // -1 * 1.5 = -1.5
  CHECK_EQ(sample(logits, {}, 0, seen).token, 0);            // off
}

TEST(sampler_bias_and_mask_choose_and_rule_out) {
  const std::vector<float> logits = random_logits(200, 4);
  SamplingParams params;
  params.logit_bias = {{123, 100.0f}};
  CHECK_EQ(sample(logits, params).token, 123);
  params.logit_bias = {{200, 1.0f}};
  CHECK_ERROR(sample(logits, params), ErrorCode::kBadArgument);
  params.logit_bias.clear();
  std::vector<uint64_t> allowed(4, 0);
  CHECK_ERROR(sample(logits, params, 0, {}, allowed), ErrorCode::kBadArgument);
  allowed[2] = 1ULL << 5 | 1ULL << 9;  // tokens 133 and 137
  CHECK_EQ(sample(logits, params, 0, {}, allowed).token, logits[133] >= logits[137] ? 133 : 137);
  params.temperature = 100.0f;
  std::set<int32_t> drawn;
  for (int i = 0; i < 100; ++i) drawn.insert(sample(logits, params, i, {}, allowed).token);
  CHECK(drawn == (std::set<int32_t>{133, 137}));
}

TEST(sampler_logprobs_match_double_precision) {
  for (int vocab_size : {5, 300, 49152}) {
    const std::vector<float> logits = random_logits(vocab_size, 5, 4.0f);
    const std::vector<double> p = softmax(logits);
    SamplingParams params;
    params.temperature = 0.7f;
    params.top_k = 20;
    params.num_logprobs = 5;
    params.logit_bias = {{1, 2.0f}};  // log-probabilities are those of the unprocessed logits
    const SampledToken result = sample(logits, params);
    CHECK_NEAR(result.logprob, std::log(p[result.token]), 2e-5);
    CHECK_NEAR(log_prob(logits, 3), std::log(p[3]), 2e-5);
    REQUIRE(result.top.size() == 5);
    std::vector<float> sorted = logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (size_t i = 0; i < 5; ++i) {
      CHECK_EQ(logits[result.top[i].token], sorted[i]);
      CHECK_NEAR(result.top[i].logprob, std::log(p[result.top[i].token]), 2e-5);
    }
  }
  SamplingParams params;
  CHECK(std::isnan(sample(random_logits(10, 1), params).logprob));
  params.num_logprobs = 0;
  CHECK(sample(random_logits(10, 1), params).top.empty());
  CHECK(!std::isnan(sample(random_logits(10, 1), params).logprob));
}

TEST(sampler_survives_infinities_and_nan) {
  std::vector<float> logits(300, -kInf);
  logits[7] = 1.0f;
  logits[9] = std::nanf("");
  for (float temperature : {0.0f, 1e-30f, 1.0f, 1e30f}) {
    for (int top_k : {0, 4}) {
      SamplingParams params;
      params.temperature = temperature;
      params.top_k = top_k;
      for (int i = 0; i < 50; ++i) CHECK_EQ(sample(logits, params, i).token, 7);
    }
  }
  SamplingParams params;
  CHECK_ERROR(sample(std::vector<float>(20, std::nanf("")), params), ErrorCode::kBadModel);
  CHECK_ERROR(sample(std::vector<float>(20, -kInf), params), ErrorCode::kBadModel);
  CHECK_ERROR(sample(std::vector<float>{1, kInf}, params), ErrorCode::kBadModel);
}

TEST(sampler_same_seed_path_and_position_draw_the_same_token) {
  const std::vector<float> logits = random_logits(5000, 6);
  SamplingParams params;
  params.temperature = 1.0f;
  params.seed = 99;
  SamplerScratch fresh, used;
  std::set<int32_t> by_path;
  for (uint32_t ordinal = 0; ordinal < 20; ++ordinal) {
    SampledToken a, b;
    const SampleRequest request{0, &params, fork_path_hash(0, ordinal), 40, {}, {}};
    sample_token(logits, request, fresh, a);
    sample_token(logits, request, used, b);
    CHECK_EQ(a.token, b.token);
    by_path.insert(a.token);
  }
  CHECK(by_path.size() > 10);  // paths draw apart from one another
}

TEST(sampler_uniform_random_is_uniform_and_independent_over_its_inputs) {
  const int n = 20000;
  for (int varied = 0; varied < 3; ++varied) {
    std::vector<int> deciles(10, 0);
    double mean = 0, lag_product = 0, previous = 0.5;
    for (int i = 0; i < n; ++i) {
      const double u = varied == 0   ? uniform_random(i, 5, 5)
                       : varied == 1 ? uniform_random(5, fork_path_hash(3, i), 5)
                                     : uniform_random(5, 5, i);
      CHECK(u >= 0 && u < 1);
      ++deciles[static_cast<int>(u * 10)];
      mean += u / n;
      lag_product += (u - 0.5) * (previous - 0.5) / n;
      previous = u;
    }
    CHECK_NEAR(mean, 0.5, 5 * std::sqrt(1.0 / 12 / n));
    CHECK_NEAR(lag_product, 0, 5 * (1.0 / 12) / std::sqrt(n));
    double chi_square = 0;
    for (int count : deciles) chi_square += (count - n / 10.0) * (count - n / 10.0) / (n / 10.0);
    CHECK(chi_square < 39);  // 9 degrees of freedom, 1e-5
  }
}

TEST(sampler_fork_paths_do_not_collide) {
  std::set<uint64_t> paths = {0};
  for (uint32_t a = 0; a < 60; ++a) {
    paths.insert(fork_path_hash(0, a));
    for (uint32_t b = 0; b < 60; ++b) paths.insert(fork_path_hash(fork_path_hash(0, a), b));
  }
  CHECK_EQ(paths.size(), 1u + 60u + 3600u);
}

}  // namespace
}  // namespace deftree
