// Element and block types that model files hold. GGUF's block layouts are public facts of the format.
#pragma once

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

}  // namespace deftree
