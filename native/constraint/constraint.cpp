#include "constraint/constraint.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "common/error.h"

namespace deftree::constraint {

Constraint::Constraint(const Grammar& grammar, std::shared_ptr<const TokenTrie> vocabulary, Limits limits)
    : vocabulary_(std::move(vocabulary)),
      limits_(limits),
      automaton_(compile(grammar, vocabulary_->single_bytes(), limits.max_instructions)),
      path_(vocabulary_->max_len() + 1),
      uncounted_path_(vocabulary_->max_len() + 1) {
  automaton_.start();  // what is wrong with it is found now
}

Constraint::Constraint(const Grammar& grammar, std::shared_ptr<const TokenTrie> vocabulary)
    : Constraint(grammar, std::move(vocabulary), Limits()) {}

ConstraintState Constraint::start() const {
  const std::lock_guard lock(mutex_);
  bound_memory();
  return wrap(automaton_.start());
}

std::optional<ConstraintState> Constraint::advance(const ConstraintState& state, int32_t token) const {
  const std::lock_guard lock(mutex_);
  bound_memory();
  if (token < 0 || token >= vocabulary_->vocab_size()) return std::nullopt;
  const std::string_view bytes = vocabulary_->token_bytes(token);
  if (bytes.empty()) return std::nullopt;
  State* at = &resolve(state);
  for (const char byte : bytes) {
    at = automaton_.step(*at, static_cast<uint8_t>(byte));
    if (at == nullptr) return std::nullopt;
  }
  return wrap(at);
}

bool Constraint::accepts_end(const ConstraintState& state) const {
  const std::lock_guard lock(mutex_);
  return resolve(state).accepts;
}

bool Constraint::is_complete(const ConstraintState& state) const {
  const std::lock_guard lock(mutex_);
  const State& at = resolve(state);
  return at.accepts && !at.goes_on;
}

std::shared_ptr<const TokenMask> Constraint::mask(const ConstraintState& state, int32_t max_tokens) const {
  const std::lock_guard lock(mutex_);
  bound_memory();
  State& at = resolve(state);
  const Known& known = known_mask(at);
  // A text of n bytes takes n tokens at most.
  const int32_t left = max_tokens - 1;
  if (known.farthest <= left) return known.mask;
  auto closing = std::make_shared<TokenMask>(*known.mask);
  for (const auto& [next, tokens] : known_successors(at).successors) {
    if (next->distance <= left || min_tokens_of(*next) <= left) continue;
    for (const int32_t token : tokens) closing->words[token / 64] &= ~(uint64_t{1} << (token % 64));
  }
  return closing;
}

int32_t Constraint::min_tokens(const ConstraintState& state) const {
  const std::lock_guard lock(mutex_);
  bound_memory();
  return min_tokens_of(resolve(state));
}

size_t Constraint::cache_bytes() const {
  const std::lock_guard lock(mutex_);
  return known_bytes_ + automaton_.bytes();
}

ConstraintState Constraint::wrap(State* state) const {
  ConstraintState result;
  result.content_ = state->content;
  result.generation_ = generation_;
  result.state_ = state;
  return result;
}

Constraint::State& Constraint::resolve(const ConstraintState& state) const {
  ensure(state.content_ != nullptr, "a constraint's state comes from the constraint");
  return state.generation_ == generation_ ? *state.state_ : *automaton_.find(state.content_);
}

// Calls visit(tokens, state after them) for every trie node with tokens that may follow.
template <class Visit>
void Constraint::walk(State& from, const Visit& visit) const {
  const std::span<const TokenTrie::Node> nodes = vocabulary_->nodes();
  path_[0] = &from;
  for (int32_t i = 1; i < static_cast<int32_t>(nodes.size());) {
    State* state = automaton_.step(*path_[nodes[i].depth - 1], nodes[i].byte);
    if (state == nullptr) {
      i = nodes[i].end;
      continue;
    }
    path_[nodes[i].depth] = state;
    const std::span<const int32_t> tokens = vocabulary_->tokens_of(i);
    if (!tokens.empty()) visit(tokens, *state);
    ++i;
  }
}

const Constraint::Known& Constraint::known_mask(State& state) const {
  Known& known = known_[&state];
  if (known.mask != nullptr) return known;
  State& uncounted = automaton_.uncounted(state);
  if (&uncounted == &state) {
    fill_mask(state, known);
  } else {
    derive_mask(state, uncounted, known);
  }
  known_bytes_ += sizeof(Known) + known.mask->words.size() * sizeof(uint64_t);
  return known;
}

void Constraint::fill_mask(State& state, Known& known) const {
  auto mask = std::make_shared<TokenMask>();
  mask->words.resize((static_cast<size_t>(vocabulary_->vocab_size()) + 63) / 64);
  walk(state, [&](std::span<const int32_t> tokens, const State& next) {
    for (const int32_t token : tokens) mask->words[token / 64] |= uint64_t{1} << (token % 64);
    known.farthest = std::max(known.farthest, next.distance);
  });
  known.mask = std::move(mask);
}

// From the mask of the same state without its counters, which allows more: only where tokens are long enough for a
// counter to matter does a walk have to look.
void Constraint::derive_mask(State& state, State& uncounted, Known& known) const {
  const Known& base = known_mask(uncounted);
  known.farthest = base.farthest;
  if (state.slack >= vocabulary_->max_len()) {
    known.mask = base.mask;
    return;
  }
  auto mask = std::make_shared<TokenMask>(*base.mask);
  const std::span<const TokenTrie::Node> nodes = vocabulary_->nodes();
  path_[0] = &state;
  uncounted_path_[0] = &uncounted;
  for (int32_t i = 1; i < static_cast<int32_t>(nodes.size());) {
    const TokenTrie::Node& node = nodes[i];
    State* without = automaton_.step(*uncounted_path_[node.depth - 1], node.byte);
    if (without == nullptr) {
      i = node.end;
      continue;
    }
    State* next = automaton_.step(*path_[node.depth - 1], node.byte);
    if (next == nullptr) {
      for (const int32_t token : vocabulary_->tokens_below(i))
        mask->words[token / 64] &= ~(uint64_t{1} << (token % 64));
      i = node.end;
      continue;
    }
    if (&automaton_.uncounted(*next) == without && next->slack >= node.height) {
      i = node.end;
      continue;
    }
    if (!vocabulary_->tokens_of(i).empty()) known.farthest = std::max(known.farthest, next->distance);
    path_[node.depth] = next;
    uncounted_path_[node.depth] = without;
    ++i;
  }
  known.mask = std::move(mask);
}

const Constraint::Known& Constraint::known_successors(State& state) const {
  Known& known = known_[&state];
  if (!known.successors.empty()) return known;
  std::unordered_map<State*, size_t> places;
  walk(state, [&](std::span<const int32_t> tokens, State& next) {
    const auto [it, is_added] = places.try_emplace(&next, known.successors.size());
    if (is_added) known.successors.emplace_back(&next, std::vector<int32_t>());
    std::vector<int32_t>& all = known.successors[it->second].second;
    all.insert(all.end(), tokens.begin(), tokens.end());
    known_bytes_ += tokens.size() * sizeof(int32_t);
  });
  known_bytes_ += sizeof(Known) + known.successors.size() * 64;
  return known;
}

// The shortest completion of a state is the rest of the shortest completion of the one before, so this falls by one
// with each of its tokens: a mask that leaves only states within reach never becomes empty.
int32_t Constraint::min_tokens_of(State& state) const {
  Known& known = known_[&state];
  if (known.min_tokens < 0) known.min_tokens = vocabulary_->fewest_tokens(automaton_.shortest_text(state));
  return known.min_tokens;
}

// Called before pointers to states are taken.
void Constraint::bound_memory() const {
  if (known_bytes_ + automaton_.bytes() <= limits_.cache_bytes) return;
  known_.clear();
  automaton_.forget();
  known_bytes_ = 0;
  ++generation_;
}

}  // namespace deftree::constraint
