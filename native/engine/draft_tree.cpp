#include "engine/draft_tree.h"

#include <algorithm>
#include <numeric>

namespace deftree {

bool is_draft_tree(std::span<const DraftNode> nodes, const DraftContext& context, int32_t vocab_size) {
  if (nodes.size() > static_cast<size_t>(context.max_nodes)) return false;
  std::vector<int32_t> depth(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    const DraftNode& node = nodes[i];
    if (node.parent < -1 || node.parent >= static_cast<int32_t>(i)) return false;
    depth[i] = node.parent < 0 ? 1 : depth[node.parent] + 1;
    if (depth[i] > context.max_depth) return false;
    if (node.token < 0 || node.token >= vocab_size) return false;
    if (!(node.probability > 0 && node.probability <= 1) || node.rank < 0 || node.rank >= kNumDraftRanks) return false;
    for (size_t j = 0; j < i; ++j) {
      if (nodes[j].parent == node.parent && nodes[j].token == node.token) return false;
    }
  }
  return true;
}

void merge_draft(DraftSourceId source, std::span<const DraftNode> nodes, std::vector<DraftCandidate>& candidates) {
  std::vector<int32_t> place(nodes.size());
  const size_t num_before = candidates.size();
  for (size_t i = 0; i < nodes.size(); ++i) {
    const int32_t parent = nodes[i].parent < 0 ? -1 : place[nodes[i].parent];
    const auto before = candidates.begin() + num_before;
    auto same = std::find_if(candidates.begin(), before, [&](const DraftCandidate& c) {
      return c.parent == parent && c.token == nodes[i].token;
    });
    if (same == before) {
      candidates.push_back({parent, nodes[i].token, 0, 0, {}});
      same = candidates.end() - 1;
    }
    same->claims[static_cast<size_t>(source)] = {nodes[i].probability, nodes[i].rank};
    place[i] = static_cast<int32_t>(same - candidates.begin());
  }
}

void rank_candidates(const DraftStatistics& statistics, float trust, std::vector<DraftCandidate>& candidates) {
  for (DraftCandidate& candidate : candidates) {
    candidate.probability = 0;
    for (int source = 0; source < kNumDraftSources; ++source) {
      const DraftClaim& claim = candidate.claims[source];
      if (claim.probability == 0) continue;
      candidate.probability = std::max(
          candidate.probability, statistics.calibrated(static_cast<DraftSourceId>(source), claim.rank, claim.probability));
    }
    const float above = candidate.parent < 0 ? 1 : candidates[candidate.parent].path_probability;
    candidate.path_probability = above * std::min(candidate.probability * trust, 1.0f);
  }
  std::vector<int32_t> order(candidates.size()), place(candidates.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(), [&](int32_t i) { return candidates[i].path_probability; });
  std::vector<DraftCandidate> ranked;
  for (int32_t i : order) {
    place[i] = static_cast<int32_t>(ranked.size());
    ranked.push_back(candidates[i]);
    if (candidates[i].parent >= 0) ranked.back().parent = place[candidates[i].parent];
  }
  candidates = std::move(ranked);
}

void keep_candidates(std::span<const char> keeps, std::vector<DraftCandidate>& candidates) {
  std::vector<int32_t> place(candidates.size(), -1);
  size_t num_kept = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const int32_t parent = candidates[i].parent;
    if (keeps[i] == 0 || (parent >= 0 && place[parent] < 0)) continue;
    place[i] = static_cast<int32_t>(num_kept);
    candidates[num_kept] = candidates[i];
    candidates[num_kept++].parent = parent < 0 ? -1 : place[parent];
  }
  candidates.resize(num_kept);
}

double choose_draft_trees(std::span<const std::vector<float>> candidates, const StepCost& cost, const DraftBudget& budget,
                          std::span<int32_t> counts) {
  std::ranges::fill(counts, 0);
  if (!cost.known() || candidates.empty() || budget.max_drafts <= 0) return 1;
  struct Next {
    bool beyond_share;
    float path_probability;
    int32_t branch, index;
  };
  std::vector<Next> order;
  const int32_t share = std::max(1, budget.max_drafts / static_cast<int32_t>(candidates.size()));
  for (size_t branch = 0; branch < candidates.size(); ++branch) {
    for (size_t i = 0; i < candidates[branch].size(); ++i) {
      order.push_back({static_cast<int32_t>(i) >= share, candidates[branch][i], static_cast<int32_t>(branch),
                       static_cast<int32_t>(i)});
    }
  }
  // The shares matter only when not all rows that could be worth it fit.
  const bool short_of_rows = order.size() > static_cast<size_t>(budget.max_drafts);
  std::ranges::stable_sort(order, [&](const Next& a, const Next& b) {
    if (short_of_rows && a.beyond_share != b.beyond_share) return b.beyond_share;
    return a.path_probability > b.path_probability;
  });

  const double plain = budget.num_tokens / cost.ns(budget.num_rows);
  double tokens = budget.num_tokens, best = budget.least_gain * plain;
  size_t num_chosen = 0;
  const size_t most = std::min(order.size(), static_cast<size_t>(budget.max_drafts));
  for (size_t n = 1; n <= most; ++n) {
    tokens += order[n - 1].path_probability;
    const double rate = tokens / (cost.ns(budget.num_rows + static_cast<int32_t>(n)) + budget.drafting_ns);
    if (rate <= best) continue;
    best = rate;
    num_chosen = n;
  }
  for (size_t n = 0; n < num_chosen; ++n) ++counts[order[n].branch];
  return num_chosen == 0 ? 1 : best / plain;
}

}  // namespace deftree
