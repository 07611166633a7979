// Whether speculation pays, judged by what steps took and gave: predictions that do not come true are believed less, and
// a source that does not earn its time is asked less often. Pure bookkeeping, without a clock.
#pragma once

#include <cstdint>

namespace deftree {

// What a step with drafts was expected to do, and what it did.
struct DraftedStep {
  double expected_tokens, tokens;
  double expected_ns, ns;
};

// How predicted gains bear out. The best of many noisy predictions is too good on average, and a step with drafts has
// costs that no curve knows, so the steps that were chosen disappoint: by this factor.
class GainBias {
 public:
  // Realised over predicted gain of the last steps with drafts, in [0.25, 1]; 1 to begin with.
  double value() const;
  void observe(const DraftedStep& step);
  // Drafts were turned down that would have been chosen without the bias. True when it begins anew, and they run: after 16
  // such steps, then 32 and so on to 1024, until predictions come true again.
  bool begins_anew();

 private:
  // Sums over the last steps, relative to what was expected. They start with steps that went as expected.
  static constexpr double kStart = 8;
  double tokens_ = kStart, ns_ = kStart;
  int32_t num_observed_ = 0;  // since the start
  int32_t num_turned_down_ = 0, next_start_ = 16;
};

// What asking a source costs against what its drafts save. One that does not earn its time rests so long that asking takes
// a small share of all time: a cheap one is asked always, a draft model that guesses badly seldom.
class SourceLedger {
 public:
  // Once in each step in which it could be asked; counts down its rest.
  bool is_due();
  // A step in which it was asked, for all branches: its time, and the time that the accepted tokens it proposed would have
  // taken one by one.
  void observe(double cost_ns, double saved_ns, double step_ns);

 private:
  double cost_ns_ = 0, saved_ns_ = 0;  // decayed means
  int32_t num_asked_ = 0, rest_ = 0;
};

}  // namespace deftree
