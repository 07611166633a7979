#include "engine/engine.h"

#include <algorithm>
#include <chrono>
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
      policy_(options_.policy) {}

Engine::~Engine() = default;

StepOutcome Engine::step(std::span<Command> commands, StepMessage& message) {
  message_ = &message;
  stage_start_ns_ = now_ns();
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

  // Logits are wanted of the last row of a branch that has no more tokens to write, and of every row of a score.
  constexpr int32_t kWanted = 0;
  logit_index_.assign(num_queries, -1);
  for (size_t i = 0; i < works_.size(); ++i) {
    const RowWork& work = works_[i];
    const int32_t first = snapshot_.first_query[i], last = first + work.num_rows() - 1;
    const bool writes_all = work.num_fresh == static_cast<int32_t>(work.branch->pending.size());
    if (work.is_continuation()) {
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

void Engine::plan() {
  enter(kPlan);
  const attention::AttentionShape shape = backend_->attention_shape();
  attention::make_plan(snapshot_.tree, policy_, shape, backend_->plan_device(), plan_);

  const attention::PlanCounters& counters = plan_.counters;
  const int64_t token_bytes = static_cast<int64_t>(backend_->info().kv_bytes_per_token);
  stats_.kv_bytes_read += counters.kv_tokens_read * token_bytes;
  stats_.kv_bytes_unshared += counters.kv_tokens_unshared * token_bytes;
  stats_.mask_bytes += counters.mask_bytes * options_.num_layers;
  const int64_t state_bytes = static_cast<int64_t>(sizeof(float)) * (shape.head_dim + 1);
  stats_.partial_bytes += counters.partial_states * state_bytes * options_.num_layers;
  stats_.work_items += counters.num_items;
}

void Engine::forward() {
  enter(kForward);
  backend_->forward(batch_, plan_, cancel_);
  ++stats_.steps;
}

void Engine::commit() {
  enter(kCommit);
  for (size_t i = 0; i < works_.size(); ++i) {
    EngineBranch& branch = *works_[i].branch;
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

void Engine::score() {
  enter(kSample);
  // Calls body(request, command, token index, logits row) for each token whose log-probability this step can tell: token
  // 0 from the branch's own last row, the others from the rows of the continuation.
  const auto for_each_scored = [&](auto&& body) {
    for (EngineBranch* branch : active_) {
      const ScoreCommand* command = running<ScoreCommand>(*branch);
      if (command && branch->queue.front().needs_tip && branch->logit_step == step_) {
        body(branch->queue.front(), *command, 0, branch->logit_row);
      }
    }
    for (size_t i = 0; i < works_.size(); ++i) {
      if (!works_[i].is_continuation()) continue;
      Request& request = works_[i].owner->queue.front();
      const ScoreCommand& command = std::get<ScoreCommand>(request.command);
      for (int32_t row = 0; row < works_[i].num_rows(); ++row) {
        const int32_t token = request.num_run + row - request.tail_len + 1;
        if (token >= 0) body(request, command, token, logit_index_[snapshot_.first_query[i] + row]);
      }
    }
  };
  score_rows_.clear();
  score_tokens_.clear();
  for_each_scored([&](Request&, const ScoreCommand& command, int32_t token, int32_t logit_row) {
    score_rows_.push_back(logit_row);
    score_tokens_.push_back(command.tokens[token]);
  });
  if (score_rows_.empty()) return;
  score_results_.resize(score_rows_.size());
  backend_->log_probs(score_rows_, score_tokens_, score_results_);

  size_t next = 0;
  for_each_scored([&](Request& request, const ScoreCommand&, int32_t token, int32_t) {
    request.logprobs[token] = score_results_[next++];
    ++request.num_scored;
  });
  for (const RowWork& work : works_) {
    if (work.is_continuation()) work.owner->queue.front().num_run += work.num_fresh;
  }
  for (EngineBranch* branch : active_) {
    const ScoreCommand* command = running<ScoreCommand>(*branch);
    if (!command) continue;
    Request& request = branch->queue.front();
    if (branch->logit_step == step_) request.needs_tip = false;
    if (request.num_scored == static_cast<int32_t>(command->tokens.size())) finish(*branch, FinishReason::kDone);
  }
  start_ready();
}

void Engine::sample() {
  answer_logits();
  draw_tokens();
}

void Engine::answer_logits() {
  for (size_t i = 0; i < active_.size(); ++i) {
    EngineBranch& branch = *active_[i];
    if (branch.logit_step != step_ || !running<LogitsCommand>(branch)) continue;
    std::vector<float> logits(options_.vocab_size);
    backend_->read_logits(branch.logit_row, logits);
    finish(branch, FinishReason::kDone).logits = std::move(logits);
  }
  start_ready();
}

void Engine::draw_tokens() {
  sampled_.clear();
  sample_requests_.clear();
  for (EngineBranch* branch : active_) {
    const DecodeCommand* command = running<DecodeCommand>(*branch);
    if (branch->logit_step != step_ || !command) continue;
    sampled_.push_back(branch);
    sample_requests_.push_back({.logit_row = branch->logit_row,
                                .params = &command->sampling,
                                .path_hash = branch->path_hash,
                                .position = branch->len(),
                                .seen = branch->queue.front().seen,
                                .allowed = {}});
  }
  if (sampled_.empty()) return;
  if (sample_results_.size() < sampled_.size()) sample_results_.resize(sampled_.size());
  const std::span<SampledToken> results = std::span(sample_results_).first(sampled_.size());
  message_->tokens.reserve(sampled_.size());
  try {
    backend_->sample(sample_requests_, results);
    for (size_t i = 0; i < sampled_.size(); ++i) accept_token(*sampled_[i], results[i]);
  } catch (const Error& batch_error) {
    if (batch_error.code() == ErrorCode::kDevice || batch_error.code() == ErrorCode::kInternal) throw;
    // One request spoilt the call: each alone, so that only the spoiler fails.
    for (size_t i = 0; i < sampled_.size(); ++i) {
      try {
        backend_->sample(std::span(sample_requests_).subspan(i, 1), results.subspan(i, 1));
        accept_token(*sampled_[i], results[i]);
      } catch (const Error& error) {
        if (error.code() == ErrorCode::kDevice || error.code() == ErrorCode::kInternal) throw;
        fail_front(*sampled_[i], error);
      }
    }
  }
  start_ready();
}

void Engine::accept_token(EngineBranch& branch, const SampledToken& sampled) {
  Request& request = branch.queue.front();
  const DecodeCommand& command = std::get<DecodeCommand>(request.command);
  branch.pending.push_back(sampled.token);
  branch.logit_step = -1;
  ++request.num_decoded;
  ++stats_.decoded_tokens;
  if (command.sampling.repetition_penalty != 1.0f) request.seen.push_back(sampled.token);

  message_->tokens.push_back({request.id, sampled.token, sampled.logprob});
  if (command.sampling.num_logprobs > 0) {
    message_->top.resize(message_->tokens.size());
    message_->top.back() = sampled.top;
  }

  const size_t token = static_cast<size_t>(sampled.token);
  if (std::ranges::find(command.stop_tokens, sampled.token) != command.stop_tokens.end()) {
    finish(branch, FinishReason::kStop);
    return;
  }
  if (!command.stop_strings.empty() && token + 1 < options_.token_offsets.size()) {
    const uint32_t begin = options_.token_offsets[token], end = options_.token_offsets[token + 1];
    const std::string_view bytes = std::string_view(options_.token_bytes).substr(begin, end - begin);
    const int stop = request.stop_matcher.feed(bytes, command.stop_strings);
    if (stop >= 0) {
      finish(branch, FinishReason::kStopString).stop_index = stop;
      return;
    }
  }
  if (request.num_decoded == command.max_tokens) {
    finish(branch, FinishReason::kLength);
  } else if (branch.len() >= options_.context_len) {
    finish(branch, FinishReason::kContext);
  }
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
