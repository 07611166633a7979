// Speculation for all branches of an engine: asks the sources, merges and sizes the draft trees of a step, and learns
// from what was drawn. It knows tokens and branches by key; rows, KV and requests are the engine's.
//
// A step: begin_step(), want() for each branch that may draft, find(), choose(); after sampling learn() for each branch
// that looked, and end_step().
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/function_ref.h"
#include "engine/command.h"
#include "engine/draft_caller.h"
#include "engine/draft_gain.h"
#include "engine/draft_source.h"
#include "engine/draft_statistics.h"
#include "engine/draft_tree.h"
#include "engine/speculation_cost.h"

namespace deftree {

// What a branch keeps between steps.
struct BranchDraft {
  int64_t looked_step = -1;  // the step in which drafts were last looked for
  int32_t proposal = -1;     // what was found then; -1: nothing
  uint32_t asked = 0;        // the sources that were asked, bits 1 << DraftSourceId
  int32_t wait = 0;          // steps until it is looked for drafts again
  int32_t failures = 0;      // looks in a row that were not worth it
  float claimed = 2, drawn = 2;  // decayed sums: how this branch's tokens bear out the probabilities, 1 to begin with
};

class Speculator {
 public:
  // A proposal of this step: row 0 is the branch's last token, the others are the chosen draft tokens, the likeliest
  // path first. One row: nothing was chosen, the branch decodes plainly.
  struct Rows {
    std::span<const int32_t> tokens, parents;
  };

  Speculator(int32_t vocab_size, StepCost cost);

  void add_source(std::unique_ptr<DraftSource> source);
  StepCost& cost() { return cost_; }
  const StepCost& cost() const { return cost_; }
  SpeculationStats stats() const;

  // Text and life of branches.
  void extend(BranchKey branch, std::span<const int32_t> tokens, int32_t len);
  void fork(BranchKey parent, BranchKey child);
  void forget(BranchKey branch);
  void observe(int32_t token, std::span<const TokenLogprob> successors);

  // What the program that owns the branches is asked for, and its answers.
  std::vector<DraftRequest> take_draft_requests() { return caller_->take_requests(); }
  void answer(const DraftCommand& command);
  // Whoever was asked for this branch before will not answer any more.
  void begin_decode(BranchKey branch) { caller_->withdraw(branch); }

  // num_rows, num_tokens: what the step does without drafts.
  void begin_step(int32_t num_rows, int32_t num_tokens);
  // The branch would like drafts: notes it when it is due to be looked for some and a source is due to be asked. `path`
  // gives the branch's tokens, for sources that do not know them all. The draft must stay where it is until end_step().
  void want(BranchDraft& draft, const SpeculationParams& params, BranchKey branch, int32_t last_token, int32_t len,
            int32_t max_depth, FunctionRef<std::vector<int32_t>()> path);
  // Asks the sources for all of these branches; draft.proposal is set where some source had a node. `cut` takes candidates
  // away that cannot come.
  void find(FunctionRef<void(BranchKey, std::vector<DraftCandidate>&)> cut);
  // Decides the proposals' sizes.
  void choose(int32_t max_drafts);
  // Gives the chosen draft up; `for_pages`: there was no room for it, which is counted.
  void drop(int32_t proposal, bool for_pages);
  Rows rows(int32_t proposal) const;
  int32_t num_proposals() const { return num_proposals_; }
  // Of this step: whether drafts were looked for, the proposal they came to (-1 for none), and whether observe() is waited
  // for.
  bool has_looked(const BranchDraft& draft) const { return draft.looked_step == step_; }
  int32_t proposal(const BranchDraft& draft) const { return has_looked(draft) ? draft.proposal : -1; }
  bool wants_successors(const BranchDraft& draft) const;
  bool wants_hidden(const SpeculationParams& params) const;
  void see_hidden(BranchKey branch, int32_t len, std::span<const float> hidden);

  // drawn: [rows] the target's token after each row; path: the accepted rows, those whose tokens count.
  void learn(int32_t proposal, std::span<const int32_t> path, std::span<const int32_t> drawn);
  // The step is over. successors_ns: spent on finding successors.
  struct StepEnd {
    bool is_decode_step;  // all its rows were decoded: its time tells what rows cost
    int32_t num_rows;
    int64_t num_tokens;
    double ns;
    double successors_ns;
  };
  void end_step(const StepEnd& end);

 private:
  // A branch that is looked for drafts in this step.
  struct Look {
    BranchDraft* draft;
    SpeculationParams params;
    DraftContext context;
  };
  struct Proposal {
    BranchDraft* branch;
    bool always;
    std::vector<DraftCandidate> candidates;  // ranked
    int32_t num_chosen;                      // leading candidates
    std::vector<int32_t> tokens, parents;    // [rows]
    std::vector<int32_t> candidate_row;      // [candidates] -1: not chosen
  };

  void ask(DraftSource& source);
  void rank(const Look& look, Proposal& proposal);
  void lay_out_rows(Proposal& proposal);
  void count_row(const DraftCandidate& candidate, bool accepted);
  enum class Outcome : uint8_t { kAccepted, kRejected, kNotWorthIt };
  int32_t longest_wait() const;
  void look_again_later(BranchDraft& draft, Outcome outcome);

  int32_t vocab_size_;
  StepCost cost_;
  DraftStatistics statistics_;
  SpeculationStats stats_;
  std::vector<std::unique_ptr<DraftSource>> sources_;
  CallerSource* caller_;  // one of them
  std::array<SourceLedger, kNumDraftSources> ledgers_;
  GainBias bias_;

  // Of the current step; kept so that a step allocates little.
  int64_t step_ = 0, verify_step_ = 0;
  int32_t num_rows_ = 0, num_tokens_ = 0;
  float least_path_probability_ = 0;
  std::vector<Look> looks_;
  uint32_t due_sources_ = 0;         // bits 1 << DraftSourceId
  std::vector<Proposal> proposals_;  // the first num_proposals_ are this step's
  int32_t num_proposals_ = 0;
  std::vector<DraftContext> contexts_;
  std::vector<std::vector<DraftNode>> trees_;
  std::vector<int32_t> asking_;                     // looks that the source at hand is asked for
  std::array<double, kNumDraftSources> source_ns_{};  // of the step
  std::array<double, kNumDraftSources> credits_{};    // accepted tokens, shared by the sources that had them
  std::optional<DraftedStep> expected_;               // of the step's drafts, where they were chosen by their gain
  std::vector<std::vector<float>> path_probabilities_;
  std::vector<int32_t> choosing_, counts_, stack_;
  double find_ns_ = 0;  // of the step
  double look_ns_ = 0;  // decayed mean of a look's time, with what its sources are told afterwards
};

}  // namespace deftree
