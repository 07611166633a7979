// Rotary position embedding (Su et al., RoFormer, arXiv 2104.09864) in Hugging Face's layout: dimension i of a head
// turns together with dimension i + head_dim / 2 by the angle position * inverse_frequency[i].
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/model_spec.h"

namespace deftree {

// [head_dim / 2]: rope_theta^(-2i / head_dim), stretched as the config's llama3 scaling says: wavelengths longer than
// original_context_len / low_freq_factor by `factor`, those shorter than original_context_len / high_freq_factor not at
// all, in between by a blend linear in the frequency. In double: a float angle would be wrong by 1e-4 at position 2000.
std::vector<double> rope_inverse_frequencies(const LlamaConfig& config);

// cos, sin: [num_positions, head_dim / 2] of the angles.
void rope_angles(std::span<const double> inverse_frequencies, std::span<const int32_t> positions, float* cos,
                 float* sin);

}  // namespace deftree
