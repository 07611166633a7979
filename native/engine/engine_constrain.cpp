// Constrained decodes in the step: where a branch's text stands, what may come next, and when the text is complete.
#include <algorithm>
#include <limits>
#include <string>

#include "engine/engine.h"

namespace deftree {

using constraint::Constraint;
using constraint::ConstraintState;

bool Engine::start_constraint(EngineBranch& branch, const DecodeCommand& command) {
  if (!command.constraint) {
    branch.constraint.reset();
    return true;
  }
  if (command.constraint->constraint) {
    branch.constraint = {command.constraint->constraint, command.constraint->constraint->start()};
  } else if (!branch.constraint) {
    fail_front(branch, Error(ErrorCode::kBadArgument,
                             "the branch has no constraint to go on with: it has none, its text is complete, or it was "
                             "extended or truncated since"));
    return false;
  }
  if (branch.constraint->constraint->is_complete(branch.constraint->state)) {
    branch.constraint.reset();
    finish(branch, FinishReason::kStop);
    return false;
  }
  if (command.constraint->may_stay_open) return true;
  try {
    const int32_t wanted = branch.constraint->constraint->min_tokens(branch.constraint->state);
    const int32_t left = num_tokens_left(branch);
    if (wanted <= left) return true;
    throw Error(ErrorCode::kBadArgument,
                "the shortest text that fits the constraint takes " + std::to_string(wanted) + " tokens; there are " +
                    std::to_string(left) + ": raise maxTokens, or shorten the prompt if the context is full",
                {{"min_tokens", wanted}, {"max_tokens", left}});
  } catch (const Error& error) {
    branch.constraint.reset();
    fail_front(branch, error);
    return false;
  }
}

int32_t Engine::num_tokens_left(const EngineBranch& branch) const {
  const Request& request = branch.queue.front();
  const DecodeCommand& command = std::get<DecodeCommand>(request.command);
  return std::min(command.max_tokens - request.num_decoded, options_.context_len - branch.len());
}

std::span<const uint64_t> Engine::allowed_tokens(const EngineBranch& branch, const ConstraintState& state,
                                                 int32_t num_left) {
  const DecodeCommand& command = std::get<DecodeCommand>(branch.queue.front().command);
  const Constraint& constraint = *branch.constraint->constraint;
  held_masks_.push_back(constraint.mask(state, command.constraint->may_stay_open ? Constraint::kNoLimit : num_left));
  const constraint::TokenMask& mask = *held_masks_.back();
  const bool may_end = constraint.accepts_end(state);
  if (std::ranges::all_of(command.stop_tokens, [&](int32_t token) { return mask.allows(token) == may_end; })) {
    return mask.words;
  }
  if (num_masks_with_stops_ == masks_with_stops_.size()) masks_with_stops_.emplace_back();
  std::vector<uint64_t>& words = masks_with_stops_[num_masks_with_stops_++];
  words = mask.words;
  for (const int32_t token : command.stop_tokens) {
    const uint64_t bit = uint64_t{1} << (token % 64);
    words[token / 64] = may_end ? words[token / 64] | bit : words[token / 64] & ~bit;
  }
  return words;
}

bool Engine::advance_constraint(EngineBranch& branch, int32_t token) {
  const DecodeCommand& command = std::get<DecodeCommand>(branch.queue.front().command);
  const Constraint& constraint = *branch.constraint->constraint;
  const std::optional<ConstraintState> next = constraint.advance(branch.constraint->state, token);
  ensure(next.has_value(), "a drawn token was allowed by the mask");
  branch.constraint->state = *next;
  bool is_complete = constraint.is_complete(*next);
  if (!is_complete && command.stop_tokens.empty() && constraint.accepts_end(*next)) {
    // Without a stop token to draw, the text ends where nothing more fits.
    is_complete = std::ranges::all_of(allowed_tokens(branch, *next, num_tokens_left(branch)),
                                      [](uint64_t word) { return word == 0; });
  }
  if (!is_complete) return true;
  branch.constraint.reset();
  finish(branch, FinishReason::kStop);
  return false;
}

}  // namespace deftree
