// How the result of a matrix product lies in memory, and how a kernel reads it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>

namespace deftree {

// y [num_rows, out_features], one of two forms.
//
// bf16 `values`, row-major; or f32 `parts`, [part][num_rows][out_features]: features form tiles of `tile_features`, a
// tile's work is `units_per_tile` units, all units are numbered through and divided evenly among `num_workers`, and a
// worker writes what it has of a tile as the tile's part (worker - first worker of the tile). Only a tile's own parts
// are written.
//
// num_units * num_workers is less than 2^31.
struct LinearSum {
  const __nv_bfloat16* values;  // null: parts
  const float* parts;
  int num_rows, out_features;
  int tile_features, units_per_tile, num_units, num_workers;

#if defined(__CUDACC__)
  // First unit of a worker: floor(worker * num_units / num_workers).
  __host__ __device__ int begin_of_worker(int worker) const {
    return static_cast<int>(static_cast<unsigned>(worker) * num_units / num_workers);
  }
  // The worker that computes `unit`: the last one that begins at or before it.
  __host__ __device__ int worker_of_unit(int unit) const {
    return static_cast<int>((static_cast<unsigned>(unit + 1) * num_workers - 1) / num_units);
  }
  __host__ __device__ int num_parts_of_tile(int tile) const {
    const int first = tile * units_per_tile;
    return worker_of_unit(first + units_per_tile - 1) - worker_of_unit(first) + 1;
  }

  // Of the tile that holds `feature`; needs no result, so a kernel may ask before the product has ended. 0: no parts.
  __device__ int num_parts_at(int feature) const {
    return values != nullptr ? 0 : num_parts_of_tile(feature / tile_features);
  }

  // y[row, feature .. feature + 3]; feature is a multiple of 4, num_parts that of its tile. The parts are added in their
  // order.
  __device__ float4 load4(int row, int feature, int num_parts) const {
    const size_t at = static_cast<size_t>(row) * out_features + feature;
    if (values != nullptr) {
      const uint2 bits = *reinterpret_cast<const uint2*>(values + at);
      const float2 low = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(bits.x));
      const float2 high = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(bits.y));
      return {low.x, low.y, high.x, high.y};
    }
    constexpr int kAtOnce = 4;  // loads in flight
    const size_t part_size = static_cast<size_t>(num_rows) * out_features;
    float4 sum = {0, 0, 0, 0};
    for (int first = 0; first < num_parts; first += kAtOnce) {
      float4 v[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (first + i < num_parts) v[i] = *reinterpret_cast<const float4*>(parts + (first + i) * part_size + at);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (first + i < num_parts) {
          sum.x += v[i].x;
          sum.y += v[i].y;
          sum.z += v[i].z;
          sum.w += v[i].w;
        }
      }
    }
    return sum;
  }
  __device__ float4 load4(int row, int feature) const { return load4(row, feature, num_parts_at(feature)); }
#endif
};

}  // namespace deftree
