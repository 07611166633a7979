// The stages that read logits: scores, logits requests, and the tokens that are drawn and published.
#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

#include "engine/engine.h"

namespace deftree {

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
  end_draft_step();
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
  request_draws();
  if (drawings_.empty()) return;
  if (sample_results_.size() < sample_requests_.size()) sample_results_.resize(sample_requests_.size());
  sample_errors_.assign(sample_requests_.size(), std::nullopt);
  message_->tokens.reserve(sample_requests_.size());
  try {
    backend_->sample(sample_requests_, std::span(sample_results_).first(sample_requests_.size()));
  } catch (const Error& batch_error) {
    if (batch_error.code() == ErrorCode::kDevice || batch_error.code() == ErrorCode::kInternal) throw;
    draw_each();
  }
  for (const auto& [request, error] : mask_errors_) sample_errors_[request] = error;
  for (const Drawing& drawing : drawings_) deliver(drawing);
  if (!copies_.empty()) backend_->copy_slots(copies_);
  start_ready();
}

void Engine::request_draws() {
  drawings_.clear();
  sample_requests_.clear();
  draft_seen_.clear();
  copies_.clear();
  mask_errors_.clear();
  held_masks_.clear();
  num_masks_with_stops_ = 0;
  for (EngineBranch* branch : active_) {
    const DecodeCommand* command = running<DecodeCommand>(*branch);
    if (branch->logit_step != step_ || !command) continue;
    const Request& request = branch->queue.front();
    std::span<const uint64_t> allowed;
    if (branch->constraint) {
      try {
        allowed = allowed_tokens(*branch, branch->constraint->state, num_tokens_left(*branch));
      } catch (const Error& error) {
        fail_front(*branch, error);
        continue;
      }
    }
    drawings_.push_back({branch, static_cast<int32_t>(sample_requests_.size()), 1, -1});
    sample_requests_.push_back({.logit_row = branch->logit_row,
                                .params = &command->sampling,
                                .path_hash = branch->path_hash,
                                .position = branch->len(),
                                .seen = request.seen,
                                .allowed = allowed,
                                .num_successors = num_successors(*branch)});
  }
  request_draft_draws();
}

// One request spoilt the call: each alone, so that only the spoiler fails, and a draft row only when it is reached.
void Engine::draw_each() {
  for (size_t i = 0; i < sample_requests_.size(); ++i) {
    try {
      backend_->sample(std::span(sample_requests_).subspan(i, 1), std::span(sample_results_).subspan(i, 1));
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kDevice || error.code() == ErrorCode::kInternal) throw;
      sample_errors_[i] = error;
    }
  }
}

void Engine::deliver(const Drawing& drawing) {
  if (drawing.proposal >= 0) return deliver_draft(drawing);
  if (sample_errors_[drawing.first_request]) return fail_front(*drawing.branch, *sample_errors_[drawing.first_request]);
  constexpr int32_t kRoot[] = {0};
  learn_from(drawing, kRoot);
  if (!accept_token(*drawing.branch, sample_results_[drawing.first_request])) return;
  show_hidden(*drawing.branch, sample_requests_[drawing.first_request].logit_row);
}

bool Engine::accept_token(EngineBranch& branch, const SampledToken& sampled) {
  Request& request = branch.queue.front();
  const DecodeCommand& command = std::get<DecodeCommand>(request.command);
  branch.pending.push_back(sampled.token);
  branch.logit_step = -1;
  ++request.num_decoded;
  ++stats_.decoded_tokens;
  if (command.sampling.repetition_penalty != 1.0f) request.seen.push_back(sampled.token);
  if (request.speculation.mode != SpeculationMode::kOff) {
    speculator_.extend(branch.key, {&sampled.token, 1}, branch.len());
  }

  const int32_t num_logprobs = command.sampling.num_logprobs;
  message_->tokens.push_back(
      {request.id, sampled.token, num_logprobs < 0 ? std::numeric_limits<float>::quiet_NaN() : sampled.logprob});
  if (num_logprobs > 0) {
    message_->top.resize(message_->tokens.size());
    message_->top.back() = sampled.top;
  }

  const size_t token = static_cast<size_t>(sampled.token);
  if (std::ranges::find(command.stop_tokens, sampled.token) != command.stop_tokens.end()) {
    branch.constraint.reset();
    finish(branch, FinishReason::kStop);
    return false;
  }
  if (branch.constraint && !advance_constraint(branch, sampled.token)) return false;
  if (!command.stop_strings.empty() && token + 1 < options_.token_offsets.size()) {
    const uint32_t begin = options_.token_offsets[token], end = options_.token_offsets[token + 1];
    const std::string_view bytes = std::string_view(options_.token_bytes).substr(begin, end - begin);
    const int stop = request.stop_matcher.feed(bytes, command.stop_strings);
    if (stop >= 0) {
      finish(branch, FinishReason::kStopString).stop_index = stop;
      return false;
    }
  }
  if (request.num_decoded == command.max_tokens) {
    finish(branch, FinishReason::kLength);
    return false;
  }
  if (branch.len() >= options_.context_len) {
    finish(branch, FinishReason::kContext);
    return false;
  }
  return true;
}

}  // namespace deftree
