// A suffix automaton over many texts at once (Blumer et al., Theoretical Computer Science 40, 1985): the smallest graph
// whose paths from the root spell exactly the substrings of all texts. Texts grow at their ends, in any order, and two
// that begin alike share what they have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace deftree {

class SuffixAutomaton {
 public:
  // A state is a class of substrings that end in the same places. An end of a text is the state of the whole text.
  using State = int32_t;
  static constexpr State kRoot = 0;  // the empty text
  static constexpr State kNone = -1;

  SuffixAutomaton() { clear(); }

  // The state of `at`'s text with `token` behind it; `at` must be the end of a text (kRoot, or what extend() returned
  // since the last clear()). Amortised O(1).
  State extend(State at, int32_t token);
  void clear();

  int32_t num_states() const { return static_cast<int32_t>(states_.size()); }
  int32_t len(State state) const { return states_[state].len; }    // of its longest substring
  State link(State state) const { return states_[state].link; }    // of its longest suffix that ends in more places
  State next(State state, int32_t token) const;                    // kNone: no text goes on so
  bool has_next(State state) const { return states_[state].first_edge >= 0; }
  size_t bytes() const;

  // Calls body(token, state, count) for the continuations of `state`, the newest first, at most `most`. `count` is about
  // how often the continuation was seen: exact for the longest contexts, cut off for shorter ones.
  template <class Body>
  void for_each_next(State state, int32_t most, Body body) const {
    int32_t edge = states_[state].first_edge;
    for (; edge >= 0 && most > 0; edge = edges_[edge].next_edge, --most) {
      body(edges_[edge].token, edges_[edge].to, edges_[edge].count);
    }
  }

 private:
  struct StateData {
    int32_t len;
    State link;
    int32_t first_edge;  // -1: none
  };
  struct Edge {
    State from, to;
    int32_t token;
    int32_t next_edge;  // of the same state, an older one
    int32_t count;
  };

  State new_state(int32_t len);
  int32_t find_edge(State from, int32_t token) const;  // -1: none
  void add_edge(State from, int32_t token, State to, int32_t count);
  void put_in_table(int32_t edge);
  size_t bucket_of(State from, int32_t token) const;
  void count_seen(State from, int32_t token);
  State target_of_length(State from, int32_t edge);

  std::vector<StateData> states_;
  std::vector<Edge> edges_;
  // Open addressing over (from, token) for states with several edges, most having one: edge or -1; a power of two, at
  // most half full.
  std::vector<int32_t> table_;
  size_t num_in_table_ = 0;
};

}  // namespace deftree
