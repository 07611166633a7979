#include "model/dtype.h"

#include <limits>
#include <string>

#include "common/error.h"
#include "common/test.h"
#include "model/quant_test_blocks.h"

using namespace deftree;

TEST(dequantize_gives_the_values_that_were_written) {
  for (const DType type : test::kAllDTypes) {
    const test::TestBlocks blocks = test::BlockWriter(7).write(type, 2048);
    std::vector<float> values(2048);
    dequantize(type, blocks.bytes, values);
    for (size_t i = 0; i < values.size(); ++i) {
      // One rounding of the product and one of the sum; a minimum can cancel most of the product.
      CHECK_NEAR(values[i], blocks.values[i], 1e-6 * (std::abs(blocks.values[i]) + 0.05));
    }
  }
}

TEST(dequantize_checks_sizes) {
  std::vector<uint8_t> bytes(2 * 144);
  std::vector<float> values(512);
  dequantize(DType::kQ4_K, bytes, values);
  CHECK_ERROR(dequantize(DType::kQ4_K, std::span(bytes).first(287), values), ErrorCode::kBadArgument);
  CHECK_ERROR(dequantize(DType::kQ4_K, bytes, std::span(values).first(511)), ErrorCode::kBadArgument);
  CHECK_ERROR(dequantize(DType::kQ4_K, bytes, std::span(values).first(256)), ErrorCode::kBadArgument);
  CHECK_ERROR(dequantize(DType::kF32, std::span(bytes).first(8), std::span(values).first(1)), ErrorCode::kBadArgument);
  dequantize(DType::kF32, {}, {});
}

TEST(dtype_names_round_trip) {
  for (const DType type : test::kAllDTypes) CHECK(parse_dtype(dtype_info(type).name) == type);
  CHECK_ERROR(parse_dtype("Q2_K"), ErrorCode::kBadModel);
  CHECK_ERROR(parse_dtype(""), ErrorCode::kBadModel);
  try {
    parse_dtype("I32");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("Q4_K") != std::string::npos);
  }
}

TEST(half_precision_round_trips_every_value) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = f16_to_f32(static_cast<uint16_t>(bits));
    const bool is_nan = (bits & 0x7fff) > 0x7c00;
    CHECK_EQ(std::isnan(value), is_nan);
    if (is_nan) {
      CHECK(std::isnan(f16_to_f32(f32_to_f16(value))));
    } else {
      CHECK_EQ(f32_to_f16(value), bits);
    }
  }
}

TEST(half_precision_has_the_values_of_the_standard) {
  CHECK_EQ(f16_to_f32(0x3c00), 1.0f);
  CHECK_EQ(f16_to_f32(0x0001), 0x1p-24f);
  CHECK_EQ(f16_to_f32(0x7bff), 65504.0f);
  CHECK_EQ(f16_to_f32(0xfc00), -std::numeric_limits<float>::infinity());
  // Between two neighbours: to the nearer, ties to the even one.
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const double low = f16_to_f32(static_cast<uint16_t>(bits)), high = f16_to_f32(static_cast<uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    CHECK_EQ(f32_to_f16(middle), bits + bits % 2);
    CHECK_EQ(f32_to_f16(std::nextafter(middle, 0.0f)), bits);
    CHECK_EQ(f32_to_f16(std::nextafter(middle, 1e9f)), bits + 1);
  }
  CHECK_EQ(f32_to_f16(65519.0f), 0x7bff);
  CHECK_EQ(f32_to_f16(65520.0f), 0x7c00);
  CHECK_EQ(f32_to_f16(1e30f), 0x7c00);
}

TEST(bfloat16_rounds_to_nearest_even) {
  CHECK_EQ(f32_to_bf16(1.0f), 0x3f80);
  CHECK_EQ(f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
  CHECK_EQ(f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3f82);
  CHECK_EQ(f32_to_bf16(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);
  CHECK_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  CHECK(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));
}
