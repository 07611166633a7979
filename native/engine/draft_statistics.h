// How far a source's claims can be believed: decayed acceptance by source and rank.
#pragma once

#include <array>

#include "engine/draft_source.h"

namespace deftree {

class DraftStatistics {
 public:
  // Drawn over claimed, so far: 1 for a source whose claims are right on average.
  double ratio(DraftSourceId source, int32_t rank) const;
  // The claim corrected by it, at most 0.98.
  float calibrated(DraftSourceId source, int32_t rank, float claim) const;
  // A node with this claim stood below a row that was reached, and its token was drawn there or not. Whether the node
  // itself was run does not matter: the row's token tells.
  void observe(DraftSourceId source, int32_t rank, float claim, bool drawn);

 private:
  // Sums with older terms worth less. The start stands for claims that are too high: a source earns its trees.
  struct Sums {
    double claimed = 4, drawn = 2.4;
  };
  std::array<std::array<Sums, kNumDraftRanks>, kNumDraftSources> sums_;
};

}  // namespace deftree
