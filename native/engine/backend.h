// One model on one device with its KV pages: what the engine's step drives. CPU now; CUDA implements the same.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attention/appended_tokens.h"
#include "attention/plan.h"
#include "cache/tree_cache.h"
#include "engine/sampler.h"
#include "model/model_spec.h"
#include "model/step_batch.h"

namespace deftree {

struct BackendOptions {
  int32_t num_pages, page_size;
  std::string kv_type;      // "f32" | "f16" (CPU), "bf16" (CUDA); "auto"
  int32_t num_threads;      // CPU
  int32_t max_step_tokens;  // most query rows of a step
  // CUDA only.
  int32_t device_index = 0;
  bool profile = false;    // fills times(), at the cost of kernels that no longer overlap
  bool poison_kv = false;  // pages begin as NaN: for tests
};

struct BackendInfo {
  std::string device;       // "cpu" | "cuda"
  std::string description;  // "AVX-512 VNNI, 2 threads"
  std::string weight_format, kv_type;
  uint64_t weight_bytes, kv_bytes;
  uint64_t kv_bytes_per_token;  // K and V, all layers
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const BackendInfo& info() const = 0;
  virtual attention::AttentionShape attention_shape() const = 0;
  virtual attention::PlanDevice plan_device() const = 0;

  // Runs all layers; afterwards the logits of batch.logit_rows are on the device. Throws kAborted when `cancel` turns
  // true (looked at between layers); KV of the batch's slots is then undefined, everything else untouched.
  virtual void forward(const StepBatch& batch, const attention::Plan& plan, const std::atomic<bool>& cancel) = 0;
  // For a step that only appends: brings the plan of the last forward() up to date in place and returns the KV tokens that
  // its items read more than before; the next forward() then runs that plan and ignores its argument. Nothing when the
  // backend cannot, or has no room left: the step needs a new plan.
  virtual std::optional<int64_t> append_to_plan(std::span<const attention::AppendedToken>) { return std::nullopt; }
  // False: append_to_plan() need not be asked.
  virtual bool can_append_to_plan() const { return false; }

  // Draws a token from logits row requests[i].logit_row (an index into batch.logit_rows; rows may repeat). Throws what
  // sample_token throws; the results are then undefined.
  virtual void sample(std::span<const SampleRequest> requests, std::span<SampledToken> results) = 0;
  // results[i] = log softmax(logits row rows[i])[tokens[i]].
  virtual void log_probs(std::span<const int32_t> rows, std::span<const int32_t> tokens, std::span<float> results) = 0;
  // Copies logits row `row` to the host: [vocab_size].
  virtual void read_logits(int32_t row, std::span<float> dst) = 0;
  // Hidden state of logits row `row` after the last norm: [hidden_size]. Empty when the backend does not give it.
  virtual std::span<const float> hidden_state(int32_t /*row*/) const { return {}; }
  virtual void copy_slots(std::span<const SlotCopy> copies) = 0;
  virtual BackendTimes times() const = 0;  // CUDA: zero unless BackendOptions::profile
};

// Throws kBadModel, kBadArgument or kOutOfMemory with figures; `cancel` ends a long load with kAborted.
std::unique_ptr<Backend> make_cpu_backend(const ModelSpec& spec, const BackendOptions& options,
                                          const std::atomic<bool>& cancel);

// The same on a GPU: weights and KV in bf16; page_size must be 16. All memory is taken here, and before any is: throws
// kOutOfMemory with what is wanted, what is free and what would fit. Throws kDevice when there is no usable GPU and
// when this build has no CUDA code. The result may be used on another thread than this one, by one at a time.
std::unique_ptr<Backend> make_cuda_backend(const ModelSpec& spec, const BackendOptions& options,
                                           const std::atomic<bool>& cancel);

// Device memory that make_cuda_backend takes beside the KV pages: weights, activations, workspaces and a margin for
// what the driver takes. Of the options only max_step_tokens counts.
uint64_t cuda_bytes_without_kv(const ModelSpec& spec, const BackendOptions& options);
// Of K and V of one token in all layers.
uint64_t cuda_kv_bytes_per_token(const LlamaConfig& config);

}  // namespace deftree
