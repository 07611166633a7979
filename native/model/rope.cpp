#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace deftree {
namespace {

double scaled(double frequency, const Llama3RopeScaling& scaling) {
  const double turns = scaling.original_context_len * frequency / (2 * std::numbers::pi);  // in the original context
  const double kept =
      std::clamp((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0);
  return kept * frequency + (1 - kept) * frequency / scaling.factor;
}

}  // namespace

std::vector<double> rope_inverse_frequencies(const LlamaConfig& config) {
  std::vector<double> frequencies(config.head_dim / 2);
  for (int i = 0; i < config.head_dim / 2; ++i) {
    const double frequency = std::pow(config.rope_theta, -2.0 * i / config.head_dim);
    frequencies[i] = config.rope_scaling ? scaled(frequency, *config.rope_scaling) : frequency;
  }
  return frequencies;
}

void rope_angles(std::span<const double> inverse_frequencies, std::span<const int32_t> positions, float* cos,
                 float* sin) {
  for (const int32_t position : positions) {
    for (const double frequency : inverse_frequencies) {
      const double angle = position * frequency;
      *cos++ = static_cast<float>(std::cos(angle));
      *sin++ = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace deftree
