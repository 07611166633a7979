// sample_token and log_prob (engine/sampler.h) for many rows at once, on the GPU that holds the logits.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <span>

#include "engine/sampler.h"

namespace deftree {

class CudaSampler {
 public:
  // How the blocks that share a row wait for one another: in a cluster (compute capability 9.0), or by a counter in
  // global memory in a cooperative launch. kAuto: a cluster where the GPU has them.
  enum class RowBarrier { kAuto, kCounter };

  // Device memory for `max_requests` rows at once at most; more are served in turns of the same launch. Parameters and
  // results pass through page-locked buffers that grow with what a call needs. Throws kBadArgument when a GPU's shared
  // memory cannot hold a row of `vocab_size`, kOutOfMemory, kDevice.
  CudaSampler(int vocab_size, int max_requests, RowBarrier barrier = RowBarrier::kAuto);
  ~CudaSampler();
  CudaSampler(const CudaSampler&) = delete;
  CudaSampler& operator=(const CudaSampler&) = delete;

  // Draws a token for each request from logits row requests[i].logit_row. logits: [num_rows, vocab_size] f32 on the
  // device, not changed. Enqueues one kernel on `stream` and waits for it: the one point of a step at which the host
  // waits. What the requests need goes up beside the work that is still on `stream`. Requests that differ only in seed,
  // path and position share the work on their row. The token is sample_token's for the same logits, unless the draw or
  // the edge of top-p lies within the rounding of its single-precision sums (5e-7 of the whole) of another token; it
  // never depends on the other requests. Throws what sample_token throws, kBadArgument also for more than 1024
  // log-probabilities and for a row out of range; then the results are undefined. Throws kDevice when the GPU failed.
  void sample(const float* logits, int num_rows, std::span<const SampleRequest> requests,
              std::span<SampledToken> results, cudaStream_t stream);

  // results[i] = log softmax(logits row rows[i])[tokens[i]]. Waits as sample() does.
  void log_probs(const float* logits, int num_rows, std::span<const int32_t> rows, std::span<const int32_t> tokens,
                 std::span<float> results, cudaStream_t stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace deftree
