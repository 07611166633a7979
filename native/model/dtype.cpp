#include "model/dtype.h"

#include <array>
#include <cstring>
#include <string>

#include "common/error.h"
#include "model/quant_block.h"

namespace deftree {
namespace {

constexpr std::array<DTypeInfo, 11> kInfos{{{"F32", 1, 4},
                                            {"F16", 1, 2},
                                            {"BF16", 1, 2},
                                            {"Q8_0", 32, 34},
                                            {"Q4_0", 32, 18},
                                            {"Q4_1", 32, 20},
                                            {"Q5_0", 32, 22},
                                            {"Q5_1", 32, 24},
                                            {"Q4_K", 256, 144},
                                            {"Q5_K", 256, 176},
                                            {"Q6_K", 256, 210}}};

void dequantize_blocks(DType type, const uint8_t* src, size_t num_blocks, float* dst) {
  const DTypeInfo& info = dtype_info(type);
  const QuantLayout& layout = *quant_layout(type);
  QuantBlock block;
  for (size_t b = 0; b < num_blocks; ++b, src += info.block_bytes, dst += info.block_len) {
    decode_quant_block(type, src, block);
    for (int j = 0; j < info.block_len; ++j) {
      const int g = j / layout.group_len;
      const float scaled = block.scales[g] * static_cast<float>(block.codes[j] - layout.zero);
      dst[j] = layout.has_min ? scaled + block.mins[g] : scaled;
    }
  }
}

}  // namespace

const DTypeInfo& dtype_info(DType type) { return kInfos[static_cast<size_t>(type)]; }

DType parse_dtype(std::string_view name) {
  std::string names;
  for (size_t i = 0; i < kInfos.size(); ++i) {
    if (kInfos[i].name == name) return static_cast<DType>(i);
    names += (i ? ", " : "") + std::string(kInfos[i].name);
  }
  throw Error(ErrorCode::kBadModel,
              "tensor type \"" + std::string(name.substr(0, 32)) + "\" is not supported; supported are " + names);
}

void dequantize(DType type, std::span<const uint8_t> src, std::span<float> dst) {
  const DTypeInfo& info = dtype_info(type);
  const size_t num_blocks = src.size() / info.block_bytes;
  if (src.size() % info.block_bytes != 0 || dst.size() % info.block_len != 0 ||
      dst.size() / info.block_len != num_blocks) {
    throw Error(ErrorCode::kBadArgument,
                "dequantize " + std::string(info.name) + ": " + std::to_string(src.size()) + " bytes do not hold " +
                    std::to_string(dst.size()) + " elements (" + std::to_string(info.block_bytes) + " bytes per " +
                    std::to_string(info.block_len) + ")",
                {{"bytes", static_cast<double>(src.size())}, {"elements", static_cast<double>(dst.size())}});
  }
  if (num_blocks == 0) return;
  switch (type) {
    case DType::kF32:
      std::memcpy(dst.data(), src.data(), src.size());
      return;
    case DType::kF16:
    case DType::kBf16:
      for (size_t i = 0; i < dst.size(); ++i) {
        uint16_t bits;
        std::memcpy(&bits, src.data() + 2 * i, sizeof bits);
        dst[i] = type == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
      }
      return;
    default:
      dequantize_blocks(type, src.data(), num_blocks, dst.data());
  }
}

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above
  if (magnitude < 0x38800000u) {                         // below 2^-14: adding 0.5 aligns the mantissa to 2^-24
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(aligned) - std::bit_cast<uint32_t>(0.5f));
  }
  const uint32_t rounded = magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>(rounded >> 13);
}

}  // namespace deftree
