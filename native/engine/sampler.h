// From logits to a token, pure functions: logits processors in the order repetition penalty, logit bias, grammar mask,
// temperature, top-k, top-p, min-p (as the Hugging Face and vLLM samplers order them), then one draw.
//
// The random number of a token is a counter-based hash of (seed, branch path, position): the same seed gives the same
// tree whatever else is decoded beside it (Salmon et al., SC 2011, for counter-based generators).
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace deftree {

struct SamplingParams {
  float temperature = 0.0f;         // 0: greedy
  int32_t top_k = 0;                // 0: off
  float top_p = 1.0f;               // 1: off
  float min_p = 0.0f;               // 0: off
  float repetition_penalty = 1.0f;  // 1: off; over the tokens of the branch
  uint64_t seed = 0;
  int32_t num_logprobs = -1;        // -1: none; 0: the token's own; n: also the n likeliest
  std::vector<std::pair<int32_t, float>> logit_bias;
};

struct SampleRequest {
  int32_t logit_row;
  const SamplingParams* params;
  uint64_t path_hash;                   // of the branch: the fork ordinals from its root
  int32_t position;                     // of the token to be drawn
  std::span<const int32_t> seen;        // tokens the repetition penalty counts; empty when it is off
  std::span<const uint64_t> allowed;    // grammar mask, a bit per token; empty: all allowed
  int32_t num_successors = 0;           // likeliest tokens to report for drafts, at most 64
};

struct TokenLogprob {
  int32_t token;
  float logprob;
};

struct SampledToken {
  int32_t token = -1;
  float logprob = 0;                    // of the unprocessed distribution; NaN unless asked for
  std::vector<TokenLogprob> top;
  // The num_successors likeliest of the unprocessed distribution. Their log-probabilities are upper bounds on the CPU: the
  // normaliser counts a block of other tokens by its largest alone, which saves a sum over the vocabulary.
  std::vector<TokenLogprob> successors;
};

uint64_t fork_path_hash(uint64_t parent, uint32_t ordinal);
// In [0, 1).
double uniform_random(uint64_t seed, uint64_t path_hash, int32_t position);

// The memory of sample_token, kept between calls so that a token allocates nothing.
struct SamplerScratch {
  std::vector<float> values;     // [vocab_size] processed logits
  std::vector<float> weights;    // [vocab_size or candidates] exp((logit - max) / temperature)
  std::vector<float> block_max;  // [ceil(vocab_size / block)]
  std::vector<double> block_sum;
  std::vector<float> nth;        // block maxima in the order nth_element leaves them in
  std::vector<int32_t> order;    // candidates
  int64_t successors_ns = 0;     // spent on finding successors
};

// logits: [vocab_size], not changed. A tie goes to the lowest token id, in argmax and at the top-k boundary; top-p keeps
// the smallest set that reaches the mass. NaN logits are never drawn.
// Throws kBadModel when the largest logit is not finite, kBadArgument when the mask or the bias rules out every token or
// names one outside the vocabulary.
void sample_token(std::span<const float> logits, const SampleRequest& request, SamplerScratch& scratch,
                  SampledToken& result);
// log softmax(logits)[token].
float log_prob(std::span<const float> logits, int32_t token);

}  // namespace deftree
