// The attention family on a GPU: plan on the host as for the CPU, upload once per step, run once per layer.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include <cuda_fp16.h>

#include "attention/appended_tokens.h"
#include "attention/cuda/packed_plan.h"
#include "attention/cuda/params_cuda.h"
#include "attention/plan.h"
#include "cuda/buffer.h"

namespace deftree::attention {

// What the partition and the launch must know of a GPU.
struct CudaDevice {
  int num_processors = 0;        // multiprocessors
  int blocks_per_processor = 0;  // thread blocks of the attention kernel that fit on one
  int compute_capability = 0;    // major * 10 + minor

  // Thread blocks of a launch; all are on the GPU at the same time.
  int num_bins() const;
};

// Throws kDevice when there is no usable GPU and kBadArgument for a head_dim with no kernel.
CudaDevice query_cuda_device(int device_index, int head_dim);

// What the partition must know. On compute capability 9.0 a block takes groups of 128 rows, 64 in each of two
// warpgroups, and reads ahead of them: a token that no other item reads arrives in the time of 160 rows' arithmetic. On
// 8.0 groups are of 64 rows, and writing and merging a row's partial state moves as many bytes as two tokens of K and V.
// Cuts go between tiles. One item for each block: a second wave costs as much again.
PlanDevice cuda_plan_device(const CudaDevice& device);

// A plan in device memory with the workspace of its partial states. Addresses stay the same until reserve() must grow,
// so a captured graph stays valid over uploads.
class DevicePlan {
 public:
  DevicePlan(const AttentionShape& shape, const CudaDevice& device);

  // Makes room for plans of so many bytes and partial slots. Returns whether addresses changed: graphs must then be
  // captured again.
  bool reserve(size_t plan_bytes, int num_partials);
  // Copies the plan to the device as work of `stream`, in one copy. Calls begin_step. Waits for the copy of the upload
  // before it (long done in practice) because both use the same page-locked memory. Returns what reserve() returns.
  // The plan's tiles are marked where this step writes a token (kTileFresh): those wait for the kernel in front.
  bool upload(const Plan& plan, cudaStream_t stream);
  // For a step that only appends: brings the plan up to date on the host. Returns the KV tokens that items read more, or
  // nothing when there is no room left: upload() a new plan then. After a success upload_appended() does what upload()
  // does; addresses stay.
  std::optional<int64_t> append(std::span<const AppendedToken> appended);
  void upload_appended(cudaStream_t stream);
  // Must come before the first layer of each step: marks the partial states of the uploaded plan as unwritten. A graph
  // that holds it is good for that plan. It also parts the steps: kernels of a step read K and V of earlier steps before
  // the kernel in front has ended, so what moves or writes those must be in the stream before it.
  void begin_step(cudaStream_t stream);

  const PackedPlan& packed() const { return packed_; }
  const AttentionShape& shape() const { return shape_; }

 private:
  friend void run(const CudaAttentionParams& params, DevicePlan& plan, cudaStream_t stream);

  void copy_to_device(cudaStream_t stream);

  AttentionShape shape_;
  CudaDevice device_;
  PackedPlan packed_;
  cuda::PinnedBuffer<std::byte> staging_;
  cuda::DeviceBuffer<std::byte> bytes_;
  cuda::DeviceBuffer<__half> partial_o_;     // [num_partials, num_qo_heads, head_dim]
  cuda::DeviceBuffer<float> partial_lse_;    // [num_partials, num_qo_heads] base 2
  cudaEvent_t uploaded_ = nullptr;
  size_t num_states_ = 0;                    // partial states of the uploaded plan
  uint32_t launches_ = 0;                    // since begin_step

 public:
  ~DevicePlan();
  DevicePlan(const DevicePlan&) = delete;
  DevicePlan& operator=(const DevicePlan&) = delete;
};

// One layer: one launch. At most one attention launch may run on a GPU at a time (its blocks wait for each other).
// Throws kBadArgument for shapes that differ from the plan's.
void run(const CudaAttentionParams& params, DevicePlan& plan, cudaStream_t stream);

// Writes K and V of `num_tokens` tokens into their slots (slot = page * 16 + offset; -1: skip).
// k, v: [num_tokens, num_kv_heads, head_dim] on the device, rows `stride` elements apart; slots: [num_tokens] there.
void append_kv(const AttentionShape& shape, const CudaKvLayer& kv, const __nv_bfloat16* k, const __nv_bfloat16* v,
               int stride, const int32_t* slots, int num_tokens, cudaStream_t stream);

}  // namespace deftree::attention
