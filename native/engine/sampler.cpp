#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "common/error.h"

namespace deftree {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();
constexpr size_t kBlock = 128;  // logits per block maximum: 384 blocks for 49152 tokens
constexpr size_t kLanes = 16;   // independent accumulators, so that the compiler may use vectors in strict float maths
constexpr size_t kSmallNucleus = 1024;  // tokens: up to here top-p sorts its candidates
constexpr float kMinTemperature = 1e-6f;

// The finaliser of SplitMix64 (Steele et al., OOPSLA 2014): every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// exp(-x) for x >= 0 without a call or a branch, so that loops over it become vectors; relative error under 3e-7. Above
// 87 (and for NaN) it is exactly 0. Cody-Waite reduction, then the Taylor series on |r| <= ln(2) / 2. The range check
// is arithmetic on the bits, which order as the numbers do: GCC makes branches of comparisons here and stays scalar.
inline float exp_minus(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const int32_t bits = std::bit_cast<int32_t>(x) & 0x7fffffff;
  const int32_t limit = std::bit_cast<int32_t>(87.0f);
  const int32_t over = (limit - bits) >> 31;  // all ones above the limit
  const float clamped = -std::bit_cast<float>((bits & ~over) | (limit & over));
  const float shifted = clamped * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound)) << 23;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(p) + exponent) & ~static_cast<uint32_t>(over));
}

float block_maximum(const float* values, size_t len) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, kNegInf);
  size_t i = 0;
  for (; i + kLanes <= len; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
  }
  for (; i < len; ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

// Maxima of consecutive blocks into `block_max`; returns the largest. NaN counts as absent.
float block_maxima(std::span<const float> values, std::vector<float>& block_max) {
  block_max.clear();
  float largest = kNegInf;
  for (size_t i = 0; i < values.size(); i += kBlock) {
    block_max.push_back(block_maximum(values.data() + i, std::min(kBlock, values.size() - i)));
    largest = std::max(largest, block_max.back());
  }
  return largest;
}

int32_t first_maximum(std::span<const float> values, std::span<const float> block_max, float largest) {
  const size_t block = std::find(block_max.begin(), block_max.end(), largest) - block_max.begin();
  size_t i = block * kBlock;
  while (values[i] != largest) ++i;
  return static_cast<int32_t>(i);
}

// weights[i] = exp((values[i] - shift) * scale); returns their sum.
double block_exp(const float* values, size_t len, float shift, float scale, float* weights) {
  for (size_t i = 0; i < len; ++i) weights[i] = exp_minus((shift - values[i]) * scale);
  float lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= len; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] += weights[i + j];
  }
  for (; i < len; ++i) lanes[0] += weights[i];
  double sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

double sum_exp(std::span<const float> values, float shift, float scale) {
  float weights[kBlock];
  double sum = 0;
  for (size_t i = 0; i < values.size(); i += kBlock) {
    sum += block_exp(values.data() + i, std::min(kBlock, values.size() - i), shift, scale, weights);
  }
  return sum;
}

// The `k` largest values' indices in `scratch.order`, largest first, ties by index. No sort of the whole: the k-th
// largest block maximum is a lower bound for the k-th largest value, and few values lie above it.
void select_top(std::span<const float> values, size_t k, SamplerScratch& scratch) {
  std::vector<int32_t>& order = scratch.order;
  order.clear();
  float bound = kNegInf;
  if (k <= scratch.block_max.size()) {
    scratch.nth = scratch.block_max;
    std::nth_element(scratch.nth.begin(), scratch.nth.begin() + (k - 1), scratch.nth.end(), std::greater<>());
    bound = scratch.nth[k - 1];
  }
  for (size_t block = 0; block < scratch.block_max.size(); ++block) {
    if (scratch.block_max[block] < bound) continue;
    const size_t end = std::min(values.size(), (block + 1) * kBlock);
    for (size_t i = block * kBlock; i < end; ++i) {
      if (values[i] >= bound && values[i] > kNegInf) order.push_back(static_cast<int32_t>(i));
    }
  }
  const auto before = [&](int32_t a, int32_t b) { return values[a] != values[b] ? values[a] > values[b] : a < b; };
  if (order.size() > k) {
    std::nth_element(order.begin(), order.begin() + (k - 1), order.end(), before);
    order.resize(k);
  }
  std::sort(order.begin(), order.end(), before);
}

double weigh_candidates(std::span<const float> values, float shift, float scale, SamplerScratch& scratch) {
  scratch.weights.resize(scratch.order.size());
  double sum = 0;
  for (size_t i = 0; i < scratch.order.size(); ++i) {
    scratch.weights[i] = exp_minus((shift - values[scratch.order[i]]) * scale);
    sum += scratch.weights[i];
  }
  return sum;
}

// Keeps in `scratch.order` the smallest set of likeliest tokens that holds `mass` of the weights, by id. For nuclei too
// large to sort: halves the range that holds the boundary token until one is left, linear in all.
void select_mass(std::span<const float> values, double mass, SamplerScratch& scratch) {
  std::vector<int32_t>& order = scratch.order;
  order.clear();
  for (size_t i = 0; i < values.size(); ++i) {
    if (scratch.weights[i] > 0) order.push_back(static_cast<int32_t>(i));
  }
  const auto before = [&](int32_t a, int32_t b) { return values[a] != values[b] ? values[a] > values[b] : a < b; };
  size_t begin = 0, end = order.size();
  double reached = 0;
  while (end - begin > 1) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(order.begin() + begin, order.begin() + middle, order.begin() + end, before);
    double sum = 0;
    for (size_t i = begin; i < middle; ++i) sum += scratch.weights[order[i]];
    if (reached + sum >= mass) {
      end = middle;
    } else {
      reached += sum;
      begin = middle;
    }
  }
  const int32_t boundary = order[begin];
  order.clear();
  for (size_t i = 0; i < values.size(); ++i) {
    const int32_t token = static_cast<int32_t>(i);
    if (token == boundary || before(token, boundary)) order.push_back(token);
  }
}

// The shortest prefix of the weights that holds `mass`.
size_t prefix_with_mass(std::span<const float> weights, double mass) {
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    if (sum >= mass) return i + 1;
  }
  return weights.size();
}

// Draws among order[i] with weights[i] >= min_p; weights are relative to the likeliest token's.
int32_t draw_candidate(const SamplerScratch& scratch, float min_p, double uniform) {
  const float floor = std::max(min_p, std::numeric_limits<float>::min());
  double sum = 0;
  for (float weight : scratch.weights) sum += weight >= floor ? weight : 0;
  const double target = uniform * sum;
  double reached = 0;
  int32_t last = scratch.order.front();
  for (size_t i = 0; i < scratch.weights.size(); ++i) {
    if (scratch.weights[i] < floor) continue;
    reached += scratch.weights[i];
    last = scratch.order[i];
    if (reached > target) break;
  }
  return last;
}

double weigh_all(std::span<const float> values, float shift, float scale, SamplerScratch& scratch) {
  scratch.weights.resize(values.size());
  scratch.block_sum.clear();
  double sum = 0;
  for (size_t i = 0; i < values.size(); i += kBlock) {
    scratch.block_sum.push_back(block_exp(values.data() + i, std::min(kBlock, values.size() - i), shift, scale,
                                          scratch.weights.data() + i));
    sum += scratch.block_sum.back();
  }
  return sum;
}

// Draws from the whole softmax: block sums first, then one block token by token.
int32_t draw_all(std::span<const float> values, float shift, float scale, double uniform, SamplerScratch& scratch) {
  const double sum = weigh_all(values, shift, scale, scratch);
  const double target = uniform * sum;
  size_t block = 0, last_block = 0;
  double before = 0, reached = 0;
  for (; block < scratch.block_sum.size(); ++block) {
    if (scratch.block_sum[block] == 0) continue;
    last_block = block;
    before = reached;
    reached += scratch.block_sum[block];
    if (reached > target) break;
  }
  const size_t end = std::min(values.size(), (last_block + 1) * kBlock);
  size_t token = 0;
  for (size_t i = last_block * kBlock; i < end; ++i) {
    if (scratch.weights[i] == 0) continue;
    before += scratch.weights[i];
    token = i;
    if (before > target) break;
  }
  return static_cast<int32_t>(token);
}

bool changes_logits(const SampleRequest& request) {
  const SamplingParams& params = *request.params;
  return (params.repetition_penalty != 1.0f && !request.seen.empty()) || !params.logit_bias.empty() ||
         !request.allowed.empty();
}

void check_token(int32_t token, size_t vocab_size, const char* what) {
  if (token >= 0 && static_cast<size_t>(token) < vocab_size) return;
  throw Error(ErrorCode::kBadArgument,
              std::string(what) + " names token " + std::to_string(token) + "; the vocabulary has " +
                  std::to_string(vocab_size),
              {{"token", token}, {"vocab_size", static_cast<double>(vocab_size)}});
}

// Sets the logits of tokens that the mask does not allow to minus infinity, 64 at a time: most words are all ones or zeros.
void rule_out(std::span<const uint64_t> allowed, std::span<float> values) {
  for (size_t begin = 0; begin < values.size(); begin += 64) {
    const size_t len = std::min<size_t>(64, values.size() - begin);
    const uint64_t word = begin / 64 < allowed.size() ? allowed[begin / 64] : 0;
    if (word == 0) {
      std::fill_n(values.begin() + begin, len, kNegInf);
    } else if (word != ~uint64_t{0}) {
      for (size_t i = 0; i < len; ++i) values[begin + i] = (word >> i & 1) != 0 ? values[begin + i] : kNegInf;
    }
  }
}

// Repetition penalty (Keskar et al., arXiv 1909.05858, once per distinct token), bias, grammar mask.
void process_logits(std::span<const float> logits, const SampleRequest& request, std::vector<float>& values) {
  const SamplingParams& params = *request.params;
  values.assign(logits.begin(), logits.end());
  if (params.repetition_penalty != 1.0f) {
    const float penalty = params.repetition_penalty;
    for (int32_t token : request.seen) {
      check_token(token, logits.size(), "the repetition penalty");
      values[token] = logits[token] > 0 ? logits[token] / penalty : logits[token] * penalty;
    }
  }
  for (const auto& [token, bias] : params.logit_bias) {
    check_token(token, logits.size(), "logitBias");
    values[token] += bias;
  }
  if (!request.allowed.empty()) rule_out(request.allowed, values);
}

int32_t draw(std::span<const float> values, float largest, const SampleRequest& request, SamplerScratch& scratch) {
  const SamplingParams& params = *request.params;
  const float scale = 1.0f / std::max(params.temperature, kMinTemperature);
  const double uniform = uniform_random(params.seed, request.path_hash, request.position);
  const bool cuts_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < values.size();
  if (!cuts_k && params.top_p >= 1.0f && params.min_p <= 0.0f) return draw_all(values, largest, scale, uniform, scratch);

  if (cuts_k) {
    select_top(values, params.top_k, scratch);
    const double sum = weigh_candidates(values, largest, scale, scratch);
    if (params.top_p < 1.0f) scratch.weights.resize(prefix_with_mass(scratch.weights, params.top_p * sum));
  } else if (params.top_p < 1.0f) {
    const double mass = params.top_p * sum_exp(values, largest, scale);
    select_top(values, std::min(kSmallNucleus, values.size()), scratch);
    if (weigh_candidates(values, largest, scale, scratch) >= mass || values.size() <= kSmallNucleus) {
      scratch.weights.resize(prefix_with_mass(scratch.weights, mass));
    } else {
      weigh_all(values, largest, scale, scratch);
      select_mass(values, mass, scratch);
      weigh_candidates(values, largest, scale, scratch);
    }
  } else {
    weigh_all(values, largest, scale, scratch);
    scratch.order.resize(values.size());
    std::iota(scratch.order.begin(), scratch.order.end(), 0);
  }
  return draw_candidate(scratch, params.min_p, uniform);
}

// What draft sources want to know of a row, from the block maxima that the draw needs anyway.
void find_successors(std::span<const float> logits, float largest, int32_t num_successors, SamplerScratch& scratch,
                     std::vector<TokenLogprob>& successors) {
  const auto start = std::chrono::steady_clock::now();
  select_top(logits, std::min<size_t>(num_successors, logits.size()), scratch);
  double of_blocks = 0, of_top = 0;
  for (const float block : scratch.block_max) of_blocks += exp_minus(largest - block);
  for (const int32_t token : scratch.order) of_top += exp_minus(largest - logits[token]);
  const float lse = largest + static_cast<float>(std::log(std::max(of_blocks, of_top)));
  for (const int32_t token : scratch.order) successors.push_back({token, logits[token] - lse});
  scratch.successors_ns +=
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
}

float log_sum_exp(std::span<const float> logits, float largest) {
  return largest + static_cast<float>(std::log(sum_exp(logits, largest, 1.0f)));
}

}  // namespace

uint64_t fork_path_hash(uint64_t parent, uint32_t ordinal) { return mix(mix(parent) ^ (ordinal + 1ULL)); }

double uniform_random(uint64_t seed, uint64_t path_hash, int32_t position) {
  const uint64_t bits = mix(mix(mix(seed) ^ path_hash) ^ static_cast<uint32_t>(position));
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

void sample_token(std::span<const float> logits, const SampleRequest& request, SamplerScratch& scratch,
                  SampledToken& result) {
  const SamplingParams& params = *request.params;
  const float largest_logit = block_maxima(logits, scratch.block_max);
  if (!std::isfinite(largest_logit)) {
    throw Error(ErrorCode::kBadModel, "the model's logits are not finite: its weights or its KV values overflow");
  }

  result.top.clear();
  result.successors.clear();
  if (request.num_successors > 0) {
    find_successors(logits, largest_logit, request.num_successors, scratch, result.successors);
  }
  result.logprob = std::numeric_limits<float>::quiet_NaN();
  float lse = 0;
  if (params.num_logprobs >= 0) {
    lse = log_sum_exp(logits, largest_logit);
    if (params.num_logprobs > 0) {
      select_top(logits, std::min<size_t>(params.num_logprobs, logits.size()), scratch);
      for (int32_t token : scratch.order) result.top.push_back({token, logits[token] - lse});
    }
  }

  std::span<const float> values = logits;
  float largest = largest_logit;
  if (changes_logits(request)) {
    process_logits(logits, request, scratch.values);
    values = scratch.values;
    largest = block_maxima(values, scratch.block_max);
    if (!(largest > kNegInf)) {
      throw Error(ErrorCode::kBadArgument, "the grammar mask and logitBias rule out every token");
    }
  }
  result.token = params.temperature == 0.0f ? first_maximum(values, scratch.block_max, largest)
                                            : draw(values, largest, request, scratch);
  if (params.num_logprobs >= 0) result.logprob = logits[result.token] - lse;
}

float log_prob(std::span<const float> logits, int32_t token) {
  float largest = kNegInf;
  for (size_t i = 0; i < logits.size(); i += kBlock) {
    largest = std::max(largest, block_maximum(logits.data() + i, std::min(kBlock, logits.size() - i)));
  }
  return logits[token] - log_sum_exp(logits, largest);
}

}  // namespace deftree
