#include "engine/draft_suffix_automaton.h"

#include <utility>

namespace deftree {
namespace {

constexpr size_t kFirstTable = 1024;
// A token counts for this many of the contexts it stands in, from the longest known one downwards.
constexpr int kCountedContexts = 4;

}  // namespace

void SuffixAutomaton::clear() {
  states_.assign(1, {0, kNone, -1});
  edges_.clear();
  table_.assign(kFirstTable, -1);
  num_in_table_ = 0;
}

size_t SuffixAutomaton::bytes() const {
  return states_.capacity() * sizeof(StateData) + edges_.capacity() * sizeof(Edge) + table_.capacity() * sizeof(int32_t);
}

SuffixAutomaton::State SuffixAutomaton::new_state(int32_t len) {
  states_.push_back({len, kNone, -1});
  return num_states() - 1;
}

size_t SuffixAutomaton::bucket_of(State from, int32_t token) const {
  const uint64_t key = (uint64_t{static_cast<uint32_t>(from)} << 32 | static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15ULL;
  return (key ^ key >> 32) & (table_.size() - 1);
}

int32_t SuffixAutomaton::find_edge(State from, int32_t token) const {
  const int32_t first = states_[from].first_edge;
  if (first < 0 || edges_[first].token == token) return first;
  if (edges_[first].next_edge < 0) return -1;
  for (size_t bucket = bucket_of(from, token);; bucket = (bucket + 1) & (table_.size() - 1)) {
    const int32_t edge = table_[bucket];
    if (edge < 0 || (edges_[edge].from == from && edges_[edge].token == token)) return edge;
  }
}

SuffixAutomaton::State SuffixAutomaton::next(State state, int32_t token) const {
  const int32_t edge = find_edge(state, token);
  return edge < 0 ? kNone : edges_[edge].to;
}

void SuffixAutomaton::put_in_table(int32_t edge) {
  if (++num_in_table_ * 2 > table_.size()) {
    const std::vector<int32_t> old = std::exchange(table_, std::vector<int32_t>(table_.size() * 2, -1));
    num_in_table_ = 1;
    for (int32_t other : old) {
      if (other >= 0) put_in_table(other);
    }
  }
  size_t bucket = bucket_of(edges_[edge].from, edges_[edge].token);
  while (table_[bucket] >= 0) bucket = (bucket + 1) & (table_.size() - 1);
  table_[bucket] = edge;
}

void SuffixAutomaton::add_edge(State from, int32_t token, State to, int32_t count) {
  const int32_t edge = static_cast<int32_t>(edges_.size()), before = states_[from].first_edge;
  edges_.push_back({from, to, token, before, count});
  states_[from].first_edge = edge;
  if (before < 0) return;
  if (edges_[before].next_edge < 0) put_in_table(before);
  put_in_table(edge);
}

void SuffixAutomaton::count_seen(State from, int32_t token) {
  for (int i = 0; i < kCountedContexts && from != kNone; ++i, from = states_[from].link) {
    ++edges_[find_edge(from, token)].count;
  }
}

// The state behind `edge` when the longest text there is `from`'s with the token behind it; otherwise that text gets a
// state of its own, split off the one behind the edge.
SuffixAutomaton::State SuffixAutomaton::target_of_length(State from, int32_t edge) {
  const State old = edges_[edge].to;
  const int32_t token = edges_[edge].token;
  if (states_[old].len == states_[from].len + 1) return old;
  const State split = new_state(states_[from].len + 1);
  states_[split].link = states_[old].link;
  states_[old].link = split;
  for (int32_t e = states_[old].first_edge; e >= 0; e = edges_[e].next_edge) {
    add_edge(split, edges_[e].token, edges_[e].to, edges_[e].count);
  }
  for (; from != kNone; from = states_[from].link) {
    const int32_t e = find_edge(from, token);
    if (edges_[e].to != old) break;
    edges_[e].to = split;
  }
  return split;
}

SuffixAutomaton::State SuffixAutomaton::extend(State at, int32_t token) {
  if (const int32_t edge = find_edge(at, token); edge >= 0) {
    count_seen(at, token);
    return target_of_length(at, edge);
  }
  const State end = new_state(states_[at].len + 1);
  int32_t edge = -1;
  for (; at != kNone && (edge = find_edge(at, token)) < 0; at = states_[at].link) add_edge(at, token, end, 1);
  if (at == kNone) {
    states_[end].link = kRoot;
  } else {
    count_seen(at, token);
    states_[end].link = target_of_length(at, edge);
  }
  return end;
}

}  // namespace deftree
