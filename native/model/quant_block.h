// The integer view of GGUF's quantised blocks. Every supported type is one affine form per group of weights,
//
//   w = scale * (code - zero) + min,      0 <= code <= max_code,
//
// with the zero point fixed by the type. The matrix kernels keep the codes and take the form as it is.
#pragma once

#include <cstdint>

#include "model/dtype.h"

namespace deftree {

struct QuantLayout {
  int group_len;  // weights that share a scale and minimum: 32, or 16 (Q6_K)
  int max_code;
  int zero;
  bool has_min;
};

inline constexpr int kMaxQuantBlockLen = 256;
inline constexpr int kMaxQuantGroups = 16;

struct QuantBlock {
  uint8_t codes[kMaxQuantBlockLen];
  float scales[kMaxQuantGroups];
  float mins[kMaxQuantGroups];  // 0 without has_min
};

// nullptr for F32, F16 and BF16.
const QuantLayout* quant_layout(DType type);
// src: one block of `type`, which must have a QuantLayout.
void decode_quant_block(DType type, const uint8_t* src, QuantBlock& dst);

}  // namespace deftree
