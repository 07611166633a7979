// Every CUDA call's return code becomes a deftree::Error.
#pragma once

#include <cuda_runtime_api.h>

#include <source_location>
#include <string>

#include "common/error.h"

namespace deftree::cuda {

// Throws kOutOfMemory when the device has no memory left and kDevice for every other failure. `what` says what was
// being done, as in "cannot copy the attention plan to the GPU".
inline void check(cudaError_t status, const char* what, std::source_location where = std::source_location::current()) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else the next check_launch() would report this failure as its own
  const ErrorCode code = status == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kDevice;
  throw Error(code, std::string(what) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")", {},
              where);
}

// After a kernel launch: reports a launch that was refused (not what the kernel does later).
inline void check_launch(const char* what, std::source_location where = std::source_location::current()) {
  check(cudaGetLastError(), what, where);
}

}  // namespace deftree::cuda
