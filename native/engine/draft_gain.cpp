#include "engine/draft_gain.h"

#include <algorithm>

namespace deftree {
namespace {

constexpr double kDecay = 0.95;  // of a step: about the last 20 count
constexpr double kLeastBias = 0.25, kTrusted = 0.95;
constexpr double kSlowest = 2;  // times what was expected; a step that took longer lost its processor
constexpr int32_t kFirstProbe = 16, kLastProbe = 1024;

constexpr double kMeanWeight = 0.1;
constexpr int32_t kTrials = 16;           // steps before a source is judged
constexpr double kIdleShare = 0.004;      // of the time, for asking a source that does not earn it
constexpr double kLongestRest = 512;

}  // namespace

double GainBias::value() const {
  return std::clamp(tokens_ / expected_tokens_ * expected_ns_ / ns_, kLeastBias, 1.0);
}

void GainBias::observe(const DraftedStep& step) {
  // Times count relative to what was expected, so that one long step does not drown many short ones.
  const double slowness = std::min(step.ns / step.expected_ns, kSlowest);
  expected_tokens_ = expected_tokens_ * kDecay + step.expected_tokens;
  tokens_ = tokens_ * kDecay + step.tokens;
  expected_ns_ = expected_ns_ * kDecay + 1;
  ns_ = ns_ * kDecay + slowness;
  if (value() >= kTrusted) next_probe_ = kFirstProbe;
}

bool GainBias::probe() {
  if (++num_turned_down_ < next_probe_) return false;
  num_turned_down_ = 0;
  next_probe_ = std::min(2 * next_probe_, kLastProbe);
  return true;
}

bool SourceLedger::is_due() {
  if (rest_ == 0) return true;
  --rest_;
  return false;
}

void SourceLedger::observe(double cost_ns, double saved_ns, double step_ns) {
  ++num_asked_;
  const double weight = std::max(kMeanWeight, 1.0 / num_asked_);
  // A lost time slice counts for little.
  const double cost = num_asked_ == 1 ? cost_ns : std::min(cost_ns, 4 * cost_ns_ + 1);
  cost_ns_ += (cost - cost_ns_) * weight;
  saved_ns_ += (saved_ns - saved_ns_) * weight;
  if (num_asked_ < kTrials || saved_ns_ >= cost_ns_) return;
  rest_ = static_cast<int32_t>(std::min(cost_ns_ / (kIdleShare * step_ns), kLongestRest));
}

}  // namespace deftree
