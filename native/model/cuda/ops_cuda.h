// The operations of a Llama step on a GPU, for the forward pass in model/llama.h. The residual stream is f32, inputs of
// matrix products and KV are bf16, sums are f32.
//
// All operations are enqueued on one stream and can be captured in a graph: what differs between steps of equally many
// rows (tokens, positions, slots, the plan) lies in device memory at fixed addresses, put there by begin_step().
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>

#include "attention/cuda/attention_cuda.h"
#include "cuda/buffer.h"
#include "cuda/stage_timer.h"
#include "cuda/stream.h"
#include "model/cuda/linear_cuda.h"
#include "model/cuda/weights_cuda.h"
#include "model/step_batch.h"

namespace deftree {

// As LlamaActivations; all in device memory.
struct CudaActivations {
  float* x;                  // [num_rows, hidden_size]
  __nv_bfloat16* h;          // [num_rows, hidden_size]
  float* cos;                // [num_rows, head_dim / 2]
  float* sin;                // [num_rows, head_dim / 2]
  LinearSum qkv;             // [num_rows, (num_qo_heads + 2 * num_kv_heads) * head_dim]
  __nv_bfloat16* q;          // [num_rows, num_qo_heads, head_dim] after RoPE
  __nv_bfloat16* attention;  // [num_rows, num_qo_heads, head_dim]
  LinearSum out;             // [num_rows, hidden_size]
  LinearSum gate_up;         // [num_rows, 2 * intermediate_size]
  __nv_bfloat16* mlp;        // [num_rows, intermediate_size]
  int mlp_stride;            // intermediate_size
};

// The stages that a StageTimer tells apart.
enum CudaStage { kLinearStage, kAttentionStage, kOtherStage, kNumCudaStages };

class CudaOps {
 public:
  // Takes all memory for steps of up to `max_rows` rows and max_rows logits rows. The arguments must outlive the
  // object; `timer` may be null. Throws kOutOfMemory, kDevice.
  CudaOps(const CudaLlamaWeights& weights, std::span<const attention::CudaKvLayer> kv,
          const attention::AttentionShape& shape, int device_index, int max_rows, const cuda::Stream& stream,
          cuda::StageTimer* timer);

  const CudaLlamaWeights& weights() const { return weights_; }
  const attention::AttentionShape& attention_shape() const { return shape_; }
  attention::PlanDevice plan_device() const { return cuda_plan_device(device_); }

  // Copies what the step's operations read to the device. Rows that the plan does not name are padding: token 0, slot
  // -1. Returns whether addresses changed, so that graphs must be captured again.
  bool begin_step(const StepBatch& batch, const attention::Plan& plan);
  // The same for a step whose plan is that of the step before, brought up to date by append_to_plan(); addresses stay.
  void begin_appended_step(const StepBatch& batch);
  // See Backend::append_to_plan.
  std::optional<int64_t> append_to_plan(std::span<const attention::AppendedToken> appended) {
    return plan_.append(appended);
  }

  CudaActivations activations(int num_rows);
  // The spans tell how many there are; the values are those of begin_step().
  void embed(const CudaWeight& table, std::span<const int32_t> tokens, float* out);
  void rope_angles(std::span<const int32_t> positions, const CudaActivations& a);
  void rms_norm(float* x, const float* weight, int num_rows, __nv_bfloat16* out);
  void add_rms_norm(const CudaActivations& a, const float* weight, int num_rows);
  void linear(const CudaWeight& weight, const __nv_bfloat16* x, int ldx, int num_rows, LinearSum& y);
  void rope_append_kv(int layer, const CudaActivations& a, std::span<const int32_t> slots);
  void attention(int layer, const attention::Plan& plan, const CudaActivations& a);
  // Gathers the rows of a.x and a.attention into other buffers and points `a` at them.
  int keep_rows(std::span<const int32_t> rows, CudaActivations& a);
  void silu_mul(const CudaActivations& a, int num_rows);

  // logits: [num_rows, vocab_size] of the hidden states that forward() returned; at most kMaxStreamRows rows.
  void lm_head(const __nv_bfloat16* hidden, int num_rows, float* logits);

 private:
  void copy_inputs(const StepBatch& batch);

  void enter(CudaStage stage) {
    if (timer_ != nullptr) timer_->enter(stage, stream_);
  }
  template <class Kernel>
  void norm(Kernel kernel, float* x, const LinearSum& added, const float* weight, int num_rows, __nv_bfloat16* out);
  template <class... Parameters, class... Args>
  void launch(void (*kernel)(Parameters...), dim3 grid, int threads, const char* what, const Args&... args);

  const CudaLlamaWeights& weights_;
  std::span<const attention::CudaKvLayer> kv_;
  attention::AttentionShape shape_;
  attention::CudaDevice device_;
  const cuda::Stream& stream_;
  cuda::StageTimer* timer_;
  bool overlaps_;  // launches form a chain (cuda/launch.cuh)

  CudaLinear linear_;
  std::unordered_map<const __nv_bfloat16*, int> linear_ids_;  // of a weight by its memory
  int lm_head_id_ = -1;
  attention::DevicePlan plan_;

  int max_rows_, num_step_rows_ = 0;
  cuda::DeviceBuffer<float> x_, kept_x_;             // [max_rows, hidden_size]
  cuda::DeviceBuffer<__nv_bfloat16> h_;              // [max_rows, hidden_size]
  cuda::DeviceBuffer<float> cos_, sin_;              // [max_rows, head_dim / 2]
  cuda::DeviceBuffer<__nv_bfloat16> q_, attention_;  // [max_rows, num_qo_heads, head_dim]
  cuda::DeviceBuffer<__nv_bfloat16> mlp_;            // [max_rows, intermediate_size]
  cuda::DeviceBuffer<float> parts_;                  // of the product at hand
  cuda::DeviceBuffer<__nv_bfloat16> values_;         // of the product at hand: [max_rows, most out_features]
  // tokens, positions, slots [rows of the batch] each, then logit_rows.
  cuda::PinnedBuffer<int32_t> staging_;  // [4 * max_rows]
  cuda::DeviceBuffer<int32_t> inputs_;   // [4 * max_rows]
  cuda::Event uploaded_;                 // of staging_
};

}  // namespace deftree
