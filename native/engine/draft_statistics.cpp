#include "engine/draft_statistics.h"

#include <algorithm>

namespace deftree {
namespace {

constexpr double kDecay = 0.98;  // for each unit of claimed probability: about the last 50 claims count
constexpr float kMostCertain = 0.98f;

}  // namespace

double DraftStatistics::ratio(DraftSourceId source, int32_t rank) const {
  const Sums& sums = sums_[static_cast<size_t>(source)][rank];
  return sums.drawn / sums.claimed;
}

float DraftStatistics::calibrated(DraftSourceId source, int32_t rank, float claim) const {
  return std::min(kMostCertain, claim * static_cast<float>(ratio(source, rank)));
}

void DraftStatistics::observe(DraftSourceId source, int32_t rank, float claim, bool drawn) {
  Sums& sums = sums_[static_cast<size_t>(source)][rank];
  const double keep = 1 - (1 - kDecay) * claim;
  sums.claimed = sums.claimed * keep + claim;
  sums.drawn = sums.drawn * keep + (drawn ? 1 : 0);
}

}  // namespace deftree
