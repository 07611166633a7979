// The kernel's own exp2 and log2, with the vectors every machine has (the polynomials are the same in all).
#include "attention/attention_kernel.h"

#include <cmath>

#include "attention/vec128.h"
#include "common/test.h"

namespace deftree::attention {

TEST(exp2_is_within_two_units_in_the_last_place) {
  double worst = 0;
  for (float x = 0; x > -126; x = x * 1.00001f - 1e-5f) {
    const double exact = std::exp2(static_cast<double>(x));
    const double ulp = std::ldexp(1.0, static_cast<int>(std::floor(x)) - 23);
    const float got = Vec128::first(exp2_nonpositive<Vec128>(Vec128::set1(x)));
    worst = std::fmax(worst, std::fabs(got - exact) / ulp);
  }
  CHECK(worst <= 2);
  CHECK(worst > 0);
}

TEST(exp2_is_exact_at_zero_and_vanishes_below_the_normal_range) {
  auto exp2_of = [](float x) { return Vec128::first(exp2_nonpositive<Vec128>(Vec128::set1(x))); };
  CHECK_EQ(exp2_of(0), 1.0f);
  CHECK_EQ(exp2_of(-126), std::ldexp(1.0f, -126));
  CHECK_EQ(exp2_of(-127), 0.0f);
  CHECK_EQ(exp2_of(-1e30f), 0.0f);
  CHECK_EQ(exp2_of(kNegInf), 0.0f);
}

TEST(log2_is_accurate_for_sums_of_weights) {
  for (float x = 1e-30f; x < 1e30f; x *= 1.0003f) {
    const double exact = std::log2(static_cast<double>(x));
    const float got = Vec128::first(log2_positive<Vec128>(Vec128::set1(x)));
    CHECK_NEAR(got, exact, 1.5e-7 + std::fabs(exact) * 0x1p-24);
  }
  CHECK_EQ(Vec128::first(log2_positive<Vec128>(Vec128::set1(1))), 0.0f);
  CHECK_EQ(Vec128::first(log2_positive<Vec128>(Vec128::set1(1024))), 10.0f);
}

TEST(vector_halves_are_the_scalar_halves) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const uint16_t halves[4] = {static_cast<uint16_t>(h), static_cast<uint16_t>(h), static_cast<uint16_t>(h),
                                static_cast<uint16_t>(h)};
    const float got = Vec128::first(Vec128::load(halves)), expected = half_to_float(static_cast<uint16_t>(h));
    CHECK(got == expected || (std::isnan(got) && std::isnan(expected)));
  }
}

TEST(mask_bits_reads_across_words_and_before_the_mask) {
  const uint64_t words[] = {0xf0f0f0f0f0f0f0f1, 0x8000000000000003};
  CHECK_EQ(mask_bits(words, 0, 4), uint64_t{1});
  CHECK_EQ(mask_bits(words, 60, 8), uint64_t{0x3f});
  CHECK_EQ(mask_bits(words, 127, 1), uint64_t{1});
  CHECK_EQ(mask_bits(words, -3, 5), uint64_t{0b01111});
  CHECK_EQ(mask_bits(words, -3, 2), uint64_t{0b11});
  CHECK_EQ(mask_bits(words, 64, 64), uint64_t{0x8000000000000003});
}

}  // namespace deftree::attention
