// Linear layers on the CPU: y = x Wt for the M rows of a step, weights packed once at load.
//
// Rows are independent: the value of row i does not depend on how many rows a call holds (same order of sums for every
// M), so a branch's logits do not change with its neighbours.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "common/cpu_features.h"
#include "common/thread_pool.h"
#include "model/dtype.h"

namespace deftree {

// How weights lie in memory. kI8: 8-bit codes, kI4: 4-bit codes, both with a scale and minimum per 32 (or fewer)
// weights; activations are then quantised to 8 bits per 32 values on the fly.
enum class WeightFormat : uint8_t { kF32, kBf16, kI8, kI4 };
std::string_view weight_format_name(WeightFormat format);

// A tensor as it lies in a file: [rows, cols], row-major, whole blocks.
struct SourceTensor {
  DType dtype;
  int64_t rows, cols;
  std::span<const uint8_t> bytes;
};

// Which packed format a source takes: "auto" keeps what the file has (F32 -> kF32; F16, BF16 -> kBf16; 4-bit blocks ->
// kI4; the rest -> kI8), "f32", "bf16", "int8" force one. Throws kBadArgument for another word. Why 4-bit blocks stay
// 4-bit: docs/decisions/0005-weight-formats.md.
WeightFormat choose_weight_format(DType source, std::string_view wanted);
// The narrowest format that holds every source: what a packed group (q, k, v) of mixed types takes.
WeightFormat choose_weight_format(std::span<const SourceTensor> sources, std::string_view wanted);

class LinearWeight {
 public:
  LinearWeight();
  ~LinearWeight();
  LinearWeight(LinearWeight&&) noexcept;
  LinearWeight& operator=(LinearWeight&&) noexcept;

  // Packs `source` ([out_features, in_features]) on the pool. Codes of quantised sources are kept as they are; kI8 of
  // float sources is symmetric per 32 weights. Throws kOutOfMemory with the bytes wanted, and kBadArgument for shapes
  // that do not fit the bytes or for kI4 of a source without 4-bit blocks.
  static LinearWeight pack(const SourceTensor& source, WeightFormat format, ThreadPool& pool);
  // Rows of several sources with equal in_features under one another (q, k, v; gate, up): one call computes all.
  static LinearWeight pack(std::span<const SourceTensor> sources, WeightFormat format, ThreadPool& pool);

  int out_features() const;
  int in_features() const;
  WeightFormat format() const;
  size_t bytes() const;
  // dst: [in_features], row `row` as the kernel sees it (embedding lookup of tied weights).
  void dequantize_row(int row, float* dst) const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// Scratch for quantised activations; grows, never shrinks.
class LinearWorkspace {
 public:
  LinearWorkspace();
  ~LinearWorkspace();
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// y[num_rows, out_features] = x[num_rows, in_features] Wt. ldx/ldy: floats between rows. A row of x that holds a NaN
// (or, with kI8 and kI4, an infinity) gives a row of NaN. y must not overlap x.
void linear(const LinearWeight& weight, const float* x, int ldx, float* y, int ldy, int num_rows,
            LinearWorkspace& workspace, ThreadPool& pool);

// The same in plain loops over dequantised weights and unquantised activations: the kernels' oracle.
void linear_reference(const LinearWeight& weight, const float* x, int ldx, float* y, int ldy, int num_rows);

}  // namespace deftree
