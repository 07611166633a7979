#include "engine/draft_gain.h"

#include <algorithm>

namespace deftree {
namespace {

constexpr double kDecay = 0.95;  // of a step: about the last 20 count
constexpr double kLeastBias = 0.25, kTrusted = 0.95;
constexpr double kSlowest = 1.5;  // times what was expected; a step that took longer lost its processor
constexpr int32_t kFirstStart = 16, kLastStart = 1024, kLeastObserved = 16;

constexpr double kMeanWeight = 0.1;
constexpr int32_t kTrials = 16;       // steps before a source is judged
constexpr double kIdleShare = 0.004;  // of the time, for asking a source that does not earn it
constexpr double kLongestRest = 512;

}  // namespace

double GainBias::value() const { return std::clamp(tokens_ / ns_, kLeastBias, 1.0); }

void GainBias::observe(const DraftedStep& step) {
  tokens_ = tokens_ * kDecay + step.tokens / step.expected_tokens;
  ns_ = ns_ * kDecay + std::min(step.ns / step.expected_ns, kSlowest);
  if (++num_observed_ >= kLeastObserved && value() >= kTrusted) next_start_ = kFirstStart;
}

bool GainBias::begins_anew() {
  if (++num_turned_down_ < next_start_) return false;
  tokens_ = ns_ = kStart;
  num_observed_ = num_turned_down_ = 0;
  next_start_ = std::min(2 * next_start_, kLastStart);
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
