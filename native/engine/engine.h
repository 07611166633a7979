// The engine: one model, one forest, and the step that decodes all live branches at once.
//
// Engine is single-threaded and driven by step(); EngineThread (engine_thread.h) gives it a thread and a queue. Tests
// drive it step by step with a scripted Backend.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "attention/plan.h"
#include "cache/tree_cache.h"
#include "engine/backend.h"
#include "engine/command.h"
#include "engine/engine_branch.h"
#include "engine/speculation.h"
#include "engine/speculator.h"

namespace deftree {

struct EngineOptions {
  int32_t num_pages = 0, page_size = 16;
  int32_t num_layers = 1;
  int32_t vocab_size = 0, context_len = 0;
  int32_t max_step_tokens = 256;
  attention::Policy policy = attention::Policy::kDeftFlatten;
  SpeculationParams speculation;  // of decode commands that name none
  // What steps cost on this device, measured before. Empty: measured at load when `speculation` is on, else at the first
  // command that turns it on.
  std::vector<StepCostPoint> step_cost;
  // Bytes of token i: token_bytes[token_offsets[i] .. token_offsets[i + 1]). Empty: stop strings never match.
  std::string token_bytes;
  std::vector<uint32_t> token_offsets;
  // Check the cache's and the engine's invariants after each step: debug builds and tests.
#ifdef NDEBUG
  bool check_each_step = false;
#else
  bool check_each_step = true;
#endif
};

// What a step left to do.
enum class StepOutcome : uint8_t {
  kIdle,      // nothing until a command comes
  kMore,      // step again at once
  kStarved,   // a request failed for want of pages; others want some too, a command may free them
  kStopped,   // `cancel` turned true in a forward pass
};

class Engine {
 public:
  // `cancel` ends a forward pass early; it turns true only when the engine is about to be destroyed.
  Engine(EngineOptions options, std::unique_ptr<Backend> backend, const std::atomic<bool>& cancel);
  ~Engine();

  // One step over all branches with work: consumes the commands in order and adds what they and the step answered to
  // `message`. Throws nothing: what goes wrong is in the message.
  StepOutcome step(std::span<Command> commands, StepMessage& message);

  // Fails every open request and those of `late` with `error`. The last call before destruction.
  void shut_down(std::span<Command> late, const Error& error, StepMessage& message);

  EngineStats stats() const;
  // For further draft sources, and to keep its measured step cost.
  Speculator& speculator() { return speculator_; }
  const Backend& backend() const { return *backend_; }
  // The cache's rules and the engine's own: a branch per cache branch, no fresh tokens between steps, content hashes
  // and lengths that agree with the cache. Throws kInternal.
  void check_invariants() const;

 private:
  // A branch's rows in this step.
  struct RowWork {
    EngineBranch* branch;  // whose path is run
    EngineBranch* owner;   // whose front request wants it: `branch`, or for a score the branch that is scored
    int32_t num_fresh;     // 0: a tip query
    int32_t proposal = -1;  // its fresh tokens are the rows of this draft tree; -1: they are a chain
    int32_t num_rows() const { return num_fresh > 0 ? num_fresh : 1; }
    bool is_continuation() const { return branch != owner; }
    bool is_draft() const { return proposal >= 0; }
  };
  // A branch that wants rows.
  struct Candidate {
    EngineBranch* branch;
    EngineBranch* owner;
    int32_t num_fresh;
  };
  // A branch whose next tokens another one is just writing: it waits, and then shares them.
  struct Follower {
    EngineBranch* branch;
    EngineBranch* leader;
    int32_t num_shared;  // leading pending tokens that the leader writes in this step
  };
  // A branch whose next token is drawn in this step: from one row, or from each row of its draft tree.
  struct Drawing {
    EngineBranch* branch;
    int32_t first_request, num_rows;
    int32_t proposal;  // of a draft tree with several rows; -1
  };
  enum Stage { kTake, kSchedule, kDraft, kSnapshot, kPlan, kForward, kCommit, kSample, kPublish, kNumStages };

  // The stages of step(), in their order; schedule in engine_schedule.cpp, score and sample in engine_sample.cpp, the
  // others in engine.cpp.
  void take(std::span<Command> commands);
  void schedule();
  void snapshot();
  void plan();
  bool append_to_plan();
  void forward();
  void commit();
  void score();
  void sample();
  StepOutcome publish();

  void fill_batch();
  void reuse_what_siblings_wrote();
  void gather_candidates();
  bool follows(EngineBranch& branch);
  void grant_pages();
  void add_work(const Candidate& candidate);
  int32_t num_step_rows() const;
  void fail_starved_request();
  void answer_logits();
  void draw_tokens();
  void request_draws();
  void draw_each();
  void deliver(const Drawing& drawing);
  // engine_constrain.cpp: where a text stands. start_constraint and advance_constraint are false when they ended the
  // request.
  bool start_constraint(EngineBranch& branch, const DecodeCommand& command);
  // The mask of a row whose text stands at `state`, with the token to be drawn as the first of `num_left`; it is held until
  // the next step. Throws kBadArgument.
  std::span<const uint64_t> allowed_tokens(const EngineBranch& branch, const constraint::ConstraintState& state,
                                           int32_t num_left);
  int32_t num_tokens_left(const EngineBranch& branch) const;
  bool advance_constraint(EngineBranch& branch, int32_t token);
  // Publishes the token; false when it ended the request.
  bool accept_token(EngineBranch& branch, const SampledToken& sampled);
  void handle_failure(const Error& error);
  void die(const Error& error);
  void enter(Stage stage);

  // engine_speculate.cpp: draft trees from the proposal to the accepted path.
  void draft(size_t first, int32_t num_decoding);
  void want_draft(EngineBranch& branch);
  void keep_to_constraint(const EngineBranch& branch, std::vector<DraftCandidate>& candidates) const;
  void drop_drafts_without_pages(size_t first, int32_t num_decoding);
  bool append_draft(EngineBranch& branch);
  void request_draft_draws();
  std::optional<constraint::ConstraintState> draft_state(
      const EngineBranch& branch, const Speculator::Rows& rows, int32_t row,
      std::span<const std::optional<constraint::ConstraintState>> states) const;
  int32_t num_successors(const EngineBranch& branch) const;
  void show_hidden(const EngineBranch& branch, int32_t logit_row);
  void deliver_draft(const Drawing& drawing);
  void learn_from(const Drawing& drawing, std::span<const int32_t> path);
  void measure_step_cost();
  double time_rows(BranchId scratch, int32_t num_rows);
  void end_draft_step();

  // engine_requests.cpp: what a command does, and the life of branches and requests.
  void apply(Command& command);
  void enqueue(BranchKey key, RequestId id, BranchCommand command);
  void start_ready();
  void start(EngineBranch& branch, Request& request);
  void start_extend(EngineBranch& branch, const ExtendCommand& command);
  void run_fork(EngineBranch& branch, const ForkCommand& command);
  void start_decode(EngineBranch& branch, Request& request, const DecodeCommand& command);
  void start_score(EngineBranch& branch, Request& request, const ScoreCommand& command);
  void run_truncate(EngineBranch& branch, const TruncateCommand& command);
  FinishedRequest& finish(EngineBranch& branch, FinishReason reason);
  void fail_front(EngineBranch& branch, const Error& error);
  FinishedRequest& answer(RequestId id, FinishReason reason, int32_t branch_len);
  void cancel_request(RequestId id);
  void fail_open_requests(const Error& error);
  void prune(BranchKey key, bool keep_cached);
  void shorten(EngineBranch& branch, int32_t len);
  void attach(EngineBranch& branch);
  void mark_written(EngineBranch& branch, int32_t num_tokens, bool reused);
  EngineBranch* find(BranchKey key);
  EngineBranch& add_branch(BranchKey key);

  EngineOptions options_;
  std::unique_ptr<Backend> backend_;
  const std::atomic<bool>& cancel_;
  TreeCache cache_;
  attention::Policy policy_;
  Speculator speculator_;

  std::unordered_map<BranchKey, std::unique_ptr<EngineBranch>> branches_;
  std::vector<EngineBranch*> active_;  // with a started request, in order of start
  std::vector<EngineBranch*> ready_;   // whose front request may be started
  uint64_t next_age_ = 0;
  std::unique_ptr<Error> fatal_;

  // Of the current step; members so that a step allocates nothing.
  int64_t step_ = 0;
  std::vector<Candidate> decoding_, prefilling_;
  std::vector<int32_t> prefill_wanted_, prefill_given_;
  std::vector<EngineBranch*> leaders_;
  std::vector<Follower> followers_;
  std::vector<EngineBranch*> paused_;
  std::vector<RowWork> works_;
  size_t next_decoding_ = 0;  // where the decode rows of the next step begin when not all fit
  std::vector<StepBranch> step_branches_;
  StepSnapshot snapshot_;
  StepBatch batch_;
  std::vector<int32_t> logit_index_;  // [num_queries] place in batch_.logit_rows, -1 for none
  attention::Plan plan_;
  TreeSnapshot planned_tree_;  // of the last step, while its plan may be appended to
  bool has_planned_tree_ = false;
  std::vector<attention::AppendedToken> appended_;
  std::vector<Drawing> drawings_;
  std::vector<SampleRequest> sample_requests_;
  std::vector<SampledToken> sample_results_;
  std::vector<std::optional<Error>> sample_errors_;  // of single draws, after the step's one call has failed
  std::vector<std::shared_ptr<const constraint::TokenMask>> held_masks_;
  std::deque<std::vector<uint64_t>> masks_with_stops_;  // the first num_masks_with_stops_ are this step's
  size_t num_masks_with_stops_ = 0;
  std::vector<int32_t> draft_seen_;                  // the penalised tokens of draft rows, one list after another
  std::vector<int32_t> drawn_;
  Verified verified_;
  std::vector<SlotCopy> copies_;
  std::vector<std::pair<size_t, Error>> mask_errors_;  // of draft rows: failures of those rows alone
  bool is_cost_measured_ = false;
  std::vector<int32_t> score_rows_, score_tokens_;
  std::vector<float> score_results_;
  StepMessage* message_ = nullptr;

  EngineStats stats_;
  Stage stage_ = kTake;
  int64_t stage_start_ns_ = 0, step_start_ns_ = 0;
  int64_t tokens_before_step_ = 0, successors_ns_ = 0;  // as of the step's start
  std::array<int64_t, kNumStages> stage_ns_{};
};

}  // namespace deftree
