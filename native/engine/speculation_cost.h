// What a step costs by its number of query rows: measured points, kept up to date by the steps themselves.
#pragma once

#include <cstdint>
#include <vector>

namespace deftree {

struct StepCostPoint {
  int32_t rows;
  double ns;  // of a step with so many rows, logits wanted of each
};

class StepCost {
 public:
  // Throws kBadArgument unless rows ascend from 1 and times are positive. No points: unknown.
  explicit StepCost(std::vector<StepCostPoint> points = {});

  bool known() const { return !points_.empty(); }
  // Linear between points and beyond the last two; never falls with rows. rows >= 1.
  double ns(int32_t rows) const;
  // The least that one more row adds to a step of `rows` rows or more, as a share of that step.
  double least_row_share(int32_t rows) const;
  // A step of `rows` rows took `ns`. The points around it follow, and beyond them those that were not seen for a while, up
  // to the next that was: a longer context or a slower clock moves the whole curve. Points that are not seen also go back
  // to their measured relation to the ones that are: else a slow hour would make drafts look dear for ever, since steps
  // without them never tell otherwise. One step counts for at most a factor of two, so that a lost time slice does little.
  void observe(int32_t rows, double ns);

  const std::vector<StepCostPoint>& points() const { return points_; }

 private:
  std::vector<StepCostPoint> points_;
  std::vector<double> measured_;    // [points] as given
  std::vector<int64_t> last_seen_;  // [points] observation that last told of it
  int64_t num_observed_ = 0;
};

}  // namespace deftree
