// What GPUs there are, and why none can be used. Callable on a machine without a driver.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace deftree {

struct CudaDeviceInfo {
  std::string name;
  int compute_capability;  // major * 10 + minor
  int num_processors;      // multiprocessors
  uint64_t total_bytes, free_bytes;
};

struct CudaStatus {
  bool is_built = false;                // whether this build has the CUDA code
  int driver_version = 0;               // highest CUDA version of the driver, 13000 for 13.0; 0: no driver
  int runtime_version = 0;              // that this build was compiled with
  std::vector<CudaDeviceInfo> devices;  // usable ones: compute capability 8.0 or newer
  std::string problem;                  // a sentence that says why `devices` is empty and what helps; empty otherwise
};

CudaStatus query_cuda();

}  // namespace deftree
