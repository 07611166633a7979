#include <cudaTypedefs.h>

#include <algorithm>
#include <string>

#include "common/error.h"
#include "model/cuda/stream_linear.cuh"
#include "model/cuda/stream_linear.h"

namespace deftree {
namespace {

using stream_linear::kBoxFeatures;

constexpr int kSharedBytes = 226 * 1024;  // a block's most, less the barriers
constexpr int kAlignBytes = 1024;         // of the ring, which the swizzle counts from

int bucket_of(int num_rows) { return num_rows <= 16 ? 16 : num_rows <= 32 ? 32 : num_rows <= 64 ? 64 : 128; }

int div_up(int a, int b) { return (a + b - 1) / b; }

// The rows' tile. A stage has 16 KiB of weights in both forms: 64 x 128 leaves half the parts, 128 x 64 reads x half as
// often and has the longer ring.
constexpr int tile_features_of(int bucket_rows) { return bucket_rows <= 64 ? 64 : 128; }

StreamPlan tiles_of(int out_features, int in_features, int num_rows) {
  StreamPlan plan{};
  plan.bucket_rows = bucket_of(num_rows);
  plan.tile_features = tile_features_of(plan.bucket_rows);
  plan.step_features = 2 * kWeightBoxRows * kBoxFeatures / plan.tile_features;
  plan.steps_per_unit = 1;
  plan.units_per_tile = div_up(in_features, plan.step_features);
  plan.num_units = div_up(out_features, plan.tile_features) * plan.units_per_tile;
  return plan;
}

int max_parts_of(const StreamPlan& plan) {
  const LinearSum sum = plan.sum(nullptr, 0, 0);
  int max_parts = 1;
  for (int tile = 0; tile < plan.num_units / plan.units_per_tile; ++tile)
    max_parts = std::max(max_parts, sum.num_parts_of_tile(tile));
  return max_parts;
}

// Calls body(kernel, its Stage).
template <int kRows, class Body>
void with_kernel_of(Body body) {
  using namespace stream_linear;
  constexpr int kTileFeatures = tile_features_of(kRows);
  body(stream_linear_kernel<kTileFeatures, kRows>, Stage<kTileFeatures, kRows>{});
}

template <class Body>
void with_kernel(int bucket_rows, Body body) {
  switch (bucket_rows) {
    case 16:
      return with_kernel_of<16>(body);
    case 32:
      return with_kernel_of<32>(body);
    case 64:
      return with_kernel_of<64>(body);
    default:
      return with_kernel_of<128>(body);
  }
}

// The driver's encoder, asked for at run time so that nothing links against the driver.
PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const PFN_cuTensorMapEncodeTiled_v12000 encoder = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    cuda::check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
                "cannot ask the NVIDIA driver for tensor maps");
    if (entry == nullptr || found != cudaDriverEntryPointSuccess)
      throw Error(
          ErrorCode::kDevice,
          "the NVIDIA driver knows no tensor maps (cuTensorMapEncodeTiled); update it to one for CUDA 12.8 or newer");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  }();
  return encoder;
}

}  // namespace

StreamPlan plan_stream(int out_features, int in_features, int num_rows, int num_processors) {
  StreamPlan plan = tiles_of(out_features, in_features, num_rows);
  // The memory is as busy with a few multiprocessors less, and parts cost it too: of the counts down to least_percent,
  // the one with the fewest parts a tile, then the largest. Many rows make parts large, so fewer parts are worth more
  // multiprocessors.
  const int least_percent = plan.bucket_rows <= 64 ? 90 : 70;
  const int most = std::min(num_processors, plan.num_units);
  plan.num_workers = most;
  plan.max_parts = max_parts_of(plan);
  for (int workers = most - 1; workers >= least_percent * most / 100 && plan.max_parts > 1; --workers) {
    StreamPlan other = plan;
    other.num_workers = workers;
    other.max_parts = max_parts_of(other);
    if (other.max_parts < plan.max_parts) plan = other;
  }
  return plan;
}

StreamPlan plan_stream_whole_tiles(int out_features, int in_features, int num_rows, int num_processors) {
  StreamPlan plan = tiles_of(out_features, in_features, num_rows);
  plan.steps_per_unit = plan.units_per_tile;
  plan.num_units /= plan.units_per_tile;
  plan.units_per_tile = 1;
  plan.num_workers = std::min(num_processors, plan.num_units);
  plan.max_parts = 1;
  return plan;
}

int stage_cycles_of(int device_index, int num_processors, double share) {
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    cuda::check(cudaDeviceGetAttribute(&value, name, device_index), "cannot ask the GPU for its clocks");
    return static_cast<double>(value);
  };
  constexpr double kStageBytes = 2 * stream_linear::kBoxBytes;
  const double cycles_per_ms = attribute(cudaDevAttrClockRate);
  const double bytes_per_ms =
      2 * attribute(cudaDevAttrMemoryClockRate) * attribute(cudaDevAttrGlobalMemoryBusWidth) / 8;
  return bytes_per_ms > 0 ? static_cast<int>(kStageBytes * num_processors / (share * bytes_per_ms) * cycles_per_ms) : 0;
}

void prepare_stream_linear() {
  tensor_map_encoder();
  for (int bucket_rows : {16, 32, 64, 128}) {
    with_kernel(bucket_rows, [](auto* kernel, auto) {
      cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
                  "cannot give a matrix product the GPU's shared memory");
    });
  }
}

CUtensorMap encode_matrix(const __nv_bfloat16* data, int num_rows, int num_features, int box_rows) {
  CUtensorMap map;
  const cuuint64_t size[] = {static_cast<cuuint64_t>(num_features), static_cast<cuuint64_t>(num_rows)};
  const cuuint64_t row_bytes[] = {static_cast<cuuint64_t>(num_features) * sizeof(__nv_bfloat16)};
  const cuuint32_t box[] = {kBoxFeatures, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[] = {1, 1};
  const CUresult result =
      tensor_map_encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<__nv_bfloat16*>(data), size, row_bytes,
                           box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw Error(ErrorCode::kDevice, "the NVIDIA driver refuses a tensor map of " + std::to_string(num_rows) + " x " +
                                        std::to_string(num_features) + " bf16 (error " + std::to_string(result) + ")");
  return map;
}

void run_stream_linear(const StreamPlan& plan, int stage_cycles, const CUtensorMap& weight, const __nv_bfloat16* x,
                       int num_rows, int out_features, int in_features, float* parts, cudaStream_t stream) {
  const CUtensorMap x_map = encode_matrix(x, num_rows, in_features, plan.bucket_rows);
  with_kernel(plan.bucket_rows, [&](auto* kernel, auto stage) {
    const int num_stages = std::min((kSharedBytes - kAlignBytes) / stage.kBytes, stream_linear::kMaxStages);
    const stream_linear::Task task{plan.sum(parts, num_rows, out_features), parts, plan.steps_per_unit, num_stages,
                                   stage_cycles};
    cuda::launch_chained(kernel, plan.num_workers, stage.kNumThreads, num_stages * stage.kBytes + kAlignBytes, stream,
                         true, "cannot start a matrix product", weight, x_map, task);
  });
}

}  // namespace deftree
