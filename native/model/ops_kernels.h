// The row kernels of ops.cpp: what one thread does to one row. Included once by each ops*.cpp, which is compiled for
// one instruction set; everything here is therefore local to the file that includes it. Plain loops that the compiler
// turns into vectors of that set; sums run over kLanes lanes in a fixed order, so a row's value never depends on its
// step.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "model/ops.h"

namespace deftree {
namespace {

constexpr int kLanes = 16;

// e^x to 2e-7 relative for x in [-87, 87]; x is clamped to that range, NaN too. Written so that loops over it
// vectorise: the clamp works on the bits (a float comparison may trap, so the compiler keeps its branch), x = n ln 2 +
// r with n by the rounding of a large addition, e^r by its series, 2^n by the exponent bits.
inline float fast_exp(float x) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f, kRound = 12582912.0f;
  constexpr int32_t kMaxBits = std::bit_cast<int32_t>(87.0f), kSign = INT32_MIN;
  const int32_t bits = std::bit_cast<int32_t>(x);
  const int32_t magnitude = bits & ~kSign;
  x = std::bit_cast<float>((bits & kSign) | (magnitude < kMaxBits ? magnitude : kMaxBits));
  const float shifted = x * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float series = 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  return series * std::bit_cast<float>((exponent + 127) << 23);
}

inline float inverse_rms(const float* x, int n, float eps) {
  float lanes[kLanes] = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane] * x[i + lane];
  }
  for (; i < n; ++i) lanes[0] += x[i] * x[i];
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return 1.0f / std::sqrt(lanes[0] / static_cast<float>(n) + eps);
}

void rms_norm_row(const float* __restrict x, const float* __restrict weight, float eps, int n, float* __restrict out) {
  const float scale = inverse_rms(x, n, eps);
  for (int i = 0; i < n; ++i) out[i] = weight[i] * (x[i] * scale);
}

void add_rms_norm_row(float* __restrict x, float* __restrict h, const float* __restrict weight, float eps, int n) {
  for (int i = 0; i < n; ++i) x[i] += h[i];
  rms_norm_row(x, weight, eps, n, h);
}

void silu_mul_row(float* __restrict gate, const float* __restrict up, int n) {
  for (int i = 0; i < n; ++i) gate[i] = gate[i] / (1.0f + fast_exp(-gate[i])) * up[i];
}

void rope_row(const float* __restrict heads, const float* __restrict cos, const float* __restrict sin, int num_heads,
              int head_dim, float* __restrict out) {
  const int half = head_dim / 2;
  for (int head = 0; head < num_heads; ++head, heads += head_dim, out += head_dim) {
    for (int i = 0; i < half; ++i) {
      out[i] = heads[i] * cos[i] - heads[i + half] * sin[i];
      out[i + half] = heads[i + half] * cos[i] + heads[i] * sin[i];
    }
  }
}

constexpr RowKernels kRowKernels = {rms_norm_row, add_rms_norm_row, silu_mul_row, rope_row};

}  // namespace
}  // namespace deftree
