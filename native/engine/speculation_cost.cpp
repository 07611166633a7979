#include "engine/speculation_cost.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "common/error.h"

namespace deftree {
namespace {

constexpr double kWeight = 0.1;  // of one step against what is known
constexpr int64_t kSeenLately = 64;  // observations
constexpr double kReturn = 0.02;     // of the way back to the measured relation, for a point that is not seen

}  // namespace

StepCost::StepCost(std::vector<StepCostPoint> points) : points_(std::move(points)) {
  for (size_t i = 0; i < points_.size(); ++i) {
    const bool ascends = i == 0 ? points_[i].rows == 1 : points_[i].rows > points_[i - 1].rows;
    if (ascends && points_[i].ns > 0 && std::isfinite(points_[i].ns)) continue;
    throw Error(ErrorCode::kBadArgument,
                "step cost: point " + std::to_string(i) + " has " + std::to_string(points_[i].rows) + " rows and " +
                    std::to_string(points_[i].ns) + " ns; rows ascend from 1 and times are positive",
                {{"rows", points_[i].rows}, {"ns", points_[i].ns}});
  }
  for (size_t i = 1; i < points_.size(); ++i) points_[i].ns = std::max(points_[i].ns, points_[i - 1].ns);
  for (const StepCostPoint& point : points_) measured_.push_back(point.ns);
  last_seen_.assign(points_.size(), -kSeenLately);
}

double StepCost::ns(int32_t rows) const {
  if (points_.size() == 1) return points_[0].ns * rows;
  const auto above = std::ranges::lower_bound(points_, rows, {}, &StepCostPoint::rows);
  const size_t right = std::clamp<size_t>(above - points_.begin(), 1, points_.size() - 1);
  const StepCostPoint &a = points_[right - 1], &b = points_[right];
  return a.ns + (b.ns - a.ns) * (rows - a.rows) / (b.rows - a.rows);
}

double StepCost::least_row_share(int32_t rows) const {
  if (points_.size() < 2) return 1;
  double least = 1;
  for (size_t i = 1; i < points_.size(); ++i) {
    if (points_[i].rows <= rows && i + 1 < points_.size()) continue;
    const double slope = (points_[i].ns - points_[i - 1].ns) / (points_[i].rows - points_[i - 1].rows);
    least = std::min(least, slope / ns(rows));
  }
  return least;
}

void StepCost::observe(int32_t rows, double ns) {
  if (points_.empty() || !(ns > 0)) return;
  const double factor = std::exp(kWeight * std::log(std::clamp(ns / this->ns(rows), 0.5, 2.0)));
  ++num_observed_;
  // The points at `rows`, or on both sides of it.
  const int right = static_cast<int>(std::ranges::lower_bound(points_, rows, {}, &StepCostPoint::rows) - points_.begin());
  const int num_points = static_cast<int>(points_.size());
  const int left = right < num_points && points_[right].rows == rows ? right : right - 1;
  const auto is_near = [&](int i) { return i == left || i == right; };
  double scale = 1;  // of the last near point, against the measurement
  const auto follow = [&](int begin, int direction) {
    for (int i = begin; i >= 0 && i < num_points; i += direction) {
      if (!is_near(i) && num_observed_ - last_seen_[i] < kSeenLately) return;
      points_[i].ns *= factor;
      if (is_near(i)) {
        last_seen_[i] = num_observed_;
        scale = points_[i].ns / measured_[i];
      } else {
        points_[i].ns += kReturn * (scale * measured_[i] - points_[i].ns);
      }
    }
  };
  follow(left, -1);
  follow(left == right ? right + 1 : right, 1);
  for (int i = 1; i < num_points; ++i) points_[i].ns = std::max(points_[i].ns, points_[i - 1].ns);
}

}  // namespace deftree
