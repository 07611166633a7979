// Weights for measurements: values from a counter-based hash, so that every device makes the same ones in any order.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DEFTREE_RANDOM_WEIGHTS_INLINE __host__ __device__ inline
#else
#define DEFTREE_RANDOM_WEIGHTS_INLINE inline
#endif

namespace deftree {

// Value `i` of the tensor is offset + scale * random_code(seed, i), rounded to bf16.
struct RandomTensor {
  uint64_t seed;
  float scale, offset;
};

// Sum of four random bytes less its mean: nearly normal, standard deviation kRandomCodeDeviation.
DEFTREE_RANDOM_WEIGHTS_INLINE int random_code(uint64_t seed, uint64_t i) {
  uint64_t x = seed + (i + 1) * 0x9e3779b97f4a7c15u;  // splitmix64 (Steele et al., OOPSLA 2014)
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  const uint32_t bits = static_cast<uint32_t>(x >> 32) ^ static_cast<uint32_t>(x);
  return static_cast<int>((bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24)) - 510;
}
inline constexpr float kRandomCodeDeviation = 147.8f;

}  // namespace deftree
