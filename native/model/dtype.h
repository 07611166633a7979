// Element and block types that model files hold. GGUF's block layouts are public facts of the format.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <string_view>

namespace deftree {

enum class DType : uint8_t { kF32, kF16, kBf16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K };

struct DTypeInfo {
  std::string_view name;  // "F32", "BF16", "Q4_K" ...
  int block_len;          // elements per block: 1, 32 or 256
  int block_bytes;
};

const DTypeInfo& dtype_info(DType type);
// Throws kBadModel that lists the supported names.
DType parse_dtype(std::string_view name);
// src: whole blocks; dst: their elements. Throws kBadArgument when the sizes do not fit.
void dequantize(DType type, std::span<const uint8_t> src, std::span<float> dst);

// bfloat16 is the upper half of a float32. Rounds to nearest even; a NaN stays a NaN.
inline float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// IEEE half precision, subnormals included; f32_to_f16 rounds to nearest even and overflows to infinity.
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);

}  // namespace deftree
