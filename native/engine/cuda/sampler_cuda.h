// sample_token and log_prob (engine/sampler.h) for many rows at once, on the GPU that holds the logits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include <cuda_runtime_api.h>

#include "engine/sampler.h"

namespace deftree {

class CudaSampler {
 public:
  // Buffers for `max_requests` requests at once; more are served in turns.
  CudaSampler(int vocab_size, int max_requests);
  ~CudaSampler();
  CudaSampler(const CudaSampler&) = delete;
  CudaSampler& operator=(const CudaSampler&) = delete;

  // Draws a token for each request from logits row requests[i].logit_row. logits: [num_rows, vocab_size] f32 on the device,
  // not changed. Enqueues on `stream` and waits for the results: the one point of a step at which the host waits. The same token as
  // sample_token gives for the same logits, up to the rounding of sums at a boundary. Throws what sample_token throws.
  void sample(const float* logits, int num_rows, std::span<const SampleRequest> requests,
              std::span<SampledToken> results, cudaStream_t stream);

  // results[i] = log softmax(logits row rows[i])[tokens[i]].
  void log_probs(const float* logits, int num_rows, std::span<const int32_t> rows, std::span<const int32_t> tokens,
                 std::span<float> results, cudaStream_t stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace deftree
