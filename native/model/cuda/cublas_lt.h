// cuBLASLt, found at run time: what is built with this loads on a machine that has none.
#pragma once

#include <cuda_bf16.h>

#include <cstddef>
#include <memory>

#include "cuda/buffer.h"

namespace deftree {

class CublasLt {
 public:
  // Opens the library by open_cublas_lt(). Throws kDevice as it does.
  CublasLt();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  enum class Output { kBf16, kF32 };

  // Enqueues y = x Wt. x: [num_rows, in_features], weight: [out_features, in_features], y: [num_rows, out_features],
  // all row-major; sums in f32. Products of one object share a workspace, so they belong on one stream. The algorithm
  // is chosen once for a bucket of rows. Throws kDevice.
  void multiply(const __nv_bfloat16* weight, const __nv_bfloat16* x, int num_rows, int out_features, int in_features,
                void* y, Output output, cudaStream_t stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace deftree
