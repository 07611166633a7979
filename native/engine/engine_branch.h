// A branch as the engine sees it: its place in the cache, the tokens that are not there yet, and its queue of requests.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "cache/tree_cache.h"
#include "engine/command.h"
#include "engine/speculator.h"
#include "engine/stop_matcher.h"

namespace deftree {

struct EngineBranch;

// Where a branch stands in the text of its last constrained decode. Dropped when tokens come by another way.
struct BranchConstraint {
  std::shared_ptr<const constraint::Constraint> constraint;
  constraint::ConstraintState state;
};

// A command of a branch's queue with its progress.
struct Request {
  RequestId id = 0;
  BranchCommand command;
  uint64_t age = 0;  // order of arrival: when pages run out, the youngest request fails first
  bool started = false;
  bool has_page_grant = false;  // a prefill that was let in: the pages of all its tokens are set aside
  int32_t base_len = 0;         // the branch's length when the request started

  // extend
  int32_t tail_len = 0;  // pending tokens that were on the branch before (also score)
  int32_t reused = 0;

  // decode
  int32_t num_decoded = 0;
  StopMatcher stop_matcher;
  std::vector<int32_t> seen;  // tokens of the branch, kept only for the repetition penalty
  SpeculationParams speculation;

  // score: the tail and all tokens but the last run on a hidden fork; token i's log-probability comes from the row
  // before it, token 0's without a tail from a tip query of the branch itself.
  std::unique_ptr<EngineBranch> continuation;
  std::vector<float> logprobs;
  int32_t num_scored = 0;
  int32_t num_run = 0;     // tokens of the continuation that have been run
  bool needs_tip = false;
};

// The path of a branch is `written` tokens in the cache, then `pending` ones. A decoded token is pending until the next
// request of the branch needs its KV: the last token of a decode costs no step, and a fork copies it to the children.
struct EngineBranch {
  BranchKey key = 0;
  bool born = false;  // false for a child whose fork still waits in the parent's queue
  BranchId cache_id = -1;
  uint64_t path_hash = 0;
  int32_t written = 0;
  std::vector<int32_t> pending;
  uint64_t content_hash = 0;   // of the written tokens
  bool may_share = false;      // another branch may be about to write the same tokens: look before writing
  int64_t logit_step = -1;     // the step whose logits row `logit_row` belongs to this branch's last token
  int32_t logit_row = -1;
  std::list<Request> queue;    // the front one is running
  bool active = false;         // in Engine's list of branches with a started request
  int32_t step_work = -1;      // its place among the current step's works
  BranchDraft draft;
  std::optional<BranchConstraint> constraint;

  int32_t len() const { return written + static_cast<int32_t>(pending.size()); }
};

inline bool is_running(const EngineBranch& branch) { return !branch.queue.empty() && branch.queue.front().started; }

// The running command if it is a C, else null.
template <class C>
const C* running(const EngineBranch& branch) {
  return is_running(branch) ? std::get_if<C>(&branch.queue.front().command) : nullptr;
}

inline uint64_t extend_content_hash(uint64_t hash, int32_t token) {
  hash = (hash + static_cast<uint32_t>(token) + 1) * 0x9e3779b97f4a7c15ULL;
  return hash ^ (hash >> 32);
}

}  // namespace deftree
