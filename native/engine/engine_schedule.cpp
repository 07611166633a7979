// The schedule stage: which rows run in this step, within the token and page budgets.
#include <algorithm>
#include <string>

#include "engine/engine.h"
#include "engine/schedule.h"

namespace deftree {

void Engine::schedule() {
  enter(kSchedule);
  reuse_what_siblings_wrote();
  gather_candidates();

  const size_t num_decoding = decoding_.size();
  const int32_t rows = decode_rows(options_.max_step_tokens, static_cast<int32_t>(num_decoding),
                                   static_cast<int32_t>(prefilling_.size()));
  // When not all fit, the next step goes on where this one ends.
  const size_t first = static_cast<size_t>(rows) < num_decoding ? next_decoding_ % num_decoding : 0;
  next_decoding_ = first + rows;
  draft(first, rows);
  for (int32_t i = 0; i < rows; ++i) add_work(decoding_[(first + i) % num_decoding]);

  grant_pages();
  prefill_wanted_.clear();
  for (const Candidate& prefill : prefilling_) prefill_wanted_.push_back(prefill.num_fresh);
  prefill_given_.resize(prefill_wanted_.size());
  share_prefill_rows(options_.max_step_tokens - num_step_rows(), prefill_wanted_, prefill_given_);
  for (size_t i = 0; i < prefilling_.size(); ++i) {
    if (prefill_given_[i] > 0) add_work({prefilling_[i].branch, prefilling_[i].owner, prefill_given_[i]});
  }

  for (Follower& follower : followers_) {
    if (follower.leader->step_work < 0) continue;
    const auto begin = follower.branch->pending.begin(), leader_begin = follower.leader->pending.begin();
    const int32_t written = works_[follower.leader->step_work].num_fresh;
    const int32_t most = std::min(written, static_cast<int32_t>(follower.branch->pending.size()));
    follower.num_shared = static_cast<int32_t>(std::mismatch(begin, begin + most, leader_begin).first - begin);
  }
  if (works_.empty() && !paused_.empty()) fail_starved_request();
}

// Since a branch's last look, another one may have written what it has yet to write.
void Engine::reuse_what_siblings_wrote() {
  for (size_t i = 0; i < active_.size(); ++i) {
    EngineBranch& branch = *active_[i];
    if (!branch.may_share || branch.pending.empty()) continue;
    attach(branch);
    if (branch.pending.empty() && running<ExtendCommand>(branch)) finish(branch, FinishReason::kDone);
  }
  start_ready();
}

void Engine::gather_candidates() {
  decoding_.clear();
  prefilling_.clear();
  leaders_.clear();
  followers_.clear();
  std::erase_if(active_, [](EngineBranch* branch) { return !(branch->active = is_running(*branch)); });
  for (EngineBranch* branch : active_) {
    branch->step_work = -1;
    const int32_t num_pending = static_cast<int32_t>(branch->pending.size());
    if (running<ScoreCommand>(*branch)) {
      Request& request = branch->queue.front();
      if (request.needs_tip) decoding_.push_back({branch, branch, 0});
      EngineBranch* continuation = request.continuation.get();
      if (continuation && !continuation->pending.empty()) {
        continuation->step_work = -1;
        prefilling_.push_back({continuation, branch, static_cast<int32_t>(continuation->pending.size())});
      }
    } else if (num_pending > 0 && branch->may_share && follows(*branch)) {
      continue;
    } else if (num_pending <= 1 && !running<ExtendCommand>(*branch)) {
      decoding_.push_back({branch, branch, num_pending});
    } else {
      prefilling_.push_back({branch, branch, num_pending});
    }
  }
}

// True when a branch with the same tokens so far, already gathered, is to write the same next token: its rows serve
// both, so many identical prompts are computed once. Otherwise this branch may lead others.
bool Engine::follows(EngineBranch& branch) {
  // Here every branch must have its own copy of the KV.
  if (policy_ == attention::Policy::kFlashDecoding) return false;
  for (EngineBranch* leader : leaders_) {
    if (leader->content_hash != branch.content_hash || leader->pending[0] != branch.pending[0]) continue;
    followers_.push_back({&branch, leader, 0});
    return true;
  }
  leaders_.push_back(&branch);
  return false;
}

// Lets a prefill begin only when the pages of all its tokens are there, beside those promised to others: two long
// prompts that do not fit together run one after the other instead of getting stuck half-way.
void Engine::grant_pages() {
  if (prefilling_.empty()) return;
  const CacheStats stats = cache_.stats();
  int64_t unpromised = stats.num_free_pages + stats.num_cached_pages;
  const auto wanted = [&](const Candidate& c) { return cache_.pages_wanted(c.branch->cache_id, c.num_fresh); };
  for (const Candidate& prefill : prefilling_) {
    if (prefill.owner->queue.front().has_page_grant) unpromised -= wanted(prefill);
  }
  std::erase_if(prefilling_, [&](const Candidate& prefill) {
    Request& request = prefill.owner->queue.front();
    if (request.has_page_grant) return false;
    const int32_t pages = wanted(prefill);
    if (pages > unpromised) {
      paused_.push_back(prefill.owner);
      return true;
    }
    request.has_page_grant = true;
    unpromised -= pages;
    return false;
  });
}

int32_t Engine::num_step_rows() const {
  int32_t rows = 0;
  for (const RowWork& work : works_) rows += work.num_rows();
  return rows;
}

void Engine::add_work(const Candidate& candidate) {
  EngineBranch& branch = *candidate.branch;
  RowWork work = {&branch, candidate.owner, candidate.num_fresh};
  try {
    if (policy_ == attention::Policy::kFlashDecoding) {
      const std::vector<SlotCopy> copies = cache_.make_private(branch.cache_id);
      if (!copies.empty()) backend_->copy_slots(copies);
    }
    if (append_draft(branch)) {
      work.proposal = speculator_.proposal(branch.draft);
      work.num_fresh = cache_.num_fresh(branch.cache_id);
    } else if (candidate.num_fresh > 0) {
      cache_.append(branch.cache_id, std::span(branch.pending).first(candidate.num_fresh));
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kKvFull) throw;
    paused_.push_back(candidate.owner);
    return;
  }
  branch.step_work = static_cast<int32_t>(works_.size());
  works_.push_back(work);
}

// Every branch that wants to run is paused: the youngest request gives up.
void Engine::fail_starved_request() {
  EngineBranch* owner = *std::max_element(paused_.begin(), paused_.end(), [](EngineBranch* a, EngineBranch* b) {
    return a->queue.front().age < b->queue.front().age;
  });
  const Request& request = owner->queue.front();
  const EngineBranch& branch = request.continuation ? *request.continuation : *owner;
  const CacheStats stats = cache_.stats();
  const size_t wanted = std::max<size_t>(1, branch.pending.size());
  const int64_t free = int64_t{stats.num_free_pages + stats.num_cached_pages} * cache_.page_size();
  fail_front(*owner, Error(ErrorCode::kKvFull,
                           "the KV pages are full: " + std::to_string(wanted) + " tokens wanted, " +
                               std::to_string(free) + " free of " +
                               std::to_string(int64_t{stats.num_pages} * cache_.page_size()) +
                               ", and no running branch can free any; prune branches or load with more kvTokens",
                           {{"wanted_tokens", static_cast<double>(wanted)},
                            {"free_tokens", static_cast<double>(free)},
                            {"total_tokens", static_cast<double>(stats.num_pages) * cache_.page_size()}}));
  start_ready();
}

}  // namespace deftree
