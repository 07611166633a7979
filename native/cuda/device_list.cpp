#include "cuda/device_list.h"

#include <cstdlib>
#include <optional>

#ifdef DEFTREE_WITH_CUDA
#include <cuda.h>
#include <cuda_runtime_api.h>
#endif

namespace deftree {

bool has_code_for(std::string_view architectures, int compute_capability) {
  while (!architectures.empty()) {
    const std::string entry(architectures.substr(0, architectures.find(',')));
    architectures.remove_prefix(entry.size() < architectures.size() ? entry.size() + 1 : entry.size());
    char* suffix = nullptr;
    const int architecture = static_cast<int>(std::strtol(entry.c_str(), &suffix, 10));
    const bool is_specific = *suffix == 'a';
    if (architecture == compute_capability) return true;
    if (!is_specific && architecture / 10 == compute_capability / 10 && architecture < compute_capability) return true;
  }
  return false;
}

#ifndef DEFTREE_WITH_CUDA

CudaStatus query_cuda() {
  CudaStatus status;
  status.problem =
      "this build has no CUDA code; to get it, install nvcc 12.8 or newer (tools/get-cuda brings one) and build again "
      "with `pnpm build:native`";
  return status;
}

#else

namespace {

// CUDA's calls below the runtime. cudart looks them up in the driver, so nothing is linked.
template <class Function>
Function* driver_function(const char* name) {
  constexpr unsigned int kInterfaceVersion = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &function, kInterfaceVersion, cudaEnableDefault, &result);
  cudaGetLastError();
  return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<Function*>(function) : nullptr;
}

struct Memory {
  size_t free_bytes, total_bytes;
};

// The driver tells the free memory inside of a context only. The device's primary context is counted by its users: an
// engine's stays, and one that nobody uses goes again.
std::optional<Memory> query_memory(int device) {
  const auto retain = driver_function<decltype(cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain");
  const auto release = driver_function<decltype(cuDevicePrimaryCtxRelease)>("cuDevicePrimaryCtxRelease");
  const auto push = driver_function<decltype(cuCtxPushCurrent)>("cuCtxPushCurrent");
  const auto pop = driver_function<decltype(cuCtxPopCurrent)>("cuCtxPopCurrent");
  const auto memory = driver_function<decltype(cuMemGetInfo)>("cuMemGetInfo");
  if (!retain || !release || !push || !pop || !memory) return std::nullopt;
  CUcontext context = nullptr;
  if (retain(&context, device) != CUDA_SUCCESS) return std::nullopt;
  Memory found{};
  bool is_known = false;
  if (push(context) == CUDA_SUCCESS) {
    is_known = memory(&found.free_bytes, &found.total_bytes) == CUDA_SUCCESS;
    pop(&context);
  }
  release(device);
  return is_known ? std::optional(found) : std::nullopt;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string capability_text(int compute_capability) {
  return std::to_string(compute_capability / 10) + "." + std::to_string(compute_capability % 10);
}

std::string explain_no_devices(const CudaStatus& status, cudaError_t error) {
  if (status.driver_version == 0) {
    return "no NVIDIA driver was found (libcuda.so.1); install the GPU's driver, or give a container its GPUs";
  }
  if (error == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver supports CUDA " + version_text(status.driver_version) + " and this build needs " +
           version_text(status.runtime_version) + "; update the driver";
  }
  if (error == cudaSuccess || error == cudaErrorNoDevice) {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return visible == nullptr ? "the NVIDIA driver sees no GPU"
                              : "the NVIDIA driver sees no GPU; CUDA_VISIBLE_DEVICES is \"" + std::string(visible) + "\"";
  }
  return std::string("the NVIDIA driver cannot be used: ") + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) +
         ")";
}

// The device, or what keeps it from being used.
std::string describe(int index, CudaDeviceInfo& device) {
  int major = 0, minor = 0;
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, index) == cudaSuccess) {
    major = properties.major;
    minor = properties.minor;
  }
  device = {.index = index,
            .name = properties.name,
            .compute_capability = major * 10 + minor,
            .num_processors = properties.multiProcessorCount,
            .total_bytes = properties.totalGlobalMem,
            .free_bytes = 0};
  const std::string subject = "GPU " + std::to_string(index) + " (" + device.name + ")";
  if (major == 0) {
    return "GPU " + std::to_string(index) + " does not answer: " + cudaGetErrorString(cudaGetLastError());
  }
  if (device.compute_capability < kMinComputeCapability) {
    return subject + " has compute capability " + capability_text(device.compute_capability) + ", " +
           capability_text(kMinComputeCapability) + " or newer is needed";
  }
  if (!has_code_for(DEFTREE_CUDA_ARCHS, device.compute_capability)) {
    return subject + " has compute capability " + capability_text(device.compute_capability) +
           " and this build has code for " DEFTREE_CUDA_ARCHS "; build again with DEFTREE_CUDA_ARCHS=" +
           std::to_string(device.compute_capability);
  }
  const std::optional<Memory> memory = query_memory(index);
  if (!memory) return subject + " gives no context; another process may have it for itself (see nvidia-smi)";
  device.free_bytes = memory->free_bytes;
  device.total_bytes = memory->total_bytes;
  return {};
}

}  // namespace

CudaStatus query_cuda() {
  CudaStatus status;
  status.is_built = true;
  cudaRuntimeGetVersion(&status.runtime_version);
  cudaDriverGetVersion(&status.driver_version);
  int num_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&num_devices);
  cudaGetLastError();  // a failure stays until it is read
  if (error != cudaSuccess || num_devices == 0) {
    status.problem = explain_no_devices(status, error);
    return status;
  }
  for (int index = 0; index < num_devices; ++index) {
    CudaDeviceInfo device;
    const std::string problem = describe(index, device);
    if (problem.empty()) {
      status.devices.push_back(std::move(device));
    } else {
      status.problem += (status.problem.empty() ? "" : "; ") + problem;
    }
  }
  return status;
}

#endif

}  // namespace deftree
