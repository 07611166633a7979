// Packs tensors of files into the layouts of linear_kernels.h, one panel of 16 output features per task.
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "common/error.h"
#include "model/linear_kernels.h"
#include "model/quant_block.h"

namespace deftree {
namespace {

bool is_integer(WeightFormat format) { return format == WeightFormat::kI8 || format == WeightFormat::kI4; }

bool has_4_bit_codes(DType type) {
  const QuantLayout* layout = quant_layout(type);
  return layout != nullptr && layout->max_code < 16;
}

// kI8 made from floats.
constexpr QuantLayout kLayoutFromFloat{kBlock, 255, 128, false};

const QuantLayout& layout_of(DType type) {
  const QuantLayout* layout = quant_layout(type);
  return layout != nullptr ? *layout : kLayoutFromFloat;
}

// Sources of different types share one layout: a common zero point where none has minima, else minima for all. Both
// changes keep every weight's value.
QuantLayout common_layout(std::span<const SourceTensor> sources) {
  QuantLayout all = layout_of(sources[0].dtype);
  for (const SourceTensor& source : sources) {
    const QuantLayout& layout = layout_of(source.dtype);
    all.group_len = std::min(all.group_len, layout.group_len);
    all.has_min |= layout.has_min;
    all.max_code = std::max(all.max_code, layout.max_code);
    if (layout.zero != all.zero) all.zero = 128;
  }
  if (all.has_min) all.zero = 0;
  if (all.zero == 128) all.max_code = 255;
  return all;
}

[[noreturn]] void bad_source(const std::string& why, const SourceTensor& source) {
  throw Error(ErrorCode::kBadArgument,
              "cannot pack a " + std::string(dtype_info(source.dtype).name) + " tensor: " + why,
              {{"rows", static_cast<double>(source.rows)},
               {"cols", static_cast<double>(source.cols)},
               {"bytes", static_cast<double>(source.bytes.size())}});
}

void check_sources(std::span<const SourceTensor> sources, WeightFormat format) {
  ensure(!sources.empty(), "pack needs a source");
  int64_t rows = 0;
  for (const SourceTensor& source : sources) {
    const DTypeInfo& info = dtype_info(source.dtype);
    if (source.rows < 0 || source.cols < 1 || source.rows > INT_MAX - kPanel || source.cols > INT_MAX / kPanel) {
      bad_source("its shape is out of range", source);
    }
    if (source.cols != sources[0].cols) bad_source("its columns differ from those of the tensors beside it", source);
    if (source.cols % info.block_len != 0) {
      bad_source("its columns are no multiple of the block length " + std::to_string(info.block_len), source);
    }
    const uint64_t wanted = static_cast<uint64_t>(source.rows) * (source.cols / info.block_len) * info.block_bytes;
    if (source.bytes.size() != wanted) bad_source("its bytes should be " + std::to_string(wanted), source);
    if (format == WeightFormat::kI4 && !has_4_bit_codes(source.dtype)) {
      bad_source("format int4 takes 4-bit blocks only", source);
    }
    rows += source.rows;
  }
  if (rows > INT_MAX - kPanel) bad_source("too many rows in all", sources[0]);
}

struct SourceRow {
  const SourceTensor* source;
  std::span<const uint8_t> bytes;
};

SourceRow find_row(std::span<const SourceTensor> sources, int64_t row) {
  for (const SourceTensor& source : sources) {
    if (row < source.rows) {
      const size_t row_bytes = source.bytes.size() / static_cast<size_t>(source.rows);
      return {&source, source.bytes.subspan(static_cast<size_t>(row) * row_bytes, row_bytes)};
    }
    row -= source.rows;
  }
  return {nullptr, {}};
}

// What a thread needs for the panel it packs.
struct PanelScratch {
  std::vector<float> row;           // [in_features]
  std::vector<uint8_t> codes;       // [16, num_blocks * 32]
  std::vector<float> scales, mins;  // [16, groups]
};

// One row as codes, scales and minima in the layout of `matrix`.
void decode_row(const SourceRow& from, const PackedMatrix& matrix, uint8_t* codes, float* scales, float* mins) {
  const DType type = from.source->dtype;
  const DTypeInfo& info = dtype_info(type);
  const QuantLayout& layout = *quant_layout(type);
  const int repeat = layout.group_len / matrix.group_len;
  QuantBlock block;
  for (size_t at = 0; at < from.bytes.size(); at += info.block_bytes) {
    decode_quant_block(type, from.bytes.data() + at, block);
    const int shift = matrix.has_min ? 0 : matrix.zero - layout.zero;
    for (int j = 0; j < info.block_len; ++j) *codes++ = static_cast<uint8_t>(block.codes[j] + shift);
    for (int g = 0; g < info.block_len / layout.group_len; ++g) {
      const float min = layout.has_min ? block.mins[g] : -static_cast<float>(layout.zero) * block.scales[g];
      for (int i = 0; i < repeat; ++i) {
        *scales++ = block.scales[g];
        *mins++ = matrix.has_min ? min : 0.0f;
      }
    }
  }
}

// The power of two that brings the largest of the row's scales and minima into [2^14, 2^15).
int unit_exponent(const float* scales, const float* mins, int groups) {
  float largest = 0.0f;
  for (int g = 0; g < groups; ++g) {
    for (const float value : {std::abs(scales[g]), std::abs(mins[g])}) {
      if (std::isfinite(value)) largest = std::max(largest, value);
    }
  }
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::clamp(exponent - 15, -120, 100);
}

// Symmetric codes of float weights: the scale is rounded to its stored form first, so that the codes fit it.
void quantize_float_row(const float* row, const PackedMatrix& matrix, uint8_t* codes, float* scales, float* mins) {
  for (int g = 0; g < matrix.num_blocks; ++g) {
    float largest = 0.0f;
    bool finite = true;
    for (int k = g * kBlock; k < std::min(matrix.in_features, (g + 1) * kBlock); ++k) {
      finite &= std::isfinite(row[k]);
      largest = std::max(largest, std::abs(row[k]));
    }
    scales[g] = finite ? largest / 127.0f : std::numeric_limits<float>::quiet_NaN();
    mins[g] = 0.0f;
  }
  const int exponent = unit_exponent(scales, mins, matrix.num_blocks);
  for (int g = 0; g < matrix.num_blocks; ++g) {
    scales[g] = std::ldexp(f16_to_f32(f32_to_f16(std::ldexp(scales[g], -exponent))), exponent);
    for (int k = g * kBlock; k < std::min(matrix.in_features, (g + 1) * kBlock); ++k) {
      const float code = scales[g] > 0.0f ? std::clamp(std::rint(row[k] / scales[g]), -127.0f, 127.0f) : 0.0f;
      codes[k] = static_cast<uint8_t>(static_cast<int>(code) + 128);
    }
  }
  // Groups of 16 occur when the matrix is joined from sources that need them.
  for (int g = matrix.groups_per_row() - 1; g >= 0; --g) {
    scales[g] = scales[g * matrix.group_len / kBlock];
    mins[g] = matrix.has_min ? -128.0f * scales[g] : 0.0f;
  }
}

void store_codes(const PackedMatrix& matrix, const uint8_t* codes, uint8_t* dst) {
  const size_t padded_in = static_cast<size_t>(matrix.num_blocks) * kBlock;
  const bool nibbles = matrix.format == WeightFormat::kI4;
  for (int b = 0; b < matrix.num_blocks; ++b) {
    for (int j = 0; j < (nibbles ? 4 : 8); ++j) {
      for (int lane = 0; lane < kPanel; ++lane, dst += 4) {
        const uint8_t* src = codes + lane * padded_in + b * kBlock + 4 * j;
        for (int i = 0; i < 4; ++i) dst[i] = nibbles ? static_cast<uint8_t>(src[i] | (src[16 + i] << 4)) : src[i];
      }
    }
  }
}

struct Packer {
  std::span<const SourceTensor> sources;
  const PackedMatrix& matrix;
  std::byte* weights;
  uint16_t* scales;
  uint16_t* mins;
  float* unit;

  void pack_float_panel(int panel, PanelScratch& scratch) const {
    const int in_features = matrix.in_features;
    const bool f32 = matrix.format == WeightFormat::kF32;
    std::byte* dst = weights + panel * matrix.panel_bytes();
    std::memset(dst, 0, matrix.panel_bytes());
    for (int lane = 0; lane < matrix.lanes(panel); ++lane) {
      const SourceRow from = find_row(sources, int64_t{panel} * kPanel + lane);
      dequantize(from.source->dtype, from.bytes, scratch.row);
      for (size_t k = 0; k < static_cast<size_t>(in_features); ++k) {
        if (f32) {
          reinterpret_cast<float*>(dst)[k * kPanel + lane] = scratch.row[k];
        } else {
          reinterpret_cast<uint16_t*>(dst)[(k / 2 * kPanel + lane) * 2 + k % 2] = f32_to_bf16(scratch.row[k]);
        }
      }
    }
  }

  void pack_integer_panel(int panel, PanelScratch& scratch) const {
    const size_t padded_in = static_cast<size_t>(matrix.num_blocks) * kBlock;
    const int groups = matrix.groups_per_row();
    std::fill(scratch.codes.begin(), scratch.codes.end(), uint8_t{0});
    std::fill(scratch.scales.begin(), scratch.scales.end(), 0.0f);
    std::fill(scratch.mins.begin(), scratch.mins.end(), 0.0f);
    for (int lane = 0; lane < kPanel; ++lane) {
      uint8_t* row_codes = scratch.codes.data() + lane * padded_in;
      float* row_scales = scratch.scales.data() + static_cast<size_t>(lane) * groups;
      float* row_mins = scratch.mins.data() + static_cast<size_t>(lane) * groups;
      if (lane < matrix.lanes(panel)) {
        const SourceRow from = find_row(sources, int64_t{panel} * kPanel + lane);
        if (quant_layout(from.source->dtype) != nullptr) {
          decode_row(from, matrix, row_codes, row_scales, row_mins);
        } else {
          dequantize(from.source->dtype, from.bytes, scratch.row);
          quantize_float_row(scratch.row.data(), matrix, row_codes, row_scales, row_mins);
        }
      }
      const int exponent = unit_exponent(row_scales, row_mins, groups);
      unit[panel * kPanel + lane] = std::ldexp(1.0f, exponent);
      for (int g = 0; g < groups; ++g) {
        const size_t at = (static_cast<size_t>(panel) * groups + g) * kPanel + lane;
        scales[at] = f32_to_f16(std::ldexp(row_scales[g], -exponent));
        if (matrix.has_min) mins[at] = f32_to_f16(std::ldexp(row_mins[g], -exponent));
      }
    }
    store_codes(matrix, scratch.codes.data(), reinterpret_cast<uint8_t*>(weights + panel * matrix.panel_bytes()));
  }
};

size_t round_up_64(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

std::string_view weight_format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32: return "f32";
    case WeightFormat::kBf16: return "bf16";
    case WeightFormat::kI8: return "int8";
    case WeightFormat::kI4: return "int4";
  }
  return "";
}

WeightFormat choose_weight_format(DType source, std::string_view wanted) {
  if (wanted == "f32") return WeightFormat::kF32;
  if (wanted == "bf16") return WeightFormat::kBf16;
  if (wanted == "int8") return WeightFormat::kI8;
  if (wanted != "auto") {
    throw Error(ErrorCode::kBadArgument,
                "weights: \"" + std::string(wanted.substr(0, 32)) + "\" is not one of auto, f32, bf16, int8");
  }
  if (source == DType::kF32) return WeightFormat::kF32;
  if (source == DType::kF16 || source == DType::kBf16) return WeightFormat::kBf16;
  return has_4_bit_codes(source) ? WeightFormat::kI4 : WeightFormat::kI8;
}

WeightFormat choose_weight_format(std::span<const SourceTensor> sources, std::string_view wanted) {
  WeightFormat widest = WeightFormat::kI4;
  for (const SourceTensor& source : sources) widest = std::min(widest, choose_weight_format(source.dtype, wanted));
  return widest;
}

LinearWeight::LinearWeight() : impl_(std::make_unique<Impl>()) {}
LinearWeight::~LinearWeight() = default;
LinearWeight::LinearWeight(LinearWeight&&) noexcept = default;
LinearWeight& LinearWeight::operator=(LinearWeight&&) noexcept = default;

LinearWeight LinearWeight::pack(const SourceTensor& source, WeightFormat format, ThreadPool& pool) {
  return pack(std::span(&source, 1), format, pool);
}

LinearWeight LinearWeight::pack(std::span<const SourceTensor> sources, WeightFormat format, ThreadPool& pool) {
  check_sources(sources, format);
  LinearWeight weight;
  PackedMatrix& matrix = weight.impl_->matrix;
  matrix.format = format;
  for (const SourceTensor& source : sources) matrix.out_features += static_cast<int>(source.rows);
  matrix.in_features = static_cast<int>(sources[0].cols);
  matrix.num_panels = (matrix.out_features + kPanel - 1) / kPanel;
  matrix.num_blocks = (matrix.in_features + kBlock - 1) / kBlock;
  const QuantLayout layout = common_layout(sources);
  matrix.group_len = layout.group_len;
  matrix.zero = layout.zero;
  matrix.has_min = layout.has_min;
  matrix.max_code = layout.max_code;

  const bool integer = is_integer(format);
  const size_t outputs = static_cast<size_t>(matrix.num_panels) * kPanel;
  const size_t groups_bytes = integer ? round_up_64(outputs * matrix.groups_per_row() * sizeof(uint16_t)) : 0;
  const size_t codes_bytes = round_up_64(matrix.num_panels * matrix.panel_bytes());
  const size_t unit_bytes = integer ? outputs * sizeof(float) : 0;
  weight.impl_->buffer = AlignedBuffer(codes_bytes + (matrix.has_min ? 2 : 1) * groups_bytes + unit_bytes);
  std::byte* const base = weight.impl_->buffer.data();
  auto* const scales = reinterpret_cast<uint16_t*>(base + codes_bytes);
  auto* const mins = reinterpret_cast<uint16_t*>(base + codes_bytes + groups_bytes);
  auto* const unit = reinterpret_cast<float*>(base + weight.impl_->buffer.size() - unit_bytes);
  matrix.weights = base;
  if (integer) {
    matrix.scales = scales;
    matrix.mins = matrix.has_min ? mins : nullptr;
    matrix.unit = unit;
  }

  std::vector<PanelScratch> scratch(static_cast<size_t>(pool.num_threads()));
  for (PanelScratch& s : scratch) {
    s.row.resize(static_cast<size_t>(matrix.in_features));
    if (!integer) continue;
    s.codes.resize(static_cast<size_t>(kPanel) * matrix.num_blocks * kBlock);
    s.scales.resize(static_cast<size_t>(kPanel) * matrix.groups_per_row());
    s.mins.resize(s.scales.size());
  }
  const Packer packer{sources, matrix, base, scales, mins, unit};
  pool.run(matrix.num_panels, [&](int panel, int thread) {
    if (integer) {
      packer.pack_integer_panel(panel, scratch[thread]);
    } else {
      packer.pack_float_panel(panel, scratch[thread]);
    }
  });
  return weight;
}

int LinearWeight::out_features() const { return impl_->matrix.out_features; }
int LinearWeight::in_features() const { return impl_->matrix.in_features; }
WeightFormat LinearWeight::format() const { return impl_->matrix.format; }
size_t LinearWeight::bytes() const { return impl_->buffer.size(); }

void LinearWeight::dequantize_row(int row, float* dst) const {
  const PackedMatrix& m = impl_->matrix;
  const size_t panel = static_cast<size_t>(row) / kPanel, lane = static_cast<size_t>(row) % kPanel;
  const size_t in_features = static_cast<size_t>(m.in_features);
  const std::byte* weights = m.weights + panel * m.panel_bytes();
  if (m.format == WeightFormat::kF32) {
    const float* src = reinterpret_cast<const float*>(weights) + lane;
    for (size_t k = 0; k < in_features; ++k) dst[k] = src[k * kPanel];
    return;
  }
  if (m.format == WeightFormat::kBf16) {
    const auto* src = reinterpret_cast<const uint16_t*>(weights) + lane * 2;
    for (size_t k = 0; k < in_features; ++k) dst[k] = bf16_to_f32(src[k / 2 * 2 * kPanel + k % 2]);
    return;
  }
  const bool nibbles = m.format == WeightFormat::kI4;
  const auto* codes = reinterpret_cast<const uint8_t*>(weights);
  const size_t groups = static_cast<size_t>(m.groups_per_row());
  for (size_t k = 0; k < in_features; ++k) {
    const size_t block = k / kBlock, j = k % kBlock;
    int code;
    if (nibbles) {
      const uint8_t pair = codes[block * 256 + (j % 16 / 4 * kPanel + lane) * 4 + j % 4];
      code = j < 16 ? pair & 15 : pair >> 4;
    } else {
      code = codes[block * 512 + (j / 4 * kPanel + lane) * 4 + j % 4];
    }
    const size_t at = (panel * groups + k / static_cast<size_t>(m.group_len)) * kPanel + lane;
    const float scaled = f16_to_f32(m.scales[at]) * static_cast<float>(code - m.zero);
    dst[k] = m.unit[row] * (m.has_min ? scaled + f16_to_f32(m.mins[at]) : scaled);
  }
}

}  // namespace deftree
