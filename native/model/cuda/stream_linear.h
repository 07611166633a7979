// The matrix product of few rows on compute capability 9.0: every weight is read once, and reading is all the time
// there is.
//
// Weights are the wide operand of wgmma: 64 or 128 of them (a tile) times a step of in_features per stage of a ring
// that fills shared memory. The steps of all tiles are numbered through and divided evenly among the thread blocks
// ("stream-K", Osama et al., arXiv 2301.03598), so that no tail of half-empty waves is left. See linear_sum.cuh for the
// result.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include "model/cuda/linear_sum.cuh"

namespace deftree {

// How a product is cut. A step is one stage of the ring: tile_features weight rows times step_features of k.
struct StreamPlan {
  int bucket_rows;     // rows the kernel is compiled for: 16, 32, 64 or 128
  int tile_features;   // 64 or 128
  int step_features;   // 128 or 64: a stage has 16 KiB of weights
  int steps_per_unit;  // 1, or a whole tile's where tiles must not be split
  int units_per_tile, num_units, num_workers;
  int max_parts;  // most workers that share one tile

  // The result's form for `num_rows` rows whose parts begin at `parts`.
  LinearSum sum(const float* parts, int num_rows, int out_features) const {
    return {nullptr, parts, num_rows, out_features, tile_features, units_per_tile, num_units, num_workers};
  }
};

// The cut of a product with up to kMaxStreamRows rows. It depends on the rows' bucket only, so a row's bits do too.
StreamPlan plan_stream(int out_features, int in_features, int num_rows, int num_processors);
// The same with tiles that no two workers share: max_parts is 1, and parts are y itself.
StreamPlan plan_stream_whole_tiles(int out_features, int in_features, int num_rows, int num_processors);

// Multiprocessor cycles in which the GPU's memory, at its peak rate times `share`, delivers one stage of weights to
// each of `num_processors`; 0 when the driver does not tell its clocks.
int stage_cycles_of(int device_index, int num_processors, double share);

// Asks the driver for the encoder of tensor maps and lets the kernels use all shared memory of the current device.
// Throws kDevice.
void prepare_stream_linear();

// The tensor map of a weight matrix or of x: [num_rows, num_features] bf16, row-major, read in boxes of box_rows x 64.
// num_features is a multiple of 8, `data` is aligned to 16 bytes. What a box has outside is read as zero.
CUtensorMap encode_matrix(const __nv_bfloat16* data, int num_rows, int num_features, int box_rows);
inline constexpr int kWeightBoxRows = 64;

// Enqueues the product as a link of a chain (cuda/launch.cuh): weights are read while the kernel in front still runs.
// Until then a block asks for a stage of weights every stage_cycles, so that the kernel in front does not wait behind
// them. `weight`: of encode_matrix with kWeightBoxRows; x: [num_rows, in_features]; parts:
// [max_parts][num_rows][out_features].
void run_stream_linear(const StreamPlan& plan, int stage_cycles, const CUtensorMap& weight, const __nv_bfloat16* x,
                       int num_rows, int out_features, int in_features, float* parts, cudaStream_t stream);

}  // namespace deftree
