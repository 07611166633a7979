#include "engine/draft_suffix.h"

#include <algorithm>
#include <iterator>

namespace deftree {
namespace {

// Ranks are match lengths: the first whose bound is not exceeded. The claim of a lone continuation is a starting point
// for the acceptance statistics.
constexpr int32_t kLongestOfRank[] = {1, 2, 3, 4, 6, 9, 15, 31};
constexpr float kClaimOfRank[] = {0.15f, 0.3f, 0.45f, 0.55f, 0.65f, 0.75f, 0.85f, 0.9f, 0.95f};

constexpr int32_t kMaxContinuations = 8;
constexpr int kMaxShorterMatches = 8;
// Of a text that the automaton does not know, so many tokens are read: a prompt, or what a new generation begins with.
constexpr size_t kFirstWindow = 1 << 15, kLaterWindow = 512;

int32_t rank_of(int32_t match_len) {
  return static_cast<int32_t>(std::ranges::lower_bound(kLongestOfRank, match_len) - std::begin(kLongestOfRank));
}

}  // namespace

int32_t SuffixSource::known_len(BranchKey branch) const {
  const auto place = places_.find(branch);
  return place == places_.end() || place->second.generation != generation_ ? 0 : place->second.len;
}

void SuffixSource::extend(BranchKey branch, std::span<const int32_t> tokens, int32_t len) {
  Place& place = places_.try_emplace(branch, Place{SuffixAutomaton::kRoot, 0, -1}).first->second;
  SuffixAutomaton::State end = place.end;
  if (place.generation != generation_) {
    const size_t window = std::min(generation_ == 0 ? kFirstWindow : kLaterWindow, static_cast<size_t>(max_states_) / 4);
    tokens = tokens.last(std::min(tokens.size(), window));
    end = SuffixAutomaton::kRoot;
  }
  for (int32_t token : tokens) {
    if (automaton_.num_states() + 2 > max_states_) {
      automaton_.clear();
      ++generation_;
      end = SuffixAutomaton::kRoot;
    }
    end = automaton_.extend(end, token);
  }
  place = {end, len, generation_};
}

void SuffixSource::fork(BranchKey parent, BranchKey child) {
  const auto place = places_.find(parent);
  if (place != places_.end()) places_.insert_or_assign(child, Place(place->second));
}

SuffixSource::Match SuffixSource::shortened(Match match) const {
  for (int i = 0; i < kMaxShorterMatches && match.state != SuffixAutomaton::kRoot && !automaton_.has_next(match.state); ++i) {
    match.state = automaton_.link(match.state);
    match.len = std::min(match.len, automaton_.len(match.state));
  }
  return automaton_.has_next(match.state) ? match : Match{SuffixAutomaton::kRoot, 0};
}

void SuffixSource::propose(const DraftContext& context, std::vector<DraftNode>& nodes) {
  if (known_len(context.branch) == 0) return;
  // The end itself goes on when another branch has the same text and is ahead.
  const SuffixAutomaton::State end = places_[context.branch].end;
  const Match whole = {end, automaton_.len(end)};
  best_first_.grow(whole, context, nodes, [&](const Match& place, int32_t, auto push) {
    // A draft that reaches the end of the text it copies goes on with a shorter match: so repetitions repeat.
    const Match match = shortened(place);
    if (match.len == 0) return;
    const int32_t rank = rank_of(match.len);
    float seen = 0;
    automaton_.for_each_next(match.state, kMaxContinuations, [&](int32_t, SuffixAutomaton::State, int32_t count) {
      seen += static_cast<float>(count);
    });
    automaton_.for_each_next(match.state, kMaxContinuations, [&](int32_t token, SuffixAutomaton::State to, int32_t count) {
      push(token, kClaimOfRank[rank] * static_cast<float>(count) / seen, rank, Match{to, match.len + 1});
    });
  });
}

}  // namespace deftree
