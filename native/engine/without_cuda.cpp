// What a build without CUDA says when it is asked for a GPU.
#if !defined(DEFTREE_WITH_CUDA)

#include "common/error.h"
#include "engine/backend.h"

namespace deftree {

std::unique_ptr<Backend> make_cuda_backend(const ModelSpec&, const BackendOptions&, const std::atomic<bool>&) {
  throw Error(
      ErrorCode::kDevice,
      "this build has no CUDA code; build the addon with nvcc 12.8 or newer (-DDEFTREE_CUDA=ON), or use the CPU");
}

}  // namespace deftree

#endif
