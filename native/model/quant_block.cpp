#include "model/quant_block.h"

#include <cstring>

namespace deftree {
namespace {

constexpr QuantLayout kLayoutQ8_0{32, 255, 128, false};
constexpr QuantLayout kLayoutQ4_0{32, 15, 8, false};
constexpr QuantLayout kLayoutQ4_1{32, 15, 0, true};
constexpr QuantLayout kLayoutQ5_0{32, 31, 16, false};
constexpr QuantLayout kLayoutQ5_1{32, 31, 0, true};
constexpr QuantLayout kLayoutQ4_K{32, 15, 0, true};
constexpr QuantLayout kLayoutQ5_K{32, 31, 0, true};
constexpr QuantLayout kLayoutQ6_K{16, 63, 32, false};

float read_f16(const uint8_t* src) {
  uint16_t bits;
  std::memcpy(&bits, src, sizeof bits);
  return f16_to_f32(bits);
}

// qs: [16], code j in the low nibble of byte j, code j + 16 in its high nibble.
void split_nibbles(const uint8_t* qs, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = qs[j] & 15;
    codes[j + 16] = qs[j] >> 4;
  }
}

// qh: 32 bits, bit j is the fifth bit of code j.
void add_fifth_bits(const uint8_t* qh, uint8_t* codes) {
  for (int j = 0; j < 32; ++j) codes[j] |= ((qh[j / 8] >> (j % 8)) & 1) << 4;
}

// The 6-bit scales and minima of the eight sub-blocks of Q4_K and Q5_K, packed in 12 bytes.
void unpack_k_scales(const uint8_t* src, float d, float dmin, QuantBlock& dst) {
  for (int j = 0; j < 8; ++j) {
    int scale, min;
    if (j < 4) {
      scale = src[j] & 63;
      min = src[j + 4] & 63;
    } else {
      scale = (src[j + 4] & 15) | ((src[j - 4] >> 6) << 4);
      min = (src[j + 4] >> 4) | ((src[j] >> 6) << 4);
    }
    dst.scales[j] = d * static_cast<float>(scale);
    dst.mins[j] = -dmin * static_cast<float>(min);
  }
}

// qs: [128], each run of 32 bytes holds two sub-blocks: low nibbles, then high nibbles.
void split_k_nibbles(const uint8_t* qs, uint8_t* codes) {
  for (int pair = 0; pair < 4; ++pair) {
    for (int j = 0; j < 32; ++j) {
      codes[pair * 64 + j] = qs[pair * 32 + j] & 15;
      codes[pair * 64 + 32 + j] = qs[pair * 32 + j] >> 4;
    }
  }
}

void decode_q4_k(const uint8_t* src, QuantBlock& dst) {
  unpack_k_scales(src + 4, read_f16(src), read_f16(src + 2), dst);
  split_k_nibbles(src + 16, dst.codes);
}

void decode_q5_k(const uint8_t* src, QuantBlock& dst) {
  unpack_k_scales(src + 4, read_f16(src), read_f16(src + 2), dst);
  const uint8_t* qh = src + 16;  // [32], bit s of byte j is the fifth bit of code j of sub-block s
  split_k_nibbles(src + 48, dst.codes);
  for (int s = 0; s < 8; ++s) {
    for (int j = 0; j < 32; ++j) dst.codes[s * 32 + j] |= ((qh[j] >> s) & 1) << 4;
  }
}

void decode_q6_k(const uint8_t* src, QuantBlock& dst) {
  const uint8_t* low = src;         // [128] lower four bits
  const uint8_t* high = src + 128;  // [64] upper two bits
  const float d = read_f16(src + 208);
  for (int half = 0; half < 2; ++half, low += 64, high += 32) {
    uint8_t* codes = dst.codes + half * 128;
    for (int j = 0; j < 32; ++j) {
      codes[j] = (low[j] & 15) | ((high[j] & 3) << 4);
      codes[j + 32] = (low[j + 32] & 15) | (((high[j] >> 2) & 3) << 4);
      codes[j + 64] = (low[j] >> 4) | (((high[j] >> 4) & 3) << 4);
      codes[j + 96] = (low[j + 32] >> 4) | ((high[j] >> 6) << 4);
    }
  }
  for (int g = 0; g < 16; ++g) {
    dst.scales[g] = d * static_cast<float>(static_cast<int8_t>(src[192 + g]));
    dst.mins[g] = 0.0f;
  }
}

}  // namespace

const QuantLayout* quant_layout(DType type) {
  switch (type) {
    case DType::kQ8_0: return &kLayoutQ8_0;
    case DType::kQ4_0: return &kLayoutQ4_0;
    case DType::kQ4_1: return &kLayoutQ4_1;
    case DType::kQ5_0: return &kLayoutQ5_0;
    case DType::kQ5_1: return &kLayoutQ5_1;
    case DType::kQ4_K: return &kLayoutQ4_K;
    case DType::kQ5_K: return &kLayoutQ5_K;
    case DType::kQ6_K: return &kLayoutQ6_K;
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16: return nullptr;
  }
  return nullptr;
}

void decode_quant_block(DType type, const uint8_t* src, QuantBlock& dst) {
  dst.mins[0] = 0.0f;
  switch (type) {
    case DType::kQ8_0:
      for (int j = 0; j < 32; ++j) dst.codes[j] = src[2 + j] ^ 0x80;
      break;
    case DType::kQ4_0:
      split_nibbles(src + 2, dst.codes);
      break;
    case DType::kQ4_1:
      dst.mins[0] = read_f16(src + 2);
      split_nibbles(src + 4, dst.codes);
      break;
    case DType::kQ5_0:
      split_nibbles(src + 6, dst.codes);
      add_fifth_bits(src + 2, dst.codes);
      break;
    case DType::kQ5_1:
      dst.mins[0] = read_f16(src + 2);
      split_nibbles(src + 8, dst.codes);
      add_fifth_bits(src + 4, dst.codes);
      break;
    case DType::kQ4_K: return decode_q4_k(src, dst);
    case DType::kQ5_K: return decode_q5_k(src, dst);
    case DType::kQ6_K: return decode_q6_k(src, dst);
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16: return;
  }
  dst.scales[0] = read_f16(src);
}

}  // namespace deftree
