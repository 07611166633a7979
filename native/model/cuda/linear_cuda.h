// Matrix products of a step on a GPU: y = x Wt, weights and inputs in bf16, sums in f32.
//
// Two kernels. Few rows: every weight is read once and that is all the time there is, so stream_linear.cu splits the
// weight's tiles evenly over the multiprocessors, across tile boundaries, and begins to read them while the kernel in
// front still runs. Its result lies in parts that whoever reads it adds up in a fixed order. Many rows: cuBLASLt.
#pragma once

#include <cuda_bf16.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "cuda/buffer.h"
#include "model/cuda/linear_sum.cuh"

namespace deftree {

// A weight matrix in device memory: [out_features, in_features] bf16, row-major. in_features is a multiple of 8.
struct CudaWeight {
  __nv_bfloat16* data = nullptr;
  int out_features = 0, in_features = 0;

  size_t bytes() const { return static_cast<size_t>(out_features) * in_features * sizeof(__nv_bfloat16); }
};

// Rows up to which the streaming kernel is used on a GPU that has it.
inline constexpr int kMaxStreamRows = 128;

// What a weight's products are read as.
enum class LinearResult {
  kSum,     // run()
  kFloats,  // run_to_floats()
};

// One stream at a time: products with cuBLASLt share a workspace.
class CudaLinear {
 public:
  // Loads cuBLASLt (cublas_lt.h). Throws kDevice with the places it looked at when it is not found.
  explicit CudaLinear(int device_index);
  ~CudaLinear();
  CudaLinear(const CudaLinear&) = delete;
  CudaLinear& operator=(const CudaLinear&) = delete;

  // Makes `weight` known to the streaming kernel (tensor map, cut) and returns what run() takes. The memory it names
  // must outlive the object. Throws kBadArgument when in_features is no multiple of 8 or, for kSum, out_features none
  // of 4.
  int add(const CudaWeight& weight, LinearResult result = LinearResult::kSum);

  // f32 values that run() of up to `max_rows` rows with any weight added so far needs for its parts.
  size_t max_part_values(int max_rows) const;

  // Enqueues y = x Wt on `stream`; x: [num_rows, in_features] bf16, rows packed. The result is in `parts` (from
  // max_part_values) or in `values` ([num_rows, out_features] bf16), whichever kernel ran; the returned view reads
  // either. The same rows give the same bits whatever num_rows is within one bucket (1..16, ..32, ..64, ..128).
  LinearSum run(int weight, const __nv_bfloat16* x, int num_rows, float* parts, __nv_bfloat16* values,
                cudaStream_t stream);

  // y as plain f32: [num_rows, out_features]; for the lm_head, added with kFloats. num_rows at most kMaxStreamRows.
  void run_to_floats(int weight, const __nv_bfloat16* x, int num_rows, float* y, cudaStream_t stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace deftree
