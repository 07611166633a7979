#include "attention/state.h"

#include <vector>

#include "attention/half.h"
#include "common/test.h"

namespace deftree::attention {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct State {
  std::vector<float> o;
  float lse;
};

State merge(std::initializer_list<State> states) {
  State result{std::vector<float>(2), 0};
  AttentionState<float> running(result.o.data(), 2);
  for (const State& s : states) running.merge(s.o.data(), s.lse);
  result.lse = running.normalise();
  return result;
}

const State kEmpty{{0, 0}, -kInf};

void check_same(const State& a, const State& b) {
  CHECK_NEAR(a.o[0], b.o[0], 1e-6);
  CHECK_NEAR(a.o[1], b.o[1], 1e-6);
  CHECK_NEAR(a.lse, b.lse, 1e-6 * (1 + std::abs(b.lse)));
}

}  // namespace

TEST(empty_states_merge_to_empty_and_never_to_nan) {
  for (const State& s : {merge({}), merge({kEmpty}), merge({kEmpty, kEmpty})}) {
    CHECK_EQ(s.o[0], 0.0f);
    CHECK_EQ(s.lse, -kInf);
  }
}

TEST(the_empty_state_is_neutral_whatever_its_output_holds) {
  const State poisoned{{NAN, NAN}, -kInf};
  const State s{{1.5f, -2}, 3};
  check_same(merge({s, poisoned}), s);
  check_same(merge({poisoned, s}), s);
}

TEST(merging_keys_is_softmax) {
  // Weights exp(0) and exp(ln 3): a quarter and three quarters.
  const State s = merge({{{1, 0}, 0}, {{0, 1}, std::log(3.0f)}});
  check_same(s, {{0.25f, 0.75f}, std::log(4.0f)});
}

TEST(merge_is_associative_and_commutative) {
  const State a{{1, 2}, 0.3f}, b{{-4, 0.5f}, 2}, c{{3, 3}, -1};
  check_same(merge({merge({a, b}), c}), merge({a, merge({b, c})}));
  check_same(merge({a, b, c}), merge({c, a, b}));
  check_same(merge({merge({a, kEmpty}), merge({b, c})}), merge({a, b, c}));
}

TEST(extreme_log_sum_exps_neither_overflow_nor_vanish) {
  check_same(merge({{{1, 1}, 1e30f}, {{5, 5}, -1e30f}}), {{1, 1}, 1e30f});
  check_same(merge({{{5, 5}, -1e30f}, {{1, 1}, 1e30f}}), {{1, 1}, 1e30f});
  check_same(merge({{{1, 3}, -3e38f}, {{3, 1}, -3e38f}}), {{2, 2}, -3e38f});
}

TEST(half_conversion_round_trips_every_half) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const uint16_t half = static_cast<uint16_t>(h);
    const float value = half_to_float(half);
    if (std::isnan(value))
      CHECK(std::isnan(half_to_float(float_to_half(value))));
    else
      CHECK_EQ(float_to_half(value), half);
  }
  CHECK_EQ(half_to_float(0x3c00), 1.0f);
  CHECK_EQ(half_to_float(0x0001), std::ldexp(1.0f, -24));
  CHECK_EQ(half_to_float(0xfbff), -65504.0f);
}

TEST(float_to_half_rounds_to_nearest_even) {
  CHECK_EQ(float_to_half(1 + 0x1p-11f), 0x3c00);      // halfway: to even, down
  CHECK_EQ(float_to_half(1 + 3 * 0x1p-11f), 0x3c02);  // halfway: to even, up
  CHECK_EQ(float_to_half(1 + 0x1.1p-11f), 0x3c01);
  CHECK_EQ(float_to_half(65519.0f), 0x7bff);
  CHECK_EQ(float_to_half(65520.0f), 0x7c00);
  CHECK_EQ(float_to_half(-1e30f), 0xfc00);
  CHECK_EQ(float_to_half(0x1p-25f), 0x0000);  // halfway to the smallest subnormal: to even
  CHECK_EQ(float_to_half(0x1.8p-25f), 0x0001);
}

}  // namespace deftree::attention
