// From sampling requests to the kernel's jobs, on the host.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/cuda/sampler_params.h"
#include "engine/sampler.h"

namespace deftree::sampler {

// The jobs of one launch and what they refer to. Kept between launches, so that a step allocates nothing.
class JobList {
 public:
  explicit JobList(int vocab_size) : vocab_size_(vocab_size), edit_of_token_(vocab_size, 0) {}

  // One job for the requests of a row that have one distribution. Throws kBadArgument as CudaSampler::sample does.
  void set_samples(std::span<const SampleRequest> requests, int num_rows);
  // One job for each of the distinct rows.
  void set_scores(std::span<const int32_t> rows, std::span<const int32_t> tokens, int num_rows);

  std::span<const SampleJob> jobs() const { return jobs_; }
  std::span<const TokenEdit> edits() const { return edits_; }
  std::span<const uint64_t> masks() const { return masks_; }
  std::span<const Draw> draws() const { return draws_; }
  int num_top() const { return num_top_; }
  // Whether every job is greedy without edits, mask and log-probabilities.
  bool is_greedy() const;
  // Of request i.
  int job_of(size_t i) const { return job_of_[i]; }
  int draw_of(size_t i) const { return draw_of_[i]; }

 private:
  void clear(int num_rows);
  int add_job(const SampleRequest& request);
  void add_edits(SampleJob& job, const SampleRequest& request);
  TokenEdit& edit_of(const SampleJob& job, int32_t token, const char* what);
  void check_row(int32_t row, int num_rows) const;
  void check_token(int32_t token, const char* what) const;
  void place_draws();

  int vocab_size_;
  std::vector<SampleJob> jobs_;
  std::vector<TokenEdit> edits_;
  std::vector<uint64_t> masks_;
  std::vector<Draw> draws_;
  int num_top_ = 0;
  std::vector<int> last_job_of_row_;    // [num_rows]; -1: none
  std::vector<int> job_of_, draw_of_;   // [requests]
  std::vector<int> request_of_;         // [jobs] the first one
  std::vector<int32_t> edit_of_token_;  // [vocab_size] where the token's edit is if it has one, else anything
};

}  // namespace deftree::sampler
