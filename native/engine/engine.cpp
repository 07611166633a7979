#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <new>
#include <string>
#include <utility>

namespace deftree {
namespace {

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Engine::Engine(EngineOptions options, std::unique_ptr<Backend> backend, const std::atomic<bool>& cancel)
    : options_(std::move(options)),
      backend_(std::move(backend)),
      cancel_(cancel),
      cache_({options_.num_pages, options_.page_size}),
      policy_(options_.policy),
      speculator_(options_.vocab_size, StepCost(options_.step_cost)) {
  if (options_.speculation.mode == SpeculationMode::kAuto) measure_step_cost();
}

Engine::~Engine() = default;

StepOutcome Engine::step(std::span<Command> commands, StepMessage& message) {
  message_ = &message;
  stage_start_ns_ = step_start_ns_ = now_ns();
  tokens_before_step_ = stats_.decoded_tokens;
  ++step_;
  works_.clear();
  paused_.clear();
  try {
    take(commands);
    if (!fatal_) schedule();
    if (!works_.empty()) {
      snapshot();
      plan();
      forward();
      commit();
      score();
      sample();
    }
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kAborted && cancel_) return StepOutcome::kStopped;
    handle_failure(error);
  } catch (const std::bad_alloc&) {
    die(Error(ErrorCode::kOutOfMemory, "the engine ran out of memory in a step"));
  } catch (const std::exception& error) {
    die(Error(ErrorCode::kInternal, std::string("unexpected failure in a step: ") + error.what()));
  }
  return publish();
}

void Engine::enter(Stage stage) {
  const int64_t now = now_ns();
  stage_ns_[stage_] += now - stage_start_ns_;
  stage_start_ns_ = now;
  stage_ = stage;
}

void Engine::take(std::span<Command> commands) {
  stage_ = kTake;
  for (Command& command : commands) apply(command);
}

void Engine::snapshot() {
  enter(kSnapshot);
  step_branches_.clear();
  for (const RowWork& work : works_) step_branches_.push_back({work.branch->cache_id, work.num_fresh});
  cache_.snapshot(step_branches_, snapshot_);
  fill_batch();

  // Logits are wanted of the last row of a branch that has no more tokens to write, and of every row of a score and of a
  // draft tree.
  constexpr int32_t kWanted = 0;
  const size_t num_queries = snapshot_.queries.size();
  logit_index_.assign(num_queries, -1);
  for (size_t i = 0; i < works_.size(); ++i) {
    const RowWork& work = works_[i];
    const int32_t first = snapshot_.first_query[i], last = first + work.num_rows() - 1;
    const bool writes_all = work.num_fresh == static_cast<int32_t>(work.branch->pending.size());
    if (work.is_continuation() || work.is_draft()) {
      std::fill(logit_index_.begin() + first, logit_index_.begin() + last + 1, kWanted);
    } else if (writes_all) {
      logit_index_[last] = kWanted;
    }
  }
  for (const Follower& follower : followers_) {
    if (follower.num_shared == 0 || follower.num_shared < static_cast<int32_t>(follower.branch->pending.size())) continue;
    logit_index_[snapshot_.first_query[follower.leader->step_work] + follower.num_shared - 1] = kWanted;
  }
  batch_.logit_rows.clear();
  for (size_t row = 0; row < num_queries; ++row) {
    if (logit_index_[row] < 0) continue;
    logit_index_[row] = static_cast<int32_t>(batch_.logit_rows.size());
    batch_.logit_rows.push_back(static_cast<int32_t>(row));
  }
}

void Engine::fill_batch() {
  const size_t num_queries = snapshot_.queries.size();
  batch_.tokens.resize(num_queries);
  batch_.positions.resize(num_queries);
  batch_.slots.resize(num_queries);
  for (size_t row = 0; row < num_queries; ++row) {
    const SnapshotQuery& query = snapshot_.queries[row];
    batch_.tokens[row] = query.token;
    batch_.positions[row] = query.position;
    batch_.slots[row] = query.slot;
  }
}

void Engine::plan() {
  enter(kPlan);
  const attention::AttentionShape shape = backend_->attention_shape();
  if (!append_to_plan()) attention::make_plan(snapshot_.tree, policy_, shape, backend_->plan_device(), plan_);

  const attention::PlanCounters& counters = plan_.counters;
  const int64_t token_bytes = static_cast<int64_t>(backend_->info().kv_bytes_per_token);
  stats_.kv_bytes_read += counters.kv_tokens_read * token_bytes;
  stats_.kv_bytes_unshared += counters.kv_tokens_unshared * token_bytes;
  stats_.mask_bytes += counters.mask_bytes * options_.num_layers;
  const int64_t state_bytes = static_cast<int64_t>(sizeof(float)) * (shape.head_dim + 1);
  stats_.partial_bytes += counters.partial_states * state_bytes * options_.num_layers;
  stats_.work_items += counters.num_items;
}

// A step that only appends keeps the plan of the step before, where the backend can.
bool Engine::append_to_plan() {
  const bool may_append = std::exchange(has_planned_tree_, false) && plan_.policy == policy_;
  if (!may_append || !attention::find_appended_tokens(planned_tree_, snapshot_.tree, appended_)) return false;
  const std::optional<int64_t> more = backend_->append_to_plan(appended_);
  if (!more) return false;
  plan_.counters.kv_tokens_read += *more;
  plan_.counters.kv_tokens_unshared += static_cast<int64_t>(appended_.size());  // each query sees one key more
  return true;
}

void Engine::forward() {
  enter(kForward);
  backend_->forward(batch_, plan_, cancel_);
  ++stats_.steps;
}

void Engine::commit() {
  enter(kCommit);
  if (backend_->can_append_to_plan()) {
    std::swap(planned_tree_, snapshot_.tree);  // nothing of this step reads the tree any more
    has_planned_tree_ = true;
  }
  for (size_t i = 0; i < works_.size(); ++i) {
    EngineBranch& branch = *works_[i].branch;
    if (works_[i].is_draft()) continue;  // until it is known which of its tokens stay
    if (works_[i].num_fresh > 0) {
      cache_.commit(branch.cache_id);
      mark_written(branch, works_[i].num_fresh, false);
    }
    if (!branch.pending.empty() || works_[i].is_continuation()) continue;
    branch.logit_step = step_;
    branch.logit_row = logit_index_[snapshot_.first_query[i] + works_[i].num_rows() - 1];
  }
  for (const Follower& follower : followers_) {
    if (follower.num_shared == 0) continue;
    EngineBranch& branch = *follower.branch;
    const int32_t written = branch.written;
    attach(branch);
    if (branch.written - written < follower.num_shared) {
      // The leader's tokens lie on another path with equal text; this branch must write its own.
      branch.may_share = false;
    } else if (branch.pending.empty() && branch.written - written == follower.num_shared) {
      branch.logit_step = step_;
      branch.logit_row =
          logit_index_[snapshot_.first_query[follower.leader->step_work] + follower.num_shared - 1];
    }
  }
  const auto finish_extend = [&](EngineBranch& branch) {
    if (branch.pending.empty() && running<ExtendCommand>(branch)) finish(branch, FinishReason::kDone);
  };
  for (const RowWork& work : works_) finish_extend(*work.branch);
  for (const Follower& follower : followers_) finish_extend(*follower.branch);
  start_ready();
}

StepOutcome Engine::publish() {
  enter(kPublish);
  if (options_.check_each_step && !fatal_) {
    try {
      check_invariants();
    } catch (const Error& error) {
      die(error);
    }
  }
  stats_.num_paused_branches = static_cast<int32_t>(paused_.size());
  if (!message_->top.empty()) message_->top.resize(message_->tokens.size());
  message_->step = step_;
  std::ranges::move(speculator_.take_draft_requests(), std::back_inserter(message_->draft_requests));
  const bool starved = works_.empty() && !paused_.empty();
  enter(kTake);
  if (std::ranges::none_of(active_, [](const EngineBranch* branch) { return is_running(*branch); })) {
    return StepOutcome::kIdle;
  }
  return starved ? StepOutcome::kStarved : StepOutcome::kMore;
}

// A forward pass that failed for its input or for memory fails the requests in it; anything else is the engine's end.
void Engine::handle_failure(const Error& error) {
  const bool device_lost = error.code() == ErrorCode::kDevice || error.code() == ErrorCode::kInternal;
  if (stage_ != kForward || device_lost) return die(error);
  for (const RowWork& work : works_) {
    if (work.num_fresh > 0) cache_.rollback(work.branch->cache_id);
  }
  std::vector<EngineBranch*> owners;
  for (const RowWork& work : works_) owners.push_back(work.owner);
  std::ranges::sort(owners);
  owners.erase(std::unique(owners.begin(), owners.end()), owners.end());
  for (EngineBranch* owner : owners) fail_front(*owner, error);
  start_ready();
}

void Engine::die(const Error& error) {
  if (fatal_) return;
  message_->fatal = error;
  fail_open_requests(error);
}

EngineStats Engine::stats() const {
  EngineStats stats = stats_;
  const BackendTimes times = backend_->times();
  stats.linear_ns = times.linear_ns;
  stats.attention_ns = times.attention_ns;
  stats.sampling_ns = times.sampling_ns;
  stats.other_forward_ns = times.other_ns;
  stats.take_ns = stage_ns_[kTake];
  stats.schedule_ns = stage_ns_[kSchedule];
  stats.snapshot_ns = stage_ns_[kSnapshot];
  stats.plan_ns = stage_ns_[kPlan];
  stats.forward_ns = stage_ns_[kForward];
  stats.commit_ns = stage_ns_[kCommit];
  stats.sample_ns = stage_ns_[kSample];
  stats.publish_ns = stage_ns_[kPublish];
  stats.drafting_ns = stats_.drafting_ns + stage_ns_[kDraft];
  stats.speculation = speculator_.stats();
  for (int64_t ns : stage_ns_) stats.step_ns += ns;
  stats.overhead_ns = stats.step_ns - stats.forward_ns - stats.sample_ns;
  const CacheStats cache = cache_.stats();
  stats.num_pages = cache.num_pages;
  stats.num_free_pages = cache.num_free_pages;
  stats.num_cached_pages = cache.num_cached_pages;
  stats.num_nodes = cache.num_nodes;
  stats.num_branches = cache.num_branches;
  stats.tokens_in_forest = cache.num_tokens;
  return stats;
}

void Engine::check_invariants() const {
  cache_.check_invariants();
  int32_t num_cache_branches = 0;
  for (const auto& [key, owner] : branches_) {
    const EngineBranch& branch = *owner;
    ensure(branch.key == key, "a branch is stored under its key");
    if (!branch.born) {
      ensure(branch.len() == 0 && !is_running(branch), "an unborn branch has no tokens and runs nothing");
      continue;
    }
    ++num_cache_branches;
    ensure(cache_.length(branch.cache_id) == branch.written, "a branch's written tokens are those in the cache");
    ensure(cache_.num_fresh(branch.cache_id) == 0, "no token is fresh between two steps");
    ensure(branch.len() <= options_.context_len, "a branch fits the context");
    uint64_t hash = 0;
    for (int32_t token : cache_.tokens(branch.cache_id)) hash = extend_content_hash(hash, token);
    ensure(hash == branch.content_hash, "a branch's content hash is that of its tokens");
    ensure(!is_running(branch) || branch.active, "a running branch is active");
    ensure(branch.active == (std::ranges::find(active_, &branch) != active_.end()), "the active list holds the active");
    if (is_running(branch) && branch.queue.front().continuation) ++num_cache_branches;
  }
  ensure(cache_.stats().num_branches == num_cache_branches, "every branch of the cache belongs to a branch or a score");
}

}  // namespace deftree
