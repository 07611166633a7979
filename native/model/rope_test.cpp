#include "model/rope.h"

#include <cmath>
#include <utility>
#include <vector>

#include "common/test.h"

using namespace deftree;

namespace {

LlamaConfig config_of(int head_dim, double theta) {
  LlamaConfig config{};
  config.head_dim = head_dim;
  config.rope_theta = theta;
  return config;
}

}  // namespace

TEST(rope_frequencies_without_scaling_are_powers_of_theta) {
  const std::vector<double> frequencies = rope_inverse_frequencies(config_of(64, 10000));
  REQUIRE(frequencies.size() == 32);
  CHECK_EQ(frequencies[0], 1.0);
  CHECK_NEAR(frequencies[16], 0.01, 1e-12);
  CHECK_NEAR(frequencies[31], 1 / std::pow(10000, 62.0 / 64), 1e-12);
}

// By transformers' "llama3" rope initialisation (float32), with the parameters of Llama 3.1 8B and Llama 3.2 1B.
TEST(rope_llama3_scaling_matches_transformers) {
  LlamaConfig large = config_of(128, 500000);
  large.rope_scaling = Llama3RopeScaling{8, 1, 4, 8192};
  const std::vector<double> of_large = rope_inverse_frequencies(large);
  for (const auto& [i, expected] : std::vector<std::pair<int, double>>{{0, 1},
                                                                       {1, 0.81461722},
                                                                       {16, 0.037606031},
                                                                       {29, 0.0021665706},
                                                                       {32, 0.00052484602},
                                                                       {34, 0.00017850779},
                                                                       {36, 7.7846555e-05},
                                                                       {56, 1.2891732e-06},
                                                                       {63, 3.0689259e-07}}) {
    CHECK_NEAR(of_large[i] / expected, 1.0, 1e-6);
  }
  LlamaConfig small = config_of(64, 500000);
  small.rope_scaling = Llama3RopeScaling{32, 1, 4, 8192};
  const std::vector<double> of_small = rope_inverse_frequencies(small);
  for (const auto& [i, expected] : std::vector<std::pair<int, double>>{
           {1, 0.66360128}, {13, 0.0048394212}, {16, 0.00042955671}, {18, 1.9461639e-05}, {31, 9.4183065e-08}}) {
    CHECK_NEAR(of_small[i] / expected, 1.0, 1e-6);
  }
}

TEST(rope_angles_are_exact_at_far_positions) {
  const std::vector<double> frequencies = {1.0, 0.81461722, 0.037606031};
  const std::vector<int32_t> positions = {0, 131071};
  std::vector<float> cos(6), sin(6);
  rope_angles(frequencies, positions, cos.data(), sin.data());
  for (int i = 0; i < 3; ++i) {
    CHECK_EQ(cos[i], 1.0f);
    CHECK_EQ(sin[i], 0.0f);
    CHECK_NEAR(cos[3 + i], std::cos(131071 * frequencies[i]), 1e-7);
    CHECK_NEAR(sin[3 + i], std::sin(131071 * frequencies[i]), 1e-7);
  }
}
