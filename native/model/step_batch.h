// What one forward pass takes and what it reports.
#pragma once

#include <cstdint>
#include <vector>

namespace deftree {

// The rows of one forward pass, in the snapshot's order.
struct StepBatch {
  std::vector<int32_t> tokens;      // [num_queries]
  std::vector<int32_t> positions;   // [num_queries]
  std::vector<int32_t> slots;       // [num_queries] where the row's KV goes; -1: it is there already (tip query)
  std::vector<int32_t> logit_rows;  // [num_logits] query rows whose logits are wanted, ascending

  int num_queries() const { return static_cast<int>(tokens.size()); }
  int num_logits() const { return static_cast<int>(logit_rows.size()); }
};

// Where the time of steps went, in nanoseconds, summed since load.
struct BackendTimes {
  int64_t linear_ns = 0, attention_ns = 0, sampling_ns = 0, other_ns = 0;
  int64_t successors_ns = 0;  // part of sampling: what draft sources are told, summed over threads
};

}  // namespace deftree
