#if defined(__x86_64__)
#include <immintrin.h>

#include "attention/attention_kernel.h"

namespace deftree::attention {
namespace {

// 16 registers: a tile of 6 x 2 sums, 2 loaded vectors and a broadcast. Two vectors are one page of keys.
struct Avx2 {
  using Vec = __m256;
  static constexpr int kWidth = 8, kRows = 6, kTileVecs = 2;

  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec set1(float x) { return _mm256_set1_ps(x); }
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec load(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
  static void store_half(uint16_t* p, Vec x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static uint16_t to_half(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static Vec round(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // Lane i of a where bit i of `lanes` is set, else of b.
  static Vec select(uint64_t lanes, Vec a, Vec b) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(lanes & 0xff)), bit);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit)));
  }
  // p * 2^n for -126 <= n <= 0, 0 for n < -126; n is whole.
  static Vec scale_by_pow2_or_zero(Vec p, Vec n) {
    const Vec normal = _mm256_cmp_ps(n, _mm256_set1_ps(-126.5f), _CMP_GT_OQ);
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    const Vec scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
    return _mm256_and_ps(scaled, normal);
  }
  // x = m * 2^e: returns m in [sqrt(1/2), sqrt(2)).
  static Vec split_exponent(Vec x, Vec& e) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i exponent = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(kSqrtHalfBits)), 23);
    e = _mm256_cvtepi32_ps(exponent);
    return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(exponent, 23)));
  }
  // Bit i: lane i is above 0.
  static uint64_t positive(Vec x) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ)));
  }
  static float first(Vec x) { return _mm256_cvtss_f32(x); }
  static float reduce_max(Vec x) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  static float reduce_add(Vec x) {
    __m128 m = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_add_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
  }
};

}  // namespace

const KernelSet kAvx2Kernels = {attend_item_with<Avx2>, merge_with<Avx2>, ItemKernel<Avx2>::scratch_bytes,
                                to_half_with<Avx2>};

}  // namespace deftree::attention
#endif
