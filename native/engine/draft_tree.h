// From the sources' lists to one draft tree for each branch: merging, and how much of each is worth its time.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/draft_source.h"
#include "engine/draft_statistics.h"
#include "engine/speculation_cost.h"

namespace deftree {

struct DraftClaim {
  float probability = 0;  // 0: the source does not have the node
  int32_t rank = 0;
};

// A node that some source proposed for a branch.
struct DraftCandidate {
  int32_t parent;          // an earlier candidate; -1: the branch's last token
  int32_t token;
  float probability;       // the likeliest of the calibrated claims
  float path_probability;  // of being reached and drawn: the product along the path
  std::array<DraftClaim, kNumDraftSources> claims;
};

// False for what is no tree of at most context.max_nodes nodes and max_depth levels: parents that are not earlier, tokens outside of the
// vocabulary, a token twice under one parent, a claim outside of (0, 1], a rank that is none.
bool is_draft_tree(std::span<const DraftNode> nodes, const DraftContext& context, int32_t vocab_size);

// Adds a source's nodes to the branch's candidates; equal paths become one candidate. The list must be a tree.
void merge_draft(DraftSourceId source, std::span<const DraftNode> nodes, std::vector<DraftCandidate>& candidates);
// Fills in the probabilities, `trust` being the branch's own factor on them, and orders the candidates by path
// probability, parents before children: each prefix of the list is a tree, and the best one of its size.
void rank_candidates(const DraftStatistics& statistics, float trust, std::vector<DraftCandidate>& candidates);

// Keeps the candidates with keeps[i] whose parents are kept, too. Parents stand before children.
void keep_candidates(std::span<const char> keeps, std::vector<DraftCandidate>& candidates);

// What a step does without drafts, and how far drafts may go.
struct DraftBudget {
  int32_t num_rows;       // query rows without drafts
  int32_t num_tokens;     // tokens the step gives without drafts
  int32_t max_drafts;     // draft rows of all branches together
  double drafting_ns;     // time that goes into finding the drafts
  double least_gain;      // below this many times the tokens per time of the plain step, no drafts at all
};

// The trees that give most expected tokens per time over all branches. candidates[i]: branch i's path probabilities,
// descending. counts[i] becomes the number of leading candidates that branch i gets; returns the expected gain over the
// plain step, 1 when that is as good.
//
// A tree's expected accepted tokens are the sum of its path probabilities (Sequoia, Chen et al., NeurIPS 2024), so for
// each number of rows the best trees are the likeliest candidates of all branches together, and only that number is left
// to find: it maximises (tokens + sum of path probabilities) / (step time + drafting time). When rows are short, no
// branch gets more than its equal share before every other one has had its own.
double choose_draft_trees(std::span<const std::vector<float>> candidates, const StepCost& cost, const DraftBudget& budget,
                          std::span<int32_t> counts);

}  // namespace deftree
