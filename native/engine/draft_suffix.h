// Drafts what followed the same text before: in the branch itself, its prompt, its siblings, and in branches of the engine
// that are finished. SAM-Decoding (Hu et al., ACL 2025) drafts from a suffix automaton of one text and a fixed corpus; here
// one automaton holds all texts of the engine, and each branch is a place in it, so a fork costs nothing.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "engine/draft_best_first.h"
#include "engine/draft_source.h"
#include "engine/draft_suffix_automaton.h"

namespace deftree {

class SuffixSource final : public DraftSource {
 public:
  // The automaton is dropped when it has `max_states` states (a token adds one or two, about 80 bytes each) and begins
  // anew with the ends of the texts that still grow.
  explicit SuffixSource(int32_t max_states = 1 << 19) : max_states_(max_states) {}

  DraftSourceId id() const override { return DraftSourceId::kSuffix; }
  int32_t known_len(BranchKey branch) const override;
  void extend(BranchKey branch, std::span<const int32_t> tokens, int32_t len) override;
  void fork(BranchKey parent, BranchKey child) override;
  void forget(BranchKey branch) override { places_.erase(branch); }
  void propose(const DraftContext& context, std::vector<DraftNode>& nodes) override;

  const SuffixAutomaton& automaton() const { return automaton_; }
  int64_t generation() const { return generation_; }

 private:
  struct Place {
    SuffixAutomaton::State end;
    int32_t len;  // of the branch's path
    int64_t generation;
  };
  struct Match {
    SuffixAutomaton::State state;
    int32_t len;  // of the matched text
  };

  // The longest suffix of the match that goes on somewhere; the root when there is none.
  Match shortened(Match match) const;

  SuffixAutomaton automaton_;
  int32_t max_states_;
  int64_t generation_ = 0;
  std::unordered_map<BranchKey, Place> places_;
  BestFirst<Match> best_first_;
};

}  // namespace deftree
