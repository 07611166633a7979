// Constrained decoding: which tokens may come next so that a text stays in a language, and can still be brought to its
// end within the tokens that are left. docs/decisions/0009-constrained-decoding.md.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "constraint/automaton.h"
#include "constraint/grammar.h"
#include "constraint/token_trie.h"

namespace deftree::constraint {

// Tokens that may come next: bit i % 64 of words[i / 64] is token i. [ceil(vocab_size / 64)]
struct TokenMask {
  std::vector<uint64_t> words;
  bool allows(int32_t token) const { return words[token / 64] >> (token % 64) & 1; }
};

// A place in a text of a Constraint: what a branch carries. A copy costs a reference count, so a fork does too.
class ConstraintState {
 public:
  // Two states of one constraint with the same continuations, as far as is known.
  friend bool operator==(const ConstraintState& a, const ConstraintState& b) { return *a.content_ == *b.content_; }

 private:
  friend class Constraint;
  std::shared_ptr<const StateContent> content_;
  uint64_t generation_ = 0;  // of the cache that state_ lies in
  Automaton::State* state_ = nullptr;
};

// A compiled language over one vocabulary. Shared by all branches and usable from any thread: what it learns of its
// states (transitions, masks) it keeps, up to a limit of memory, behind a lock. From every state that it gives, a text
// of the language can be completed by single-byte tokens, so no state is a dead end.
class Constraint {
 public:
  static constexpr int32_t kNoLimit = INT32_MAX;
  struct Limits {
    int32_t max_instructions = 1 << 17;
    size_t cache_bytes = size_t{32} << 20;
  };

  // Throws kBadArgument: a grammar that is malformed, too large, recursive without end, or of no text.
  Constraint(const Grammar& grammar, std::shared_ptr<const TokenTrie> vocabulary, Limits limits);
  Constraint(const Grammar& grammar, std::shared_ptr<const TokenTrie> vocabulary);

  int32_t vocab_size() const { return vocabulary_->vocab_size(); }
  ConstraintState start() const;
  // Nothing when the token may not come. Tokens without bytes (end of text) never may: see accepts_end().
  std::optional<ConstraintState> advance(const ConstraintState& state, int32_t token) const;
  // Whether the text may end here; is_complete: and nothing may follow.
  bool accepts_end(const ConstraintState& state) const;
  bool is_complete(const ConstraintState& state) const;
  // The tokens after which the text can be brought to its end with `max_tokens` in all, the next one included. When
  // max_tokens >= min_tokens(state) and the text is not complete, there is one. Valid for as long as it is held.
  std::shared_ptr<const TokenMask> mask(const ConstraintState& state, int32_t max_tokens = kNoLimit) const;
  // Tokens within which the text can be brought to its end (of the shortest text that does it, in bytes); 0 where it
  // may end.
  int32_t min_tokens(const ConstraintState& state) const;

  // Of the cache, for tests and measurements.
  size_t cache_bytes() const;

 private:
  using State = Automaton::State;
  // What is known of a state besides its transitions.
  struct Known {
    std::shared_ptr<const TokenMask> mask;                            // without a limit of tokens
    int32_t farthest = 0;                                             // no distance after an allowed token is larger
    int32_t min_tokens = -1;                                          // -1: not looked at
    std::vector<std::pair<State*, std::vector<int32_t>>> successors;  // and the tokens that lead there
  };

  ConstraintState wrap(State* state) const;
  State& resolve(const ConstraintState& state) const;
  template <class Visit>
  void walk(State& from, const Visit& visit) const;
  const Known& known_mask(State& state) const;
  void fill_mask(State& state, Known& known) const;
  void derive_mask(State& state, State& uncounted, Known& known) const;
  const Known& known_successors(State& state) const;
  int32_t min_tokens_of(State& state) const;
  void bound_memory() const;

  std::shared_ptr<const TokenTrie> vocabulary_;
  Limits limits_;
  mutable std::mutex mutex_;
  mutable Automaton automaton_;
  mutable std::unordered_map<const State*, Known> known_;
  mutable size_t known_bytes_ = 0;
  mutable uint64_t generation_ = 1;
  mutable std::vector<State*> path_, uncounted_path_;  // of a walk, by depth
};

}  // namespace deftree::constraint
