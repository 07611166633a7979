// The draft sources and what they are made of.
#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "common/test.h"
#include "engine/draft_recycling.h"
#include "engine/draft_suffix.h"

namespace deftree {
namespace {

using Tokens = std::vector<int32_t>;
using State = SuffixAutomaton::State;

State spelt(const SuffixAutomaton& automaton, const Tokens& tokens) {
  State state = SuffixAutomaton::kRoot;
  for (int32_t token : tokens) {
    if (state != SuffixAutomaton::kNone) state = automaton.next(state, token);
  }
  return state;
}

// Several texts that grow in turns, fork and repeat each other, beside the plain set of their substrings.
TEST(suffix_automaton_spells_exactly_the_substrings_of_its_texts) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    const int vocab = 2 + static_cast<int>(random() % 4);
    SuffixAutomaton automaton;
    std::vector<std::pair<Tokens, State>> texts = {{{}, SuffixAutomaton::kRoot}};
    for (int i = 0; i < 60; ++i) {
      const size_t which = random() % texts.size();
      if (texts.size() < 6 && random() % 8 == 0) texts.push_back(random() % 2 ? texts[which] : std::pair{Tokens{}, State{0}});
      auto& [text, end] = texts[which];
      const int32_t token = static_cast<int32_t>(random() % vocab);
      text.push_back(token);
      end = automaton.extend(end, token);
      CHECK_EQ(automaton.len(end), static_cast<int32_t>(text.size()));
    }
    std::set<Tokens> substrings;
    std::map<Tokens, std::set<std::pair<size_t, size_t>>> ends;  // where a substring ends; a shared beginning counts once
    std::map<Tokens, size_t> first_with;                         // prefix -> the first text that has it
    int64_t longest = 0;
    for (size_t t = 0; t < texts.size(); ++t) {
      const Tokens& text = texts[t].first;
      longest += static_cast<int64_t>(text.size());
      for (size_t end = 0; end <= text.size(); ++end) {
        const size_t owner = first_with.try_emplace(Tokens(text.begin(), text.begin() + end), t).first->second;
        for (size_t begin = 0; begin <= end; ++begin) {
          const Tokens s(text.begin() + begin, text.begin() + end);
          substrings.insert(s);
          ends[s].insert({owner, end});
        }
      }
    }
    for (const Tokens& s : substrings) {
      const State state = spelt(automaton, s);
      REQUIRE(state != SuffixAutomaton::kNone);
      if (s.empty()) continue;
      // The link is the longest suffix that ends in more places.
      Tokens suffix = s;
      while (!suffix.empty() && ends[suffix] == ends[s]) suffix.erase(suffix.begin());
      CHECK_EQ(automaton.len(automaton.link(state)), static_cast<int32_t>(suffix.size()));
    }
    // Nothing else: as many paths as substrings.
    std::map<State, int64_t> paths;
    const auto count = [&](auto& self, State state) -> int64_t {
      if (const auto known = paths.find(state); known != paths.end()) return known->second;
      int64_t n = 1;
      automaton.for_each_next(state, 1 << 20, [&](int32_t, State to, int32_t) { n += self(self, to); });
      return paths[state] = n;
    };
    CHECK_EQ(count(count, SuffixAutomaton::kRoot), static_cast<int64_t>(substrings.size()));
    CHECK(automaton.num_states() <= 2 * longest + 1);
    for (const auto& [text, end] : texts) CHECK_EQ(spelt(automaton, text), end);
  }
}

TEST(suffix_automaton_counts_how_often_a_long_context_went_on) {
  SuffixAutomaton automaton;
  State end = SuffixAutomaton::kRoot;
  for (int32_t token : Tokens{1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2}) end = automaton.extend(end, token);
  std::map<int32_t, int32_t> counts;
  automaton.for_each_next(automaton.link(end), 10, [&](int32_t token, State, int32_t count) { counts[token] = count; });
  CHECK(counts == (std::map<int32_t, int32_t>{{3, 2}, {4, 1}}));
}

DraftContext context(BranchKey branch, int32_t last = 0, int32_t max_nodes = 16, int32_t max_depth = 16) {
  return {branch, last, max_nodes, max_depth, 0.001f};
}

// The likeliest chain of a proposal.
Tokens chain(const std::vector<DraftNode>& nodes) {
  Tokens tokens;
  int32_t at = -1;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].parent != at) continue;
    tokens.push_back(nodes[i].token);
    at = static_cast<int32_t>(i);
  }
  return tokens;
}

Tokens suffix_chain(SuffixSource& source, BranchKey branch, int32_t max_nodes = 16, int32_t max_depth = 16) {
  std::vector<DraftNode> nodes;
  source.propose(context(branch, 0, max_nodes, max_depth), nodes);
  CHECK(static_cast<int32_t>(nodes.size()) <= max_nodes);
  return chain(nodes);
}

TEST(suffix_source_drafts_what_followed_the_same_text) {
  SuffixSource source;
  CHECK_EQ(source.known_len(1), 0);
  source.extend(1, Tokens{10, 11, 12, 13, 14, 50, 10, 11, 12}, 9);
  CHECK_EQ(source.known_len(1), 9);
  CHECK(suffix_chain(source, 1, 8) == Tokens({13, 14, 50, 10, 11, 12, 13, 14}));
  CHECK(suffix_chain(source, 1, 2) == Tokens({13, 14}));
  CHECK(suffix_chain(source, 1, 16, 1) == Tokens({13}));
  source.extend(1, Tokens{60}, 10);
  CHECK(suffix_chain(source, 1).empty());
}

TEST(suffix_source_drafts_from_siblings_and_from_branches_that_are_gone) {
  SuffixSource source;
  source.extend(1, Tokens{1, 2, 3}, 3);
  source.fork(1, 2);
  CHECK_EQ(source.known_len(2), 3);
  source.extend(2, Tokens{4, 5, 6}, 6);
  CHECK(suffix_chain(source, 1) == Tokens({4, 5, 6}));  // the sibling is ahead on the same text
  source.forget(2);
  CHECK_EQ(source.known_len(2), 0);
  source.extend(3, Tokens{9, 9, 4}, 3);
  CHECK(suffix_chain(source, 3) == Tokens({5, 6}));
}

TEST(suffix_source_trusts_longer_matches_more) {
  SuffixSource source;
  source.extend(1, Tokens{1, 2, 3, 4, 5, 6, 7, 30, 40, 4, 5, 6, 7}, 13);
  source.extend(2, Tokens{70, 7}, 2);
  std::vector<DraftNode> of_long, of_short;
  source.propose(context(1), of_long);
  source.propose(context(2), of_short);
  REQUIRE(!of_long.empty() && !of_short.empty());
  CHECK(of_long[0].token == 30 && of_short[0].token == 30);
  CHECK(of_long[0].probability > of_short[0].probability);
  CHECK(of_long[0].rank > of_short[0].rank);
}

TEST(suffix_source_drops_a_full_automaton_and_goes_on) {
  SuffixSource source(400);
  std::mt19937 random(3);
  Tokens text;
  for (int i = 0; i < 3000; ++i) {
    text.push_back(static_cast<int32_t>(random() % 20));
    const int32_t len = static_cast<int32_t>(text.size());
    const int32_t known = source.known_len(1);
    CHECK(known == 0 || known == len - 1);
    source.extend(1, std::span(text).subspan(known), len);
    CHECK(source.automaton().num_states() <= 400);
  }
  CHECK(source.generation() > 3);
  // A branch of an old generation is unknown, and is told its text again.
  source.extend(2, Tokens{1, 2, 3, 1, 2}, 5);
  const int64_t generation = source.generation();
  while (source.generation() == generation) source.extend(1, Tokens{static_cast<int32_t>(random() % 20)}, 1);
  CHECK_EQ(source.known_len(2), 0);
  CHECK(suffix_chain(source, 2).empty());
  source.extend(2, Tokens{31, 32, 33, 31, 32}, 5);
  CHECK(suffix_chain(source, 2, 3) == Tokens({33, 31, 32}));
}

TEST(suffix_source_goes_on_with_a_repetition) {
  SuffixSource source;
  source.extend(1, Tokens(500, 5), 500);
  CHECK(suffix_chain(source, 1, 8) == Tokens(8, 5));
  source.extend(2, Tokens{1, 2, 3, 1, 2, 3, 1}, 7);
  CHECK(suffix_chain(source, 2, 8) == Tokens({2, 3, 1, 2, 3, 1, 2, 3}));
}

TEST(recycling_source_walks_the_latest_successors) {
  RecyclingSource source(100);
  std::vector<DraftNode> nodes;
  source.propose(context(0, 5), nodes);
  CHECK(nodes.empty());

  const auto successors = [](std::vector<std::pair<int32_t, double>> list) {
    std::vector<TokenLogprob> result;
    for (const auto& [token, probability] : list) result.push_back({token, static_cast<float>(std::log(probability))});
    return result;
  };
  source.observe(5, successors({{40, 0.9}}));
  source.observe(5, successors({{6, 0.6}, {7, 0.3}}));  // the latest counts
  source.observe(6, successors({{8, 0.9}}));
  source.observe(100, successors({{8, 0.9}}));  // outside of the vocabulary: ignored
  source.propose(context(0, 5), nodes);
  REQUIRE(nodes.size() == 3);
  CHECK(nodes[0].token == 6 && nodes[0].parent == -1 && nodes[0].rank == 0);
  CHECK(nodes[1].token == 8 && nodes[1].parent == 0);  // 0.54 before 0.3
  CHECK(nodes[2].token == 7 && nodes[2].parent == -1 && nodes[2].rank == 1);
  CHECK_NEAR(nodes[1].probability, 0.9, 1e-6);

  nodes.clear();
  DraftContext strict = context(0, 5);
  strict.min_probability = 0.5f;
  source.propose(strict, nodes);
  CHECK_EQ(nodes.size(), size_t{2});
}

TEST(best_first_trees_end_at_their_limits) {
  BestFirst<int32_t> best_first;
  std::vector<DraftNode> nodes;
  const auto two_children = [](int32_t state, int32_t, auto push) {
    push(2 * state, 0.9f, 0, 2 * state);
    push(2 * state + 1, 0.8f, 1, 2 * state + 1);
  };
  best_first.grow(1, {0, 0, 40, 3, 0}, nodes, two_children);
  CHECK_EQ(nodes.size(), size_t{14});  // 2 + 4 + 8
  nodes.clear();
  best_first.grow(1, {0, 0, 5, 30, 0}, nodes, two_children);
  CHECK_EQ(nodes.size(), size_t{5});
  for (size_t i = 0; i < nodes.size(); ++i) CHECK(nodes[i].parent < static_cast<int32_t>(i));
}

}  // namespace
}  // namespace deftree
