#include "model/cuda/cublas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <bit>
#include <map>
#include <string>
#include <tuple>

#include "common/error.h"
#include "cuda/cublas_library.h"

namespace deftree {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLAS itself takes on compute capability 9.0

// Functions of the library, typed from its header.
struct Api {
  void* library = open_cublas_lt();

#define DEFTREE_CUBLAS_LT(name) decltype(&::cublasLt##name) name = load<decltype(&::cublasLt##name)>("cublasLt" #name)
  DEFTREE_CUBLAS_LT(Create);
  DEFTREE_CUBLAS_LT(Destroy);
  DEFTREE_CUBLAS_LT(GetStatusString);
  DEFTREE_CUBLAS_LT(Matmul);
  DEFTREE_CUBLAS_LT(MatmulAlgoGetHeuristic);
  DEFTREE_CUBLAS_LT(MatmulDescCreate);
  DEFTREE_CUBLAS_LT(MatmulDescDestroy);
  DEFTREE_CUBLAS_LT(MatmulDescSetAttribute);
  DEFTREE_CUBLAS_LT(MatmulPreferenceCreate);
  DEFTREE_CUBLAS_LT(MatmulPreferenceDestroy);
  DEFTREE_CUBLAS_LT(MatmulPreferenceSetAttribute);
  DEFTREE_CUBLAS_LT(MatrixLayoutCreate);
  DEFTREE_CUBLAS_LT(MatrixLayoutDestroy);
#undef DEFTREE_CUBLAS_LT

  template <class Function>
  Function load(const char* name) const {
    void* symbol = dlsym(library, name);
    if (symbol == nullptr)
      throw Error(ErrorCode::kDevice, std::string("this cuBLASLt has no ") + name + "; install cuBLAS 12 or 13");
    return reinterpret_cast<Function>(symbol);
  }
  void check(cublasStatus_t status, const char* what) const {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw Error(ErrorCode::kDevice, std::string("cuBLASLt cannot ") + what + ": " + GetStatusString(status));
  }
};

// A descriptor of the library and what destroys it.
template <class Handle>
class Owned {
 public:
  using Destroy = cublasStatus_t (*)(Handle);

  Owned(Handle handle, Destroy destroy) : handle_(handle), destroy_(destroy) {}
  ~Owned() { destroy_(handle_); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle get() const { return handle_; }

 private:
  Handle handle_;
  Destroy destroy_;
};

// Rows up to which a choice of algorithm holds: a prompt's chunks differ by a few rows and must not search anew each
// time.
int bucket_of(int num_rows) {
  constexpr int kFine = 256;
  if (num_rows > kFine) return (num_rows + kFine - 1) / kFine * kFine;
  return static_cast<int>(std::bit_ceil(static_cast<unsigned>(std::max(num_rows, 16))));
}

}  // namespace

struct CublasLt::State {
  Api api;
  cublasLtHandle_t handle = nullptr;
  cuda::DeviceBuffer<std::byte> workspace{kWorkspaceBytes};
  std::map<std::tuple<int, int, int, Output>, cublasLtMatmulAlgo_t> algorithms;  // by bucket, out, in

  State() { api.check(api.Create(&handle), "start"); }
  ~State() { api.Destroy(handle); }

  Owned<cublasLtMatrixLayout_t> layout(cudaDataType_t type, int num_rows, int num_columns) const {
    cublasLtMatrixLayout_t layout = nullptr;
    api.check(api.MatrixLayoutCreate(&layout, type, num_rows, num_columns, num_rows), "describe a matrix");
    return {layout, api.MatrixLayoutDestroy};
  }
};

CublasLt::CublasLt() : state_(std::make_unique<State>()) {}
CublasLt::~CublasLt() = default;

void CublasLt::multiply(const __nv_bfloat16* weight, const __nv_bfloat16* x, int num_rows, int out_features,
                        int in_features, void* y, Output output, cudaStream_t stream) {
  if (num_rows == 0) return;
  const Api& api = state_->api;
  cublasLtMatmulDesc_t product_handle = nullptr;
  api.check(api.MatmulDescCreate(&product_handle, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe a product");
  const Owned<cublasLtMatmulDesc_t> product(product_handle, api.MatmulDescDestroy);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  api.check(api.MatmulDescSetAttribute(product.get(), CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
            "describe a product");

  // cuBLASLt counts by columns: a row-major matrix is its transpose there, and yt = (Wt)t xt.
  const cudaDataType_t y_type = output == Output::kF32 ? CUDA_R_32F : CUDA_R_16BF;
  const auto w = state_->layout(CUDA_R_16BF, in_features, out_features);
  const int bucket = bucket_of(num_rows);
  const auto key = std::make_tuple(bucket, out_features, in_features, output);
  auto found = state_->algorithms.find(key);
  if (found == state_->algorithms.end()) {
    const auto x_bucket = state_->layout(CUDA_R_16BF, in_features, bucket);
    const auto y_bucket = state_->layout(y_type, out_features, bucket);
    cublasLtMatmulPreference_t preference_handle = nullptr;
    api.check(api.MatmulPreferenceCreate(&preference_handle), "choose an algorithm");
    const Owned<cublasLtMatmulPreference_t> preference(preference_handle, api.MatmulPreferenceDestroy);
    api.check(api.MatmulPreferenceSetAttribute(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &kWorkspaceBytes, sizeof(kWorkspaceBytes)),
              "choose an algorithm");
    cublasLtMatmulHeuristicResult_t result{};
    int num_results = 0;
    api.check(api.MatmulAlgoGetHeuristic(state_->handle, product.get(), w.get(), x_bucket.get(), y_bucket.get(),
                                         y_bucket.get(), preference.get(), 1, &result, &num_results),
              "choose an algorithm");
    if (num_results == 0)
      throw Error(ErrorCode::kDevice, "cuBLASLt has no algorithm for " + std::to_string(bucket) + " x " +
                                          std::to_string(in_features) + " times " + std::to_string(in_features) +
                                          " x " + std::to_string(out_features));
    found = state_->algorithms.emplace(key, result.algo).first;
  }

  const auto x_layout = state_->layout(CUDA_R_16BF, in_features, num_rows);
  const auto y_layout = state_->layout(y_type, out_features, num_rows);
  const float one = 1, zero = 0;
  api.check(
      api.Matmul(state_->handle, product.get(), &one, weight, w.get(), x, x_layout.get(), &zero, y, y_layout.get(), y,
                 y_layout.get(), &found->second, state_->workspace.data(), kWorkspaceBytes, stream),
      "multiply");
}

}  // namespace deftree
