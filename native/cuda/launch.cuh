// Launches in a chain: a kernel starts while the one before it in the stream is still running ("programmatic dependent
// launch", compute capability 9.0), and waits only before it touches what that one writes.
//
// Every kernel launched so calls wait_for_previous() in every thread before its first read of data of this step and before its
// first write; what may stand before it are reads of weights and of plan records. A kernel has ended for the one behind it
// only when its own wait has returned, so the chain is transitive.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "cuda/check.h"

namespace deftree::cuda {

// All blocks of the kernel in front have ended and what they wrote is visible.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The kernel behind may start as soon as every block has said so or ended. It takes the multiprocessors that are left.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// kernel<<<grid, block, shared_bytes, stream>>>(args...) as a link of the chain. `overlaps`: the GPU is of compute
// capability 9.0 or newer; else the launch is an ordinary one.
template <class... Parameters, class... Args>
void launch_chained(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                    bool overlaps, const char* what, Args&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = overlaps ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), what);
}

}  // namespace deftree::cuda
