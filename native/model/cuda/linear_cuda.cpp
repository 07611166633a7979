#include "model/cuda/linear_cuda.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "common/error.h"
#include "model/cuda/cublas_lt.h"
#include "model/cuda/stream_linear.h"

namespace deftree {
namespace {

constexpr std::array kBuckets = {16, 32, 64, kMaxStreamRows};

size_t bucket_index(int num_rows) {
  return std::lower_bound(kBuckets.begin(), kBuckets.end(), num_rows) - kBuckets.begin();
}

// Of memory's peak rate, for weights that are read while the kernel in front runs. Asked for as fast as the ring takes
// them, they double that kernel's time; much slower, memory idles (figures in docs/decisions/0008).
constexpr double kEarlyShare = 0.8;

struct AddedWeight {
  CudaWeight weight;
  LinearResult result;
  // Where the streaming kernel is used:
  CUtensorMap map;
  std::array<StreamPlan, kBuckets.size()> plans;  // by bucket of rows
};

int attribute(cudaDeviceAttr name, int device_index) {
  int value = 0;
  cuda::check(cudaDeviceGetAttribute(&value, name, device_index), "cannot ask the GPU what it can");
  return value;
}

}  // namespace

struct CudaLinear::State {
  int num_processors;
  bool streams;  // the streaming kernel's instructions are those of compute capability 9.0 only
  int stage_cycles = 0;
  CublasLt cublas_lt;
  std::vector<AddedWeight> weights;

  explicit State(int device_index)
      : num_processors(attribute(cudaDevAttrMultiProcessorCount, device_index)),
        streams(attribute(cudaDevAttrComputeCapabilityMajor, device_index) == 9 &&
                attribute(cudaDevAttrComputeCapabilityMinor, device_index) == 0) {
    if (!streams) return;
    prepare_stream_linear();
    stage_cycles = stage_cycles_of(device_index, num_processors, kEarlyShare);
  }

  const AddedWeight& at(int weight, LinearResult result) const {
    ensure(weight >= 0 && static_cast<size_t>(weight) < weights.size() && weights[weight].result == result,
           "a matrix product names a weight that was added for it");
    return weights[weight];
  }
};

CudaLinear::CudaLinear(int device_index) : state_(std::make_unique<State>(device_index)) {}
CudaLinear::~CudaLinear() = default;

int CudaLinear::add(const CudaWeight& weight, LinearResult result) {
  const bool splits = result == LinearResult::kSum;
  if (weight.in_features % 8 != 0 || (splits && weight.out_features % 4 != 0))
    throw Error(ErrorCode::kBadArgument,
                "a weight of " + std::to_string(weight.out_features) + " x " + std::to_string(weight.in_features) +
                    " cannot be used on a GPU: its inputs must be a multiple of 8 and its outputs of 4");
  AddedWeight added{weight, result, {}, {}};
  if (state_->streams) {
    added.map = encode_matrix(weight.data, weight.out_features, weight.in_features, kWeightBoxRows);
    const auto plan = splits ? plan_stream : plan_stream_whole_tiles;
    for (size_t i = 0; i < kBuckets.size(); ++i)
      added.plans[i] = plan(weight.out_features, weight.in_features, kBuckets[i], state_->num_processors);
  }
  state_->weights.push_back(added);
  return static_cast<int>(state_->weights.size()) - 1;
}

size_t CudaLinear::max_part_values(int max_rows) const {
  size_t most = 0;
  if (!state_->streams) return most;
  for (const AddedWeight& added : state_->weights) {
    if (added.result != LinearResult::kSum) continue;
    for (size_t i = 0; i < kBuckets.size(); ++i) {
      const size_t num_rows = std::min(max_rows, kBuckets[i]);
      most = std::max(most, added.plans[i].max_parts * num_rows * added.weight.out_features);
    }
  }
  return most;
}

LinearSum CudaLinear::run(int weight, const __nv_bfloat16* x, int num_rows, float* parts, __nv_bfloat16* values,
                          cudaStream_t stream) {
  const AddedWeight& added = state_->at(weight, LinearResult::kSum);
  const int out_features = added.weight.out_features, in_features = added.weight.in_features;
  if (state_->streams && num_rows <= kMaxStreamRows) {
    const StreamPlan& plan = added.plans[bucket_index(num_rows)];
    if (num_rows > 0)
      run_stream_linear(plan, state_->stage_cycles, added.map, x, num_rows, out_features, in_features, parts, stream);
    return plan.sum(parts, num_rows, out_features);
  }
  state_->cublas_lt.multiply(added.weight.data, x, num_rows, out_features, in_features, values, CublasLt::Output::kBf16,
                             stream);
  return {values, nullptr, num_rows, out_features, 0, 0, 0, 0};
}

void CudaLinear::run_to_floats(int weight, const __nv_bfloat16* x, int num_rows, float* y, cudaStream_t stream) {
  ensure(num_rows <= kMaxStreamRows, "a product in f32 has at most kMaxStreamRows rows");
  const AddedWeight& added = state_->at(weight, LinearResult::kFloats);
  const int out_features = added.weight.out_features, in_features = added.weight.in_features;
  if (num_rows == 0) return;
  if (state_->streams) {
    run_stream_linear(added.plans[bucket_index(num_rows)], state_->stage_cycles, added.map, x, num_rows, out_features,
                      in_features, y, stream);
  } else {
    state_->cublas_lt.multiply(added.weight.data, x, num_rows, out_features, in_features, y, CublasLt::Output::kF32,
                               stream);
  }
}

}  // namespace deftree
