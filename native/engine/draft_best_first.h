// Grows a draft tree likeliest node first, so that it may be cut off anywhere (EAGLE-2, Li et al., EMNLP 2024, ranks
// draft tokens by the product of the probabilities on their path in the same way).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/draft_source.h"

namespace deftree {

// State: what a source needs to find the children of a node.
template <class State>
class BestFirst {
 public:
  // expand(state, depth, push) calls push(token, probability, rank, child_state) for each child, depth being that of the
  // children.
  template <class Expand>
  void grow(const State& root, const DraftContext& context, std::vector<DraftNode>& nodes, Expand expand) {
    frontier_.clear();
    const auto expand_below = [&](const State& state, int32_t parent, int32_t depth, float path_probability) {
      expand(state, depth, [&](int32_t token, float probability, int32_t rank, const State& child) {
        const float path = path_probability * probability;
        if (path < context.min_probability || path <= 0) return;
        frontier_.push_back({path, next_order_++, depth, {parent, token, probability, rank}, child});
        std::ranges::push_heap(frontier_, later);
      });
    };
    next_order_ = 0;
    expand_below(root, -1, 1, 1.0f);
    while (!frontier_.empty() && static_cast<int32_t>(nodes.size()) < context.max_nodes) {
      std::ranges::pop_heap(frontier_, later);
      const Entry best = frontier_.back();
      frontier_.pop_back();
      const int32_t node = static_cast<int32_t>(nodes.size());
      nodes.push_back(best.node);
      if (best.depth < context.max_depth) expand_below(best.state, node, best.depth + 1, best.path_probability);
    }
  }

 private:
  struct Entry {
    float path_probability;
    int32_t order;  // of discovery: breaks ties, so that the same state gives the same tree
    int32_t depth;
    DraftNode node;
    State state;
  };
  static bool later(const Entry& a, const Entry& b) {
    return a.path_probability != b.path_probability ? a.path_probability < b.path_probability : a.order > b.order;
  }

  std::vector<Entry> frontier_;
  int32_t next_order_ = 0;
};

}  // namespace deftree
