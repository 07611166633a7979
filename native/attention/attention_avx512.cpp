#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics warn about the undefined vectors they are made of (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "attention/attention_kernel.h"

namespace deftree::attention {
namespace {

// 32 registers: a tile of 6 x 4 sums, 4 loaded vectors and a broadcast. One vector is one page of keys.
struct Avx512 {
  using Vec = __m512;
  static constexpr int kWidth = 16, kRows = 6, kTileVecs = 4;

  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec set1(float x) { return _mm512_set1_ps(x); }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec load(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
  static void store_half(uint16_t* p, Vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static uint16_t to_half(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec round(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // Lane i of a where bit i of `lanes` is set, else of b.
  static Vec select(uint64_t lanes, Vec a, Vec b) { return _mm512_mask_mov_ps(b, static_cast<__mmask16>(lanes), a); }
  // p * 2^n for -126 <= n <= 0, 0 for n < -126; n is whole.
  static Vec scale_by_pow2_or_zero(Vec p, Vec n) {
    const __mmask16 normal = _mm512_cmp_ps_mask(n, _mm512_set1_ps(-126.5f), _CMP_GT_OQ);
    return _mm512_maskz_scalef_ps(normal, p, n);
  }
  // x = m * 2^e: returns m in [sqrt(1/2), sqrt(2)).
  static Vec split_exponent(Vec x, Vec& e) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i exponent = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(kSqrtHalfBits)), 23);
    e = _mm512_cvtepi32_ps(exponent);
    return _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(exponent, 23)));
  }
  // Bit i: lane i is above 0.
  static uint64_t positive(Vec x) { return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ); }
  static float first(Vec x) { return _mm512_cvtss_f32(x); }
  static float reduce_max(Vec x) { return _mm512_reduce_max_ps(x); }
  static float reduce_add(Vec x) { return _mm512_reduce_add_ps(x); }
};

}  // namespace

const KernelSet kAvx512Kernels = {attend_item_with<Avx512>, merge_with<Avx512>, ItemKernel<Avx512>::scratch_bytes,
                                  to_half_with<Avx512>};

}  // namespace deftree::attention
#endif
