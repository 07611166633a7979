// Four floats with the compiler's own vector types (GCC, Clang): SSE2 or NEON, whatever every CPU of the target has.
#pragma once

#include <cstdint>

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "attention/half.h"

namespace deftree::attention {

struct Vec128 {
  typedef float Vec __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
  typedef uint16_t Halves __attribute__((vector_size(8)));
  static constexpr int kWidth = 4, kRows = 6;
#if defined(__aarch64__)
  static constexpr int kTileVecs = 4;  // 32 registers: 6 x 4 sums, 4 loaded vectors and a broadcast
#else
  static constexpr int kTileVecs = 2;  // 16 registers: 6 x 2 sums, 2 loaded vectors and a broadcast
#endif

  static Vec zero() { return Vec{}; }
  static Vec set1(float x) { return Vec{x, x, x, x}; }
  static Vec load(const float* p) {
    Vec x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  static void store(float* p, Vec x) { __builtin_memcpy(p, &x, sizeof(x)); }
  static Vec add(Vec a, Vec b) { return a + b; }
  static Vec sub(Vec a, Vec b) { return a - b; }
  static Vec mul(Vec a, Vec b) { return a * b; }
  static Vec div(Vec a, Vec b) { return a / b; }
  static Vec max(Vec a, Vec b) { return blend(a > b, a, b); }
#if defined(__aarch64__)
  static Vec fma(Vec a, Vec b, Vec c) { return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
  static Vec load(const uint16_t* p) { return (Vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static void store_half(uint16_t* p, Vec x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)x))); }
#else
  static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
  // As half_to_float, four at once.
  static Vec load(const uint16_t* p) {
    Halves halves;
    __builtin_memcpy(&halves, p, sizeof(halves));
    const Ints h = __builtin_convertvector(halves, Ints);
    const Ints magnitude = h & 0x7fff, sign = (h & 0x8000) << 16;
    const Ints finite = (Ints)((Vec)(magnitude << 13) * set1(0x1p112f));
    const Ints special = (magnitude << 13) | 0x7f800000;
    return (Vec)(sign | (Ints)blend(magnitude >= 0x7c00, (Vec)special, (Vec)finite));
  }
  static void store_half(uint16_t* p, Vec x) {
    for (int i = 0; i < kWidth; ++i) p[i] = float_to_half(x[i]);
  }
#endif
  static uint16_t to_half(float x) { return float_to_half(x); }
  // |x| < 2^22: the sum has no bits left below the point.
  static Vec round(Vec x) { return (x + set1(0x1.8p23f)) - set1(0x1.8p23f); }
  // Lane i of a where bit i of `lanes` is set, else of b.
  static Vec select(uint64_t lanes, Vec a, Vec b) {
    const Ints bit = {1, 2, 4, 8};
    const int32_t low = static_cast<int32_t>(lanes & 0xf);
    return blend((Ints{low, low, low, low} & bit) == bit, a, b);
  }
  // p * 2^n for -126 <= n <= 0, 0 for n < -126; n is whole.
  static Vec scale_by_pow2_or_zero(Vec p, Vec n) {
    const Ints scaled = (Ints)p + (__builtin_convertvector(n, Ints) << 23);
    return (Vec)(scaled & (n > set1(-126.5f)));
  }
  // x = m * 2^e: returns m in [sqrt(1/2), sqrt(2)).
  static Vec split_exponent(Vec x, Vec& e) {
    const Ints exponent = ((Ints)x - 0x3f3504f3) >> 23;
    e = __builtin_convertvector(exponent, Vec);
    return (Vec)((Ints)x - (exponent << 23));
  }
  // Bit i: lane i is above 0.
  static uint64_t positive(Vec x) {
    uint64_t bits = 0;
    for (int i = 0; i < kWidth; ++i) bits |= uint64_t{x[i] > 0} << i;
    return bits;
  }
  static float first(Vec x) { return x[0]; }
  static float reduce_max(Vec x) {
    const float low = x[0] > x[1] ? x[0] : x[1], high = x[2] > x[3] ? x[2] : x[3];
    return low > high ? low : high;
  }
  static float reduce_add(Vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }

 private:
  static Vec blend(Ints mask, Vec a, Vec b) { return (Vec)((mask & (Ints)a) | (~mask & (Ints)b)); }
};

}  // namespace deftree::attention
