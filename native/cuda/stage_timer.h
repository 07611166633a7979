// GPU time by stage of a step, from events between the stages.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/stream.h"

namespace deftree::cuda {

// Events keep kernels from overlapping, so a timer is only used when times are asked for. Recorded in a graph, they are
// recorded again at each of its launches, as long as the stages follow one another as they did.
class StageTimer {
 public:
  static constexpr int kNumStages = 3;

  // The next enter() is the first of a step.
  void restart() { num_marks_ = 0; }
  // Marks since restart(), and: a graph with so many marks was launched.
  size_t num_marks() const { return num_marks_; }
  void launched(size_t num_marks) { num_marks_ = num_marks; }
  // What follows on the stream belongs to `stage`; kNumStages ends the step.
  void enter(int stage, const Stream& stream) {
    if (num_marks_ == marks_.size()) marks_.push_back({std::make_unique<Event>(), stage});
    marks_[num_marks_].stage = stage;
    marks_[num_marks_++].event->record_in_graph(stream);
  }
  // Adds the times of the last step, which has ended, to the sums. Nothing was recorded: adds nothing.
  void collect() {
    for (size_t i = 0; i + 1 < num_marks_; ++i) {
      if (marks_[i].stage < kNumStages) sum_ns_[marks_[i].stage] += ns_between(i, i + 1);
    }
  }
  const std::array<int64_t, kNumStages>& sum_ns() const { return sum_ns_; }

 private:
  struct Mark {
    std::unique_ptr<Event> event;
    int stage;
  };

  int64_t ns_between(size_t begin, size_t end) const {
    return static_cast<int64_t>(marks_[end].event->ms_since(*marks_[begin].event) * 1e6);
  }

  std::vector<Mark> marks_;
  size_t num_marks_ = 0;
  std::array<int64_t, kNumStages> sum_ns_{};
};

}  // namespace deftree::cuda
