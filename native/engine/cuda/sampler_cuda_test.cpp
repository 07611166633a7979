// CudaSampler against sample_token on the same logits. Weights are the CPU's bit for bit; what may differ is the
// rounding of sums, which on the CPU are sums of single-precision lanes: up to 7 * 2^-24 = 4.2e-7 of the whole, and exp
// itself is exact to 3e-7. A token that is not the CPU's must therefore lie within kRounding = 1e-6 of the draw, in
// double precision.
#include "engine/cuda/sampler_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "common/error.h"
#include "common/test.h"
#include "cuda/buffer.h"
#include "cuda/gpu_test.h"
#include "cuda/stream.h"

namespace deftree {
namespace {

using RowBarrier = CudaSampler::RowBarrier;
using test::has_gpu;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr double kRounding = 1e-6;

// Rows of logits on both sides, and a sampler for them.
class Gpu {
 public:
  Gpu(int vocab_size, int num_rows, int max_requests = 64, RowBarrier barrier = RowBarrier::kAuto)
      : vocab_size_(vocab_size),
        num_rows_(num_rows),
        host_(static_cast<size_t>(vocab_size) * num_rows),
        device_(host_.size()),
        sampler_(vocab_size, max_requests, barrier) {}

  void set_row(int row, std::span<const float> logits) {
    REQUIRE(logits.size() == static_cast<size_t>(vocab_size_));
    std::ranges::copy(logits, host_.begin() + static_cast<ptrdiff_t>(row) * vocab_size_);
    cuda::check(cudaMemcpy(device_.data() + static_cast<size_t>(row) * vocab_size_, logits.data(), logits.size_bytes(),
                           cudaMemcpyHostToDevice),
                "copy");
  }
  std::span<const float> row(int i) const {
    return {host_.data() + static_cast<size_t>(i) * vocab_size_, static_cast<size_t>(vocab_size_)};
  }
  std::vector<SampledToken> sample(std::span<const SampleRequest> requests) {
    std::vector<SampledToken> results(requests.size());
    sampler_.sample(device_.data(), num_rows_, requests, results, stream_.get());
    return results;
  }
  SampledToken sample(const SamplingParams& params, int position = 0, std::span<const int32_t> seen = {},
                      std::span<const uint64_t> allowed = {}) {
    const SampleRequest request{0, &params, 0, position, seen, allowed};
    return sample({&request, 1})[0];
  }
  std::vector<float> log_probs(std::span<const int32_t> rows, std::span<const int32_t> tokens) {
    std::vector<float> results(rows.size());
    sampler_.log_probs(device_.data(), num_rows_, rows, tokens, results, stream_.get());
    return results;
  }
  // Whether nothing has been written to the logits.
  bool is_unchanged() const {
    std::vector<float> now(host_.size());
    cuda::check(cudaMemcpy(now.data(), device_.data(), device_.bytes(), cudaMemcpyDeviceToHost), "copy");
    return std::memcmp(now.data(), host_.data(), device_.bytes()) == 0;
  }

 private:
  int vocab_size_, num_rows_;
  std::vector<float> host_;
  cuda::DeviceBuffer<float> device_;
  cuda::Stream stream_;
  CudaSampler sampler_;
};

template <class T>
T pick(std::mt19937& random, std::initializer_list<T> values) {
  return values.begin()[random() % values.size()];
}

std::vector<float> random_logits(int vocab_size, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, pick(random, {0.01f, 1.0f, 2.5f, 6.0f}));
  const float step = pick(random, {0.0f, 0.0f, 0.25f});  // coarse values: many ties
  const int odd_one_in = pick(random, {0, 0, 0, 7});     // NaN and -infinity among them
  std::vector<float> logits(vocab_size);
  for (float& logit : logits) {
    logit = normal(random);
    if (step > 0) logit = std::round(logit / step) * step;
    if (odd_one_in > 0 && random() % odd_one_in == 0) logit = random() % 2 == 0 ? -kInf : std::nanf("");
  }
  logits[0] = std::isfinite(logits[0]) ? logits[0] : 1.0f;  // which every mask of the tests allows
  return logits;
}

// A request that owns what it refers to.
struct OwnedRequest {
  SamplingParams params;
  std::vector<int32_t> seen;
  std::vector<uint64_t> allowed;
  SampleRequest request;
};

void randomize(OwnedRequest& owned, int vocab_size, int num_rows, std::mt19937& random) {
  SamplingParams& params = owned.params;
  params.temperature = pick(random, {0.0f, 0.3f, 0.7f, 1.0f, 1.0f, 2.0f, 100.0f});
  params.top_k = pick(random, {0, 0, 0, 1, 2, 40, 900, 1500, 6000, vocab_size});
  params.top_p = pick(random, {1.0f, 1.0f, 0.95f, 0.9f, 0.5f, 0.0f, 0.999f});
  params.min_p = pick(random, {0.0f, 0.0f, 0.05f, 0.3f, 1.0f});
  params.repetition_penalty = pick(random, {1.0f, 1.0f, 1.3f, 0.8f});
  params.seed = random();
  params.num_logprobs = pick(random, {-1, -1, 0, 1, 5, 100});
  const auto token = [&] { return static_cast<int32_t>(random() % vocab_size); };
  for (int i = pick(random, {0, 0, 3, 300}); i > 0; --i) {
    params.logit_bias.push_back({token(), pick(random, {2.0f, -3.0f, 0.5f, -100.0f})});
  }
  for (int i = pick(random, {0, 5, 2000}); i > 0; --i) owned.seen.push_back(token());
  if (random() % 4 == 0) {
    owned.allowed.resize((vocab_size + 63) / 64 - (vocab_size > 500 ? random() % 2 : 0));
    const uint64_t sparse = pick(random, {~0ULL, 0x0101010101010101ULL});
    for (uint64_t& word : owned.allowed) word = (static_cast<uint64_t>(random()) << 32 | random()) & sparse;
    owned.allowed[0] |= 1;
  }
  owned.request = {static_cast<int32_t>(random() % num_rows), &params,    random(),
                   static_cast<int32_t>(random() % 9000),     owned.seen, owned.allowed};
}

// How far, as a share of the whole, the draw of a request is from `token`'s own piece of the distribution, in double
// precision: 0 when the token is the exact result. Edges of top-p are tried on both sides where they are within
// kRounding.
double distance_to(int32_t token, std::span<const float> logits, const SampleRequest& request) {
  const SamplingParams& params = *request.params;
  std::vector<float> values(logits.begin(), logits.end());
  if (params.repetition_penalty != 1.0f) {
    const float penalty = params.repetition_penalty;
    for (int32_t t : request.seen) values[t] = logits[t] > 0 ? logits[t] / penalty : logits[t] * penalty;
  }
  for (const auto& [t, bias] : params.logit_bias) values[t] += bias;
  std::vector<int32_t> order;
  for (size_t i = 0; i < values.size(); ++i) {
    const bool allowed =
        request.allowed.empty() || (i / 64 < request.allowed.size() && (request.allowed[i / 64] >> (i % 64) & 1) != 0);
    if (allowed && values[i] > -kInf) order.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
  if (params.temperature == 0.0f) return token == order[0] ? 0 : 1;
  const bool cuts_k = params.top_k > 0 && params.top_k < static_cast<int>(logits.size());
  if (cuts_k) order.resize(std::min<size_t>(order.size(), params.top_k));
  std::vector<double> prefix(order.size() + 1, 0.0);
  const auto weight = [&](int32_t t) {
    const float x = (values[order[0]] - values[t]) * (1.0f / std::max(params.temperature, 1e-6f));
    return x > 87 ? 0.0 : std::exp(-static_cast<double>(x));
  };
  for (size_t i = 0; i < order.size(); ++i) prefix[i + 1] = prefix[i] + weight(order[i]);

  const double mass = params.top_p * prefix.back(), slack = kRounding * prefix.back();
  size_t first = order.size(), last = order.size();
  if (params.top_p < 1) {
    first = last = 1;
    while (first < order.size() && prefix[first] < mass - slack) ++first;
    last = first;
    while (last < order.size() && prefix[last] < mass + slack) ++last;
  }
  double nearest = 1;
  for (size_t n = first; n <= last; ++n) {
    std::vector<int32_t> kept(order.begin(), order.begin() + n);
    std::erase_if(kept, [&](int32_t t) { return weight(t) < params.min_p; });
    const bool by_id = !cuts_k && (params.top_p >= 1 || (n > 1024 && logits.size() > 1024));
    if (by_id) std::sort(kept.begin(), kept.end());
    double sum = 0, before = 0, through = -1;
    for (int32_t t : kept) {
      if (t == token) before = sum;
      sum += weight(t);
      if (t == token) through = sum;
    }
    if (through < 0) continue;
    const double target = uniform_random(params.seed, request.path_hash, request.position) * sum;
    nearest = std::min(nearest, std::max({0.0, before - target, target - through}) / sum);
  }
  return nearest;
}

struct Comparison {
  int requests = 0, different = 0;
  double largest_distance = 0;
};

void compare(Gpu& gpu, std::span<const SampleRequest> requests, Comparison& comparison) {
  const std::vector<SampledToken> results = gpu.sample(requests);
  SamplerScratch scratch;
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::span<const float> logits = gpu.row(requests[i].logit_row);
    SampledToken expected;
    sample_token(logits, requests[i], scratch, expected);
    ++comparison.requests;
    REQUIRE(results[i].token >= 0 && results[i].token < static_cast<int32_t>(logits.size()));
    if (results[i].token != expected.token) {
      ++comparison.different;
      const double distance = std::max(distance_to(results[i].token, logits, requests[i]),
                                       distance_to(expected.token, logits, requests[i]));
      comparison.largest_distance = std::max(comparison.largest_distance, distance);
      CHECK(distance <= kRounding);
      if (distance > kRounding) {
        const SamplingParams& p = *requests[i].params;
        std::printf("    vocabulary %zu, temperature %g, top-k %d, top-p %g, min-p %g: token %d, CPU %d, %g apart\n",
                    logits.size(), p.temperature, p.top_k, p.top_p, p.min_p, results[i].token, expected.token,
                    distance);
      }
    } else if (requests[i].params->num_logprobs >= 0) {
      CHECK_NEAR(results[i].logprob, expected.logprob, 1e-5);
    }
    if (requests[i].params->num_logprobs < 0) CHECK(std::isnan(results[i].logprob));
    CHECK_EQ(results[i].top.size(), expected.top.size());
    for (size_t j = 0; j < std::min(results[i].top.size(), expected.top.size()); ++j) {
      CHECK_EQ(results[i].top[j].token, expected.top[j].token);
      CHECK_NEAR(results[i].top[j].logprob, expected.top[j].logprob, 1e-5);
    }
  }
}

Comparison compare_random(int vocab_size, int num_batches, RowBarrier barrier, std::mt19937& random) {
  constexpr int kRows = 6, kRequests = 24;
  Gpu gpu(vocab_size, kRows, 16, barrier);
  Comparison comparison;
  for (int batch = 0; batch < num_batches; ++batch) {
    for (int row = 0; row < kRows; ++row) gpu.set_row(row, random_logits(vocab_size, random));
    std::vector<OwnedRequest> owned(kRequests);
    std::vector<SampleRequest> requests;
    for (OwnedRequest& one : owned) {
      randomize(one, vocab_size, kRows, random);
      requests.push_back(one.request);
      for (int fork = pick(random, {0, 0, 3}); fork > 0; --fork) {  // children of one branch
        requests.push_back(one.request);
        requests.back().path_hash = random();
      }
    }
    std::shuffle(requests.begin(), requests.end(), random);
    compare(gpu, requests, comparison);
  }
  CHECK(gpu.is_unchanged());
  return comparison;
}

void report(const Comparison& all) {
  std::printf("    %d requests, %d tokens differ from the CPU's, the draw at most %.2g of the whole from both\n",
              all.requests, all.different, all.largest_distance);
  CHECK(all.different * 100 <= all.requests);
}

TEST(sampler_cuda_gives_the_cpus_tokens) {
  if (!has_gpu()) return;
  std::mt19937 random(1);
  for (const RowBarrier barrier : {RowBarrier::kAuto, RowBarrier::kCounter}) {
    Comparison all;
    for (int vocab_size : {1, 2, 15, 64, 129, 300, 1000, 1024, 1025, 5000, 9001, 20000, 49152, 128256}) {
      const Comparison some = compare_random(vocab_size, vocab_size < 5000 ? 8 : 4, barrier, random);
      all.requests += some.requests;
      all.different += some.different;
      all.largest_distance = std::max(all.largest_distance, some.largest_distance);
    }
    report(all);
  }
}

// Small enough for compute-sanitizer.
TEST(sampler_cuda_small_run_of_every_path) {
  if (!has_gpu()) return;
  std::mt19937 random(2);
  for (const RowBarrier barrier : {RowBarrier::kAuto, RowBarrier::kCounter}) {
    Comparison all;
    for (int vocab_size : {15, 9001, 17001}) {
      const Comparison some = compare_random(vocab_size, 1, barrier, random);
      all.requests += some.requests;
      all.different += some.different;
      all.largest_distance = std::max(all.largest_distance, some.largest_distance);
    }
    report(all);
  }
}

TEST(sampler_cuda_token_does_not_depend_on_the_batch) {
  if (!has_gpu()) return;
  constexpr int kVocab = 20000, kRows = 40;
  std::mt19937 random(3);
  Gpu many(kVocab, kRows, 64), few(kVocab, kRows, 2);
  std::vector<OwnedRequest> owned(80);
  std::vector<SampleRequest> requests;
  for (int row = 0; row < kRows; ++row) {
    const std::vector<float> logits = random_logits(kVocab, random);
    many.set_row(row, logits);
    few.set_row(row, logits);
  }
  for (OwnedRequest& one : owned) {
    randomize(one, kVocab, kRows, random);
    requests.push_back(one.request);
  }
  const std::vector<SampledToken> batched = many.sample(requests), in_turns = few.sample(requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    const SampledToken alone = few.sample({&requests[i], 1})[0];
    CHECK_EQ(batched[i].token, alone.token);
    CHECK_EQ(in_turns[i].token, alone.token);
    if (!std::isnan(alone.logprob)) CHECK_EQ(batched[i].logprob, alone.logprob);
  }
}

TEST(sampler_cuda_greedy_step_is_argmax) {
  if (!has_gpu()) return;
  std::mt19937 random(8);
  for (const RowBarrier barrier : {RowBarrier::kAuto, RowBarrier::kCounter}) {
    for (const int vocab_size : {1, 2, 129, 5003, 20001, 128256}) {
      constexpr int kRows = 70;
      Gpu gpu(vocab_size, kRows, kRows, barrier);
      const SamplingParams params;
      std::vector<SampleRequest> requests;
      for (int row = 0; row < kRows; ++row) {
        gpu.set_row(row, random_logits(vocab_size, random));
        requests.push_back({row, &params, 0, 0, {}, {}});
      }
      Comparison comparison;
      compare(gpu, requests, comparison);
      CHECK_EQ(comparison.different, 0);
    }
  }
}

TEST(sampler_cuda_breaks_ties_by_id_however_many) {
  if (!has_gpu()) return;
  constexpr int kVocab = 30000;
  std::vector<float> logits(kVocab, 0.0f);
  for (int i = 0; i < kVocab; i += 3) logits[i] = -0.0f;
  logits[400] = 1.0f;
  Gpu gpu(kVocab, 1);
  gpu.set_row(0, logits);
  SamplingParams params;
  CHECK_EQ(gpu.sample(params).token, 400);
  params.temperature = 1.0f;
  const auto drawn = [&](int draws) {
    std::vector<SampleRequest> requests;
    for (int i = 0; i < draws; ++i) requests.push_back({0, &params, 0, i, {}, {}});
    std::set<int32_t> tokens;
    for (const SampledToken& result : gpu.sample(requests)) tokens.insert(result.token);
    return tokens;
  };
  params.top_k = 3;
  CHECK(drawn(300) == (std::set<int32_t>{0, 1, 400}));
  params.top_k = 2000;
  CHECK(*drawn(300).rbegin() < 2000);
  params.top_k = 0;
  params.top_p = 0.5f;  // half of kVocab + e - 1, e of it token 400's
  const std::set<int32_t> half = drawn(1000);
  CHECK(*half.rbegin() <= 15000 && *half.rbegin() > 14000);
  params.num_logprobs = 4;
  const SampledToken likeliest = gpu.sample(params);
  REQUIRE(likeliest.top.size() == 4);
  CHECK_EQ(likeliest.top[0].token, 400);
  for (int i = 1; i < 4; ++i) CHECK_EQ(likeliest.top[i].token, i - 1);
}

// 100,000 draws against the exact distribution: chi-square below its 1 - 1e-6 quantile (Wilson-Hilferty).
TEST(sampler_cuda_draws_from_the_distribution) {
  if (!has_gpu()) return;
  constexpr int kVocab = 64, kDraws = 100000;
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> logits(kVocab);
  for (float& logit : logits) logit = normal(random);
  Gpu gpu(kVocab, 1);
  gpu.set_row(0, logits);
  std::vector<int> order(kVocab);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  for (const int top_k : {0, 20}) {
    SamplingParams params;
    params.temperature = 0.8f;
    params.top_k = top_k;
    params.seed = 5;
    const int kept = top_k == 0 ? kVocab : top_k;
    std::vector<double> p(kVocab, 0.0);
    double sum = 0;
    for (int i = 0; i < kept; ++i) sum += p[order[i]] = std::exp(logits[order[i]] / 0.8);
    std::vector<SampleRequest> requests;
    for (int i = 0; i < kDraws; ++i)
      requests.push_back({0, &params, static_cast<uint64_t>(i / 1000), i % 1000, {}, {}});
    std::vector<int> counts(kVocab, 0);
    for (const SampledToken& result : gpu.sample(requests)) ++counts[result.token];
    double chi_square = 0;
    for (int token = 0; token < kVocab; ++token) {
      const double mean = p[token] / sum * kDraws;
      if (mean == 0) {
        CHECK_EQ(counts[token], 0);
      } else {
        chi_square += (counts[token] - mean) * (counts[token] - mean) / mean;
      }
    }
    const double freedom = kept - 1, h = 2.0 / (9 * freedom);
    std::printf("    chi-square %.1f of %d tokens\n", chi_square, kept);
    CHECK(chi_square < freedom * std::pow(1 - h + 4.75 * std::sqrt(h), 3));
  }
}

TEST(sampler_cuda_log_probs_match_double_precision) {
  if (!has_gpu()) return;
  std::mt19937 random(6);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  for (const int vocab_size : {1, 300, 49152, 128256}) {
    constexpr int kRows = 5;
    Gpu gpu(vocab_size, kRows);
    std::vector<double> lse;
    for (int row = 0; row < kRows; ++row) {
      std::vector<float> logits(vocab_size);
      double sum = 0;
      for (float& logit : logits) sum += std::exp(logit = normal(random));
      lse.push_back(std::log(sum));
      gpu.set_row(row, logits);
    }
    std::vector<int32_t> rows, tokens;
    for (int i = 0; i < 50; ++i) {
      rows.push_back(static_cast<int32_t>(random() % kRows));
      tokens.push_back(static_cast<int32_t>(random() % vocab_size));
    }
    const std::vector<float> results = gpu.log_probs(rows, tokens);
    for (size_t i = 0; i < rows.size(); ++i) CHECK_NEAR(results[i], gpu.row(rows[i])[tokens[i]] - lse[rows[i]], 1e-5);
    tokens[3] = vocab_size;
    CHECK_ERROR(gpu.log_probs(rows, tokens), ErrorCode::kBadArgument);
  }
}

TEST(sampler_cuda_throws_what_the_cpu_throws) {
  if (!has_gpu()) return;
  constexpr int kVocab = 200;
  std::mt19937 random(7);
  std::vector<float> logits(kVocab);
  for (float& logit : logits) logit = std::normal_distribution<float>()(random);
  Gpu gpu(kVocab, 2);
  gpu.set_row(0, logits);
  gpu.set_row(1, logits);
  SamplingParams params;
  params.logit_bias = {{123, 100.0f}};
  CHECK_EQ(gpu.sample(params).token, 123);
  params.logit_bias = {{kVocab, 1.0f}};
  CHECK_ERROR(gpu.sample(params), ErrorCode::kBadArgument);
  params.logit_bias.clear();
  params.repetition_penalty = 1.1f;
  CHECK_ERROR(gpu.sample(params, 0, std::vector<int32_t>{-1}), ErrorCode::kBadArgument);
  const std::vector<uint64_t> none(4, 0);
  for (const float temperature : {0.0f, 1.0f}) {
    params.temperature = temperature;
    logits[77] = 0;
    gpu.set_row(0, logits);
    CHECK_ERROR(gpu.sample(params, 0, {}, none), ErrorCode::kBadArgument);
    for (const float value : {std::nanf(""), -kInf}) {
      gpu.set_row(0, std::vector<float>(kVocab, value));
      CHECK_ERROR(gpu.sample(params), ErrorCode::kBadModel);
    }
    logits[77] = kInf;
    gpu.set_row(0, logits);
    CHECK_ERROR(gpu.sample(params), ErrorCode::kBadModel);
    // Another row is served as before.
    const SampleRequest other{1, &params, 0, 0, {}, {}};
    CHECK(gpu.sample({&other, 1})[0].token >= 0);
  }
  const SampleRequest beyond{2, &params, 0, 0, {}, {}};
  CHECK_ERROR(gpu.sample({&beyond, 1}), ErrorCode::kBadArgument);
}

TEST(sampler_cuda_survives_infinities_and_nan) {
  if (!has_gpu()) return;
  std::vector<float> logits(9000, -kInf);
  logits[7] = 1.0f;
  logits[9] = std::nanf("");
  Gpu gpu(9000, 1);
  gpu.set_row(0, logits);
  for (const float temperature : {0.0f, 1e-30f, 1.0f, 1e30f}) {
    for (const int top_k : {0, 4, 3000}) {
      for (const float top_p : {1.0f, 0.5f}) {
        SamplingParams params;
        params.temperature = temperature;
        params.top_k = top_k;
        params.top_p = top_p;
        for (int i = 0; i < 5; ++i) CHECK_EQ(gpu.sample(params, i).token, 7);
      }
    }
  }
}

}  // namespace
}  // namespace deftree
