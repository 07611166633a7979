// What goes into the engine and what comes out: plain data. packages/engine/src/native-addon.ts documents the same
// commands for JavaScript; the binding translates one into the other.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "attention/plan.h"
#include "common/error.h"
#include "constraint/constraint.h"
#include "engine/draft_source.h"
#include "engine/sampler.h"

namespace deftree {

// Ids are the caller's and are never used twice.
using RequestId = uint32_t;

struct CreateCommand {
  BranchKey branch;
};
struct ExtendCommand {
  RequestId request;
  BranchKey branch;
  std::vector<int32_t> tokens;
};
struct ForkCommand {
  RequestId request;
  BranchKey branch;
  std::vector<BranchKey> children;
  uint32_t first_ordinal;
};

enum class SpeculationMode : uint8_t {
  kOff,
  kAuto,    // draft where the measured step time says that it gains
  kAlways,  // verify all that the sources find, whatever it costs: for tests and for measuring acceptance
};
inline constexpr int32_t kMaxDraftTokens = 1024;  // of a draft tree

// Speculative decoding of one request: never changes its tokens, only how many of them a step gives.
struct SpeculationParams {
  SpeculationMode mode = SpeculationMode::kOff;
  int32_t max_draft_tokens = 32;  // of the branch's draft tree in one step, 1 to 1024
  uint32_t sources = kAllDraftSources;  // bits 1 << DraftSourceId
};

// The language a decode keeps to. A request is finished with kStop when its text is complete. Stop tokens come only where
// the text may end.
struct ConstraintParams {
  // Null: goes on where the branch's last decode stopped, or that of the branch it was forked from.
  std::shared_ptr<const constraint::Constraint> constraint;
  // max_tokens may cut the text, so that a later decode can go on with it. Else the text is brought to its end in time.
  bool may_stay_open = false;
};

struct DecodeCommand {
  RequestId request;
  BranchKey branch;
  int32_t max_tokens;
  std::vector<int32_t> stop_tokens;
  std::vector<std::string> stop_strings;  // bytes
  SamplingParams sampling;
  std::optional<SpeculationParams> speculation = std::nullopt;  // none: the engine's
  std::optional<ConstraintParams> constraint = std::nullopt;    // none: any text
};
struct ScoreCommand {
  RequestId request;
  BranchKey branch;
  std::vector<int32_t> tokens;
};
struct LogitsCommand {
  RequestId request;
  BranchKey branch;
};
struct TruncateCommand {
  RequestId request;
  BranchKey branch;
  int32_t len;
};
struct PruneCommand {
  BranchKey branch;
  bool keep_cached;
};
struct CancelCommand {
  RequestId request;
};
struct SetAttentionCommand {
  attention::Policy policy;
};
// The answer to a DraftRequest, in whose branch's text it begins at `len`. Whatever it holds changes no token; what is no
// draft tree is counted.
struct DraftCommand {
  BranchKey branch;
  int32_t len;
  bool has_failed = false;              // the program could not answer
  std::vector<int32_t> tokens, parents;  // parents[i] < i, -1: the text's last token
  std::vector<float> probabilities;     // of each token after its parent; empty: not known
};
// Checks the invariants between two steps; answered by a CheckResult.
struct CheckCommand {
  uint32_t ticket;
};

// The commands that wait in a branch's queue and are answered by one FinishedRequest.
using BranchCommand = std::variant<ExtendCommand, ForkCommand, DecodeCommand, ScoreCommand, LogitsCommand, TruncateCommand>;

using Command = std::variant<CreateCommand, ExtendCommand, ForkCommand, DecodeCommand, ScoreCommand, LogitsCommand,
                             TruncateCommand, PruneCommand, CancelCommand, SetAttentionCommand, DraftCommand, CheckCommand>;

// Throws kBadArgument when a command is malformed: a token outside of the vocabulary, a sampling parameter out of range.
void validate(const Command& command, int32_t vocab_size, int32_t context_len);

enum class FinishReason : uint8_t { kDone, kStop, kStopString, kLength, kContext, kPruned, kAborted, kError };

struct DecodedToken {
  RequestId request;
  int32_t token;
  float logprob;  // NaN unless asked for
};

struct FinishedRequest {
  RequestId request;
  FinishReason reason;
  int32_t branch_len = 0;
  int32_t reused_tokens = -1;  // extend only
  int32_t stop_index = -1;     // kStopString: which one
  std::vector<float> logprobs;
  std::vector<float> logits;
  std::optional<Error> error;  // kError
};

// Of a branch that decodes with the source kCaller: what may come after `tokens`? To be answered by a DraftCommand with
// their number as its length.
struct DraftRequest {
  BranchKey branch;
  std::vector<int32_t> tokens;  // the branch's whole text
  int32_t max_depth;            // tokens that may follow, at most
};

struct CheckResult {
  uint32_t ticket;
  std::optional<Error> broken;  // the first rule that does not hold
};

// Everything one step published.
struct StepMessage {
  int64_t step = 0;
  std::vector<DecodedToken> tokens;
  std::vector<std::vector<TokenLogprob>> top;  // parallel to tokens; empty when no request asked for likeliest tokens
  std::vector<FinishedRequest> finished;
  std::vector<CheckResult> checks;
  std::vector<DraftRequest> draft_requests;
  std::optional<Error> fatal;  // set once: the engine is dead

  bool empty() const { return tokens.empty() && finished.empty() && checks.empty() && draft_requests.empty() && !fatal; }
};

// Of one source. A token that several sources proposed counts for each.
struct DraftSourceStats {
  struct Rank {
    int64_t drafted_tokens = 0, accepted_tokens = 0;
  };
  std::array<Rank, kNumDraftRanks> ranks;
  int64_t ns = 0;  // finding drafts, and what the source is told for it
};

// Sums since load. A draft tree is one branch's in one step; its root, the branch's last token, does not count as drafted.
// Acceptance length = 1 + accepted_draft_tokens / draft_trees.
struct SpeculationStats {
  int64_t verify_steps = 0;  // steps with a draft tree
  int64_t draft_trees = 0, drafted_tokens = 0, accepted_draft_tokens = 0;
  int64_t dropped_drafts = 0;  // for want of pages: decoded plainly
  int64_t refused_drafts = 0;  // a source threw, or gave no tree
  int64_t late_drafts = 0;     // a caller's draft came when the text had gone another way
  std::array<DraftSourceStats, kNumDraftSources> sources;  // by DraftSourceId
};

// Sums since load.
struct EngineStats {
  int64_t steps = 0, decoded_tokens = 0, prefilled_tokens = 0, reused_tokens = 0;
  int64_t kv_bytes_read = 0, kv_bytes_unshared = 0, mask_bytes = 0, partial_bytes = 0, work_items = 0;
  int64_t linear_ns = 0, attention_ns = 0, sampling_ns = 0, other_forward_ns = 0;
  // A step's stages; overhead is all of them but forward and sample.
  int64_t take_ns = 0, schedule_ns = 0, snapshot_ns = 0, plan_ns = 0, forward_ns = 0, commit_ns = 0, sample_ns = 0,
          publish_ns = 0;
  int64_t drafting_ns = 0;  // finding and sizing drafts; part of overhead
  SpeculationStats speculation;
  int64_t overhead_ns = 0, step_ns = 0;
  int32_t num_pages = 0, num_free_pages = 0, num_cached_pages = 0, num_nodes = 0, num_branches = 0;
  int64_t tokens_in_forest = 0;
  int32_t num_paused_branches = 0;
};

}  // namespace deftree
