// For tests: random blocks of each quantised type, written bit by bit from codes, scales and minima drawn first, with
// the weights they stand for. Independent of quant_block.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "model/dtype.h"

namespace deftree::test {

struct TestBlocks {
  std::vector<uint8_t> bytes;
  std::vector<double> values;
};

class BlockWriter {
 public:
  explicit BlockWriter(uint32_t seed) : random_(seed) {}

  // `count` elements of `type`, any type; a multiple of its block length.
  TestBlocks write(DType type, size_t count) {
    out_ = {};
    while (out_.values.size() < count) write_block(type);
    return std::move(out_);
  }

 private:
  int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  void put(int byte) { out_.bytes.push_back(static_cast<uint8_t>(byte)); }
  std::vector<int> draw_codes(int count, int high) {
    std::vector<int> codes(count);
    for (int& code : codes) code = draw(0, high);
    return codes;
  }

  // A half-precision number 2^-exponent * (1 + mantissa / 1024), written; returns its value.
  double put_f16(int exponent_low, int exponent_high, bool may_be_negative) {
    const int exponent = draw(exponent_low, exponent_high), mantissa = draw(0, 1023);
    const int sign = may_be_negative ? draw(0, 1) : 0;
    const int bits = sign << 15 | (15 - exponent) << 10 | mantissa;
    put(bits & 255);
    put(bits >> 8);
    return (sign ? -1 : 1) * std::ldexp(1.0 + mantissa / 1024.0, -exponent);
  }

  // Two codes a byte: code i of the first half low, code i of the second half high.
  void put_nibbles(const std::vector<int>& codes, size_t begin, size_t half) {
    for (size_t i = 0; i < half; ++i) put((codes[begin + i] & 15) | (codes[begin + half + i] & 15) << 4);
  }

  void write_block(DType type) {
    switch (type) {
      case DType::kF32: {
        const float value = std::normal_distribution<float>(0.0f, 0.05f)(random_);
        const uint32_t bits = std::bit_cast<uint32_t>(value);
        for (int i = 0; i < 4; ++i) put(bits >> (8 * i) & 255);
        out_.values.push_back(value);
        return;
      }
      case DType::kF16: out_.values.push_back(put_f16(3, 9, true)); return;
      case DType::kBf16: {
        const uint32_t bits = std::bit_cast<uint32_t>(std::normal_distribution<float>(0.0f, 0.05f)(random_)) >> 16;
        put(bits & 255);
        put(bits >> 8);
        out_.values.push_back(std::bit_cast<float>(bits << 16));
        return;
      }
      case DType::kQ8_0: {
        const double d = put_f16(9, 12, true);
        for (int i = 0; i < 32; ++i) {
          const int q = draw(-128, 127);
          put(q & 255);
          out_.values.push_back(d * q);
        }
        return;
      }
      case DType::kQ4_0:
      case DType::kQ4_1:
      case DType::kQ5_0:
      case DType::kQ5_1: return write_legacy(type);
      case DType::kQ4_K:
      case DType::kQ5_K: return write_k(type == DType::kQ5_K);
      case DType::kQ6_K: return write_q6_k();
    }
  }

  void write_legacy(DType type) {
    const bool five = type == DType::kQ5_0 || type == DType::kQ5_1;
    const bool has_min = type == DType::kQ4_1 || type == DType::kQ5_1;
    const int zero = has_min ? 0 : five ? 16 : 8;
    const double d = put_f16(5, 9, true);
    const double min = has_min ? put_f16(2, 6, true) : 0.0;
    const std::vector<int> codes = draw_codes(32, five ? 31 : 15);
    if (five) {
      for (int byte = 0; byte < 4; ++byte) {
        int bits = 0;
        for (int i = 0; i < 8; ++i) bits |= (codes[byte * 8 + i] >> 4) << i;
        put(bits);
      }
    }
    put_nibbles(codes, 0, 16);
    for (const int code : codes) out_.values.push_back(d * (code - zero) + min);
  }

  void write_k(bool five) {
    const double d = put_f16(11, 13, false), dmin = put_f16(10, 12, false);
    const std::vector<int> scales = draw_codes(8, 63), mins = draw_codes(8, 63);
    const std::vector<int> codes = draw_codes(256, five ? 31 : 15);
    for (int i = 0; i < 4; ++i) put(scales[i] | (scales[i + 4] >> 4) << 6);
    for (int i = 0; i < 4; ++i) put(mins[i] | (mins[i + 4] >> 4) << 6);
    for (int i = 4; i < 8; ++i) put((scales[i] & 15) | (mins[i] & 15) << 4);
    if (five) {
      for (int j = 0; j < 32; ++j) {
        int bits = 0;
        for (int s = 0; s < 8; ++s) bits |= (codes[s * 32 + j] >> 4) << s;
        put(bits);
      }
    }
    for (size_t pair = 0; pair < 4; ++pair) put_nibbles(codes, pair * 64, 32);
    for (int i = 0; i < 256; ++i) out_.values.push_back(d * scales[i / 32] * codes[i] - dmin * mins[i / 32]);
  }

  void write_q6_k() {
    const std::vector<int> codes = draw_codes(256, 63);
    for (size_t half = 0; half < 256; half += 128) put_nibbles(codes, half, 64);
    for (int half = 0; half < 256; half += 128) {
      for (int j = 0; j < 32; ++j) {
        int bits = 0;
        for (int quarter = 0; quarter < 4; ++quarter) bits |= (codes[half + quarter * 32 + j] >> 4) << (2 * quarter);
        put(bits);
      }
    }
    std::vector<int> scales(16);
    for (int& scale : scales) put((scale = draw(-128, 127)) & 255);
    const double d = put_f16(12, 14, false);
    for (int i = 0; i < 256; ++i) out_.values.push_back(d * scales[i / 16] * (codes[i] - 32));
  }

  std::mt19937 random_;
  TestBlocks out_;
};

inline constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBf16, DType::kQ8_0,
                                       DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                       DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

}  // namespace deftree::test
