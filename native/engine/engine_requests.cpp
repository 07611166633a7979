// What commands do, and the life of branches and requests. A branch's requests run one after another: the front one is
// running, and when it is finished the next one starts, in the same step where no forward pass is needed.
#include <algorithm>
#include <string>
#include <utility>

#include "engine/engine.h"
#include "engine/overloaded.h"

namespace deftree {
namespace {

Error context_full(int32_t len, size_t added, int32_t context_len) {
  return Error(ErrorCode::kContextFull,
               "the branch has " + std::to_string(len) + " tokens and cannot take " + std::to_string(added) +
                   " more: the context holds " + std::to_string(context_len),
               {{"length", len}, {"tokens", static_cast<double>(added)}, {"context_length", context_len}});
}

Error empty_branch(const char* what) {
  return Error(ErrorCode::kBadArgument, std::string(what) + " needs a branch with at least one token: extend it first");
}

}  // namespace

void Engine::apply(Command& command) {
  std::visit(Overloaded{
                 [&](CreateCommand& c) {
                   if (fatal_ || find(c.branch)) return;
                   EngineBranch& branch = add_branch(c.branch);
                   branch.cache_id = cache_.create();
                   branch.born = true;
                 },
                 [&](PruneCommand& c) { prune(c.branch, c.keep_cached); },
                 [&](CancelCommand& c) { cancel_request(c.request); },
                 [&](SetAttentionCommand& c) { policy_ = c.policy; },
                 [&](DraftCommand& c) { speculator_.answer(c); },
                 [&](CheckCommand& c) {
                   CheckResult& result = message_->checks.emplace_back(CheckResult{c.ticket, std::nullopt});
                   try {
                     if (fatal_) throw *fatal_;
                     check_invariants();
                   } catch (const Error& broken) {
                     result.broken = broken;
                   }
                 },
                 [&](auto& c) { enqueue(c.branch, c.request, BranchCommand(std::move(c))); },
             },
             command);
  start_ready();
}

EngineBranch* Engine::find(BranchKey key) {
  const auto it = branches_.find(key);
  return it == branches_.end() ? nullptr : it->second.get();
}

EngineBranch& Engine::add_branch(BranchKey key) {
  auto& branch = branches_[key];
  branch = std::make_unique<EngineBranch>();
  branch->key = key;
  return *branch;
}

void Engine::enqueue(BranchKey key, RequestId id, BranchCommand command) {
  EngineBranch* branch = find(key);
  const auto reject = [&](const Error& error) {
    answer(id, FinishReason::kError, branch ? branch->len() : 0).error = error;
  };
  if (fatal_) return reject(*fatal_);
  if (!branch) {
    return reject(Error(ErrorCode::kDisposed, "branch " + std::to_string(key) + " was pruned or never created"));
  }
  if (const auto* fork = std::get_if<ForkCommand>(&command)) {
    for (BranchKey child : fork->children) {
      if (find(child)) {
        return reject(Error(ErrorCode::kBadArgument, "children: branch " + std::to_string(child) + " exists already"));
      }
    }
    for (BranchKey child : fork->children) add_branch(child);
  }
  Request& request = branch->queue.emplace_back();
  request.id = id;
  request.command = std::move(command);
  request.age = next_age_++;
  ready_.push_back(branch);
}

void Engine::start_ready() {
  for (size_t i = 0; i < ready_.size(); ++i) {
    EngineBranch& branch = *ready_[i];
    if (!branch.born || branch.queue.empty() || branch.queue.front().started) continue;
    start(branch, branch.queue.front());
    if (!branch.active && !branch.queue.empty() && branch.queue.front().started) {
      branch.active = true;
      active_.push_back(&branch);
    }
  }
  ready_.clear();
}

void Engine::start(EngineBranch& branch, Request& request) {
  request.started = true;
  request.base_len = branch.len();
  request.tail_len = static_cast<int32_t>(branch.pending.size());
  std::visit(Overloaded{
                 [&](const ExtendCommand& c) { start_extend(branch, c); },
                 [&](const ForkCommand& c) { run_fork(branch, c); },
                 [&](const DecodeCommand& c) { start_decode(branch, request, c); },
                 [&](const ScoreCommand& c) { start_score(branch, request, c); },
                 [&](const LogitsCommand&) {
                   if (branch.len() == 0) fail_front(branch, empty_branch("logits"));
                 },
                 [&](const TruncateCommand& c) { run_truncate(branch, c); },
             },
             request.command);
}

void Engine::start_extend(EngineBranch& branch, const ExtendCommand& command) {
  if (command.tokens.size() > static_cast<size_t>(options_.context_len - branch.len())) {
    return fail_front(branch, context_full(branch.len(), command.tokens.size(), options_.context_len));
  }
  if (!command.tokens.empty()) {
    branch.constraint.reset();
    branch.pending.insert(branch.pending.end(), command.tokens.begin(), command.tokens.end());
    branch.logit_step = -1;
    branch.may_share = true;
    attach(branch);
  }
  if (command.tokens.empty() || branch.pending.empty()) finish(branch, FinishReason::kDone);
}

void Engine::run_fork(EngineBranch& branch, const ForkCommand& command) {
  // A child that was pruned before it was born is skipped; its ordinal stays its own.
  std::vector<std::pair<EngineBranch*, uint32_t>> children;
  for (size_t i = 0; i < command.children.size(); ++i) {
    EngineBranch* child = find(command.children[i]);
    if (child) children.emplace_back(child, command.first_ordinal + static_cast<uint32_t>(i));
  }
  const std::vector<BranchId> ids = cache_.fork(branch.cache_id, static_cast<int>(children.size()));
  branch.may_share |= !branch.pending.empty();
  for (size_t i = 0; i < children.size(); ++i) {
    auto& [child, ordinal] = children[i];
    child->born = true;
    child->cache_id = ids[i];
    child->path_hash = fork_path_hash(branch.path_hash, ordinal);
    child->written = branch.written;
    child->pending = branch.pending;
    child->content_hash = branch.content_hash;
    child->may_share = branch.may_share;
    child->logit_step = branch.logit_step;
    child->logit_row = branch.logit_row;
    child->constraint = branch.constraint;
    speculator_.fork(branch.key, child->key);
    ready_.push_back(child);
  }
  finish(branch, FinishReason::kDone);
}

void Engine::start_decode(EngineBranch& branch, Request& request, const DecodeCommand& command) {
  if (branch.len() == 0) return fail_front(branch, empty_branch("decode"));
  request.speculation = command.speculation.value_or(options_.speculation);
  if (request.speculation.mode != SpeculationMode::kOff) {
    branch.draft.wait = branch.draft.failures = 0;  // another text may begin here
    speculator_.begin_decode(branch.key);
  }
  if (!start_constraint(branch, command)) return;
  if (command.max_tokens == 0) {
    finish(branch, FinishReason::kLength);
  } else if (branch.len() >= options_.context_len) {
    finish(branch, FinishReason::kContext);
  } else if (command.sampling.repetition_penalty != 1.0f) {
    request.seen = cache_.tokens(branch.cache_id);
    request.seen.insert(request.seen.end(), branch.pending.begin(), branch.pending.end());
  }
}

void Engine::start_score(EngineBranch& branch, Request& request, const ScoreCommand& command) {
  if (branch.len() == 0) return fail_front(branch, empty_branch("score"));
  if (command.tokens.size() > static_cast<size_t>(options_.context_len - branch.len())) {
    return fail_front(branch, context_full(branch.len(), command.tokens.size(), options_.context_len));
  }
  if (command.tokens.empty()) {
    finish(branch, FinishReason::kDone);
    return;
  }
  request.logprobs.resize(command.tokens.size());
  request.needs_tip = branch.pending.empty();
  std::vector<int32_t> pending = branch.pending;
  pending.insert(pending.end(), command.tokens.begin(), command.tokens.end() - 1);
  if (pending.empty()) return;
  request.continuation = std::make_unique<EngineBranch>();
  request.continuation->cache_id = cache_.fork(branch.cache_id, 1)[0];
  request.continuation->written = branch.written;
  request.continuation->pending = std::move(pending);
}

void Engine::run_truncate(EngineBranch& branch, const TruncateCommand& command) {
  if (command.len > branch.len()) {
    return fail_front(branch, Error(ErrorCode::kBadArgument,
                                    "truncate to " + std::to_string(command.len) + " tokens: the branch has " +
                                        std::to_string(branch.len()),
                                    {{"wanted", command.len}, {"length", branch.len()}}));
  }
  if (command.len < branch.len()) shorten(branch, command.len);
  finish(branch, FinishReason::kDone);
}

FinishedRequest& Engine::answer(RequestId id, FinishReason reason, int32_t branch_len) {
  FinishedRequest& finished = message_->finished.emplace_back();
  finished.request = id;
  finished.reason = reason;
  finished.branch_len = branch_len;
  return finished;
}

FinishedRequest& Engine::finish(EngineBranch& branch, FinishReason reason) {
  Request& request = branch.queue.front();
  if (request.continuation) cache_.prune(request.continuation->cache_id, false);
  FinishedRequest& finished = answer(request.id, reason, branch.len());
  if (std::holds_alternative<ExtendCommand>(request.command)) finished.reused_tokens = request.reused;
  if (reason == FinishReason::kDone) finished.logprobs = std::move(request.logprobs);
  branch.queue.pop_front();
  ready_.push_back(&branch);
  return finished;
}

void Engine::fail_front(EngineBranch& branch, const Error& error) {
  // A failed extend leaves the branch as it was; a failed decode keeps the tokens that were published.
  if (std::holds_alternative<ExtendCommand>(branch.queue.front().command)) {
    shorten(branch, branch.queue.front().base_len);
  }
  finish(branch, FinishReason::kError).error = error;
}

void Engine::cancel_request(RequestId id) {
  for (auto& [key, owner] : branches_) {
    EngineBranch& branch = *owner;
    const auto it = std::find_if(branch.queue.begin(), branch.queue.end(), [&](const Request& r) { return r.id == id; });
    if (it == branch.queue.end()) continue;
    if (it->started) {
      if (std::holds_alternative<ExtendCommand>(it->command)) shorten(branch, std::max(it->base_len, branch.written));
      finish(branch, FinishReason::kAborted);
      return;
    }
    std::vector<BranchKey> orphans;
    if (const auto* fork = std::get_if<ForkCommand>(&it->command)) orphans = fork->children;
    branch.queue.erase(it);
    answer(id, FinishReason::kAborted, branch.len());
    for (BranchKey child : orphans) prune(child, false);
    return;
  }
}

void Engine::prune(BranchKey key, bool keep_cached) {
  if (fatal_) return;
  // Children whose fork has not run yet go with their parent.
  std::vector<BranchKey> doomed = {key};
  for (size_t i = 0; i < doomed.size(); ++i) {
    EngineBranch* branch = find(doomed[i]);
    if (!branch) continue;
    for (Request& request : branch->queue) {
      if (const auto* fork = std::get_if<ForkCommand>(&request.command)) {
        doomed.insert(doomed.end(), fork->children.begin(), fork->children.end());
      }
      if (request.continuation) cache_.prune(request.continuation->cache_id, false);
      answer(request.id, FinishReason::kPruned, branch->len());
    }
    if (branch->born) cache_.prune(branch->cache_id, keep_cached);
    speculator_.forget(doomed[i]);
    if (branch->active) std::erase(active_, branch);
    branches_.erase(doomed[i]);
  }
}

void Engine::fail_open_requests(const Error& error) {
  fatal_ = std::make_unique<Error>(error);
  for (auto& [key, branch] : branches_) {
    for (Request& request : branch->queue) answer(request.id, FinishReason::kError, branch->len()).error = error;
    branch->queue.clear();
    branch->active = false;
  }
  active_.clear();
  ready_.clear();
  works_.clear();
  paused_.clear();
}

void Engine::shut_down(std::span<Command> late, const Error& error, StepMessage& message) {
  message_ = &message;
  if (!fatal_) fail_open_requests(error);
  for (Command& command : late) apply(command);
}

void Engine::shorten(EngineBranch& branch, int32_t len) {
  branch.logit_step = -1;
  branch.constraint.reset();
  speculator_.forget(branch.key);
  if (len >= branch.written) {
    branch.pending.resize(len - branch.written);
    return;
  }
  branch.pending.clear();
  cache_.truncate(branch.cache_id, len);
  branch.written = len;
  branch.content_hash = 0;
  for (int32_t token : cache_.tokens(branch.cache_id)) {
    branch.content_hash = extend_content_hash(branch.content_hash, token);
  }
}

void Engine::attach(EngineBranch& branch) {
  const int32_t num_pending = static_cast<int32_t>(branch.pending.size());
  const int32_t matched = cache_.attach_prefix(branch.cache_id, branch.pending, num_pending);
  if (matched > 0) mark_written(branch, matched, true);
}

void Engine::mark_written(EngineBranch& branch, int32_t num_tokens, bool reused) {
  for (int32_t i = 0; i < num_tokens; ++i) {
    branch.content_hash = extend_content_hash(branch.content_hash, branch.pending[i]);
  }
  branch.pending.erase(branch.pending.begin(), branch.pending.begin() + num_tokens);
  branch.written += num_tokens;
  if (branch.pending.empty()) branch.may_share = false;
  if (branch.queue.empty() || !std::holds_alternative<ExtendCommand>(branch.queue.front().command)) return;
  Request& extend = branch.queue.front();
  const int32_t num_new = std::max(0, num_tokens - extend.tail_len);
  extend.tail_len = std::max(0, extend.tail_len - num_tokens);
  (reused ? stats_.reused_tokens : stats_.prefilled_tokens) += num_new;
  if (reused) extend.reused += num_new;
}

}  // namespace deftree
