// What GPUs there are, and why none can be used. Callable on a machine without a driver.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace deftree {

// Oldest GPUs whose tensor cores know bf16: compute capability 8.0.
inline constexpr int kMinComputeCapability = 80;

struct CudaDeviceInfo {
  int index;  // CUDA's number of it, for cudaSetDevice
  std::string name;
  int compute_capability;  // major * 10 + minor
  int num_processors;      // multiprocessors
  uint64_t total_bytes, free_bytes;
};

struct CudaStatus {
  bool is_built = false;                // whether this build has the CUDA code
  int driver_version = 0;               // highest CUDA version of the driver, 13000 for 13.0; 0: no driver
  int runtime_version = 0;              // that this build was compiled with
  std::vector<CudaDeviceInfo> devices;  // those this build can run on
  // Why GPUs are not in `devices`, or why there are none, and what helps; empty when all can be used. A sentence that
  // begins in lower case and has no full stop, to stand behind "cannot be used: ".
  std::string problem;
};

// Asks the driver anew at each call. Leaves no CUDA context behind where there was none, so asking takes the time of
// making one (a few tenths of a second on a GPU that nobody uses). Throws nothing but std::bad_alloc.
CudaStatus query_cuda();

// Whether machine code for `architectures` ("80,89,90a", as in DEFTREE_CUDA_ARCHS) runs on a GPU: code for 8.0 runs on
// 8.x, code for 90a on 9.0 alone.
bool has_code_for(std::string_view architectures, int compute_capability);

}  // namespace deftree
