// The CUDA backend behind engine/backend.h.
#include "common/error.h"
#include "engine/backend.h"

namespace deftree {

std::unique_ptr<Backend> make_cuda_backend(const ModelSpec&, const BackendOptions&, const std::atomic<bool>&) {
  throw Error(ErrorCode::kDevice, "the CUDA backend is being written");
}

}  // namespace deftree
