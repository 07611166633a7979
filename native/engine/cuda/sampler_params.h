// What the sampling kernel takes and returns: plain records that the host packs into one block. Shared by host and
// device code.
#pragma once

#include <cstdint>

namespace deftree::sampler {

constexpr int kThreads = 512;  // of a block
constexpr int kBucketBits = 9;
constexpr int kBuckets = 1 << kBucketBits;  // of a histogram: one a thread
static_assert(kBuckets == kThreads);
constexpr int kListLen = 1024;  // candidates that a block sorts; top-p alone draws by id above it, as the CPU does
constexpr int kChunk = 512;     // tokens whose weights a warp adds up
constexpr int kMaxTeam = 16;    // blocks that share a row

// Sums of weights are integers, weight * 2^weight_bits: the same whatever the order of addition, so that atomics may
// add them and a row gives the same token beside any other rows. 62 bits hold a whole row. A weight is cut by less than
// 2^-weight_bits (2.9e-14 of the likeliest token's for 128256 tokens).
using Mass = unsigned long long;
// A token's place in the order "larger value first, then lower id": (~ascending bits of the value) << id_bits | id.
using Key = unsigned long long;

enum class JobKind : int32_t { kGreedy, kDraw, kScore };
enum class JobStatus : int32_t { kOk, kNotFinite, kRuledOut };

// What repetition penalty and logit bias do to one token; a job names a token once.
struct TokenEdit {
  int32_t token;
  int32_t is_penalized;
  float bias;
};

struct Draw {
  double uniform;  // kDraw: in [0, 1)
  int32_t token;   // kScore: the token whose logit is wanted
};

// One distribution over the tokens of one row, and the draws from it.
struct SampleJob {
  JobKind kind;
  int32_t row;
  float scale;         // 1 / temperature
  int32_t top_k;       // vocab_size: off
  float top_p;         // 1: off
  float weight_floor;  // min-p: weights are relative to the likeliest token's
  float penalty;
  int32_t edits_begin, edits_end;
  int32_t mask_begin, mask_words;  // of 64 tokens; 0 words: no mask
  int32_t draws_begin, draws_end;
  int32_t wants_sum;           // of the unprocessed distribution's weights
  int32_t top_begin, num_top;  // likeliest tokens of the unprocessed distribution, at most kListLen
};

struct ScoredToken {
  int32_t token;
  float logit;  // unprocessed
};

struct JobResult {
  Mass sum;       // of exp(logit - largest)
  float largest;  // unprocessed logit
  int32_t num_top;
  JobStatus status;
};

struct TeamScratch;

struct SampleParams {
  const float* logits;  // [num_rows, vocab_size]
  int32_t vocab_size;
  int32_t slice_len;  // tokens of a block, a multiple of kChunk
  int32_t team_size;  // blocks of a row
  int32_t weight_bits, id_bits;
  int32_t num_jobs;
  const SampleJob* jobs;
  const TokenEdit* edits;
  const uint64_t* masks;
  const Draw* draws;
  TeamScratch* scratch;  // [teams of the launch]
  JobResult* job_results;
  ScoredToken* drawn;  // [draws]
  ScoredToken* top;
};

}  // namespace deftree::sampler
