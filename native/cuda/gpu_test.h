// For tests that need a GPU.
#pragma once

#include <cstdio>

#include "cuda/device_list.h"

namespace deftree::test {

// Whether there is a usable GPU; else says why the test that asks is skipped.
inline bool has_gpu() {
  static const CudaStatus status = query_cuda();
  if (status.devices.empty()) std::printf("    skipped: %s\n", status.problem.c_str());
  return !status.devices.empty();
}

}  // namespace deftree::test
