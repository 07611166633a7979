#include "model/linear.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "common/error.h"
#include "common/test.h"
#include "model/linear_kernels.h"
#include "model/quant_test_blocks.h"

using namespace deftree;

namespace {

ThreadPool& pool() {
  static ThreadPool threads(3);
  return threads;
}

// A weight, its source, and the format it is packed in.
struct Packed {
  std::string name;
  test::TestBlocks blocks;
  SourceTensor source;
  LinearWeight weight;
};

Packed pack_random(DType type, WeightFormat format, int rows, int cols, uint32_t seed) {
  Packed p;
  p.name = std::string(dtype_info(type).name) + " as " + std::string(weight_format_name(format)) + " [" +
           std::to_string(rows) + ", " + std::to_string(cols) + "]";
  p.blocks = test::BlockWriter(seed).write(type, static_cast<size_t>(rows) * cols);
  p.source = {type, rows, cols, p.blocks.bytes};
  p.weight = LinearWeight::pack(p.source, format, pool());
  return p;
}

// Every type in every format that takes it, with odd shapes: outputs off 16, inputs off 2 and 32.
std::vector<Packed> all_weights() {
  std::vector<Packed> weights;
  for (const DType type : test::kAllDTypes) {
    for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kI8, WeightFormat::kI4}) {
      if (format == WeightFormat::kI4 && choose_weight_format(type, "auto") != WeightFormat::kI4) continue;
      const int block_len = dtype_info(type).block_len;
      const std::vector<int> cols = block_len == 1    ? std::vector<int>{1, 33, 128, 301}
                                    : block_len == 32 ? std::vector<int>{32, 288}
                                                      : std::vector<int>{256, 768};
      for (const int c : cols) {
        for (const int rows : {1, 40, 99}) weights.push_back(pack_random(type, format, rows, c, 11));
      }
    }
  }
  return weights;
}

bool is_integer(WeightFormat format) { return format == WeightFormat::kI8 || format == WeightFormat::kI4; }

// Activations of uneven size over rows and blocks, with a row of zeros and a block of zeros.
std::vector<float> random_rows(int rows, int cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(rows) * cols);
  for (int r = 0; r < rows; ++r) {
    for (int k = 0; k < cols; ++k) {
      const bool zero = r == 2 || (r == 1 && k < 32);
      const float size = std::exp2(static_cast<float>((r + k / 32) % 5));
      x[static_cast<size_t>(r) * cols + k] = zero ? 0.0f : normal(random) * size;
    }
  }
  return x;
}

// x as the integer kernels see it, and the step of its block.
struct QuantizedRow {
  std::vector<double> values, steps;
};

QuantizedRow quantize(const float* x, int cols) {
  QuantizedRow row{std::vector<double>(cols), std::vector<double>(cols)};
  for (int begin = 0; begin < cols; begin += 32) {
    const int end = std::min(begin + 32, cols);
    float absmax = 0;
    for (int k = begin; k < end; ++k) absmax = std::max(absmax, std::abs(x[k]));
    const float scale = absmax / 127.0f, inverse = absmax > 0 ? 127.0f / absmax : 0.0f;
    for (int k = begin; k < end; ++k) {
      row.values[k] = static_cast<double>(scale) * std::nearbyint(x[k] * inverse);
      row.steps[k] = scale;
    }
  }
  return row;
}

// Whether `kernels` round x to bfloat16 for this weight.
bool rounds_rows(const LinearKernels& kernels, const LinearWeight& weight) {
  return weight.format() == WeightFormat::kBf16 && kernels.round_row != nullptr;
}

std::vector<float> run(const LinearKernels& kernels, const LinearWeight& weight, const std::vector<float>& x,
                       int rows) {
  static LinearWorkspace workspace;
  const int n = weight.out_features(), k = weight.in_features();
  std::vector<float> y(static_cast<size_t>(rows) * n, -777.0f);
  linear_with(kernels, weight, x.data(), k, y.data(), n, rows, workspace, pool());
  return y;
}

const int kRowCounts[] = {1, 2, 3, 5, 8, 16, 17, 64};

}  // namespace

TEST(linear_matches_double_precision_on_the_values_it_sees) {
  for (const Packed& p : all_weights()) {
    const int n = p.weight.out_features(), k = p.weight.in_features();
    const bool integer = is_integer(p.weight.format());
    std::vector<std::vector<float>> w(n, std::vector<float>(k));
    std::vector<float> largest(n);
    for (int i = 0; i < n; ++i) {
      p.weight.dequantize_row(i, w[i].data());
      for (const float value : w[i]) largest[i] = std::max(largest[i], std::abs(value));
    }
    for (const int rows : kRowCounts) {
      const std::vector<float> x = random_rows(rows, k, 5);
      for (const LinearKernels* kernels : available_linear_kernels()) {
        const std::vector<float> y = run(*kernels, p.weight, x, rows);
        int wrong = 0;
        for (int r = 0; r < rows; ++r) {
          const float* row = x.data() + static_cast<size_t>(r) * k;
          std::vector<double> seen(row, row + k);
          if (integer) seen = quantize(row, k).values;
          if (rounds_rows(*kernels, p.weight)) {
            for (double& value : seen) value = bf16_to_f32(f32_to_bf16(static_cast<float>(value)));
          }
          for (int i = 0; i < n; ++i) {
            double sum = 0, magnitude = 0;
            for (int j = 0; j < k; ++j) {
              sum += w[i][j] * seen[j];
              // Codes and minimum are summed apart, so that a term is up to the row's range.
              magnitude += (integer ? 2.0 * largest[i] : std::abs(w[i][j])) * std::abs(seen[j]);
            }
            // A sum of t terms rounds t times; half a unit in the last place each.
            const double terms = integer ? k / 16 + 8 : k + 2;
            wrong += !(std::abs(y[static_cast<size_t>(r) * n + i] - sum) <= terms * 0x1p-24 * magnitude);
          }
        }
        if (wrong == 0) continue;
        test::fail(__FILE__, __LINE__, p.name + ", " + std::string(kernels->name) + ", " + std::to_string(rows) +
                                           " rows: " + std::to_string(wrong) + " values out of tolerance");
      }
    }
  }
}

TEST(linear_reference_and_quantised_activations_differ_by_rounding_noise) {
  for (const Packed& p : all_weights()) {
    const int n = p.weight.out_features(), k = p.weight.in_features(), rows = 5;
    const std::vector<float> x = random_rows(rows, k, 6);
    std::vector<float> reference(static_cast<size_t>(rows) * n);
    linear_reference(p.weight, x.data(), k, reference.data(), n, rows);
    const std::vector<float> y = run(linear_kernels(), p.weight, x, rows);
    std::vector<float> w(k);
    for (int i = 0; i < n; ++i) {
      p.weight.dequantize_row(i, w.data());
      for (int r = 0; r < rows; ++r) {
        const QuantizedRow seen = quantize(x.data() + static_cast<size_t>(r) * k, k);
        // Rounding errors are uniform over a step: variance step^2 / 12 each.
        double variance = 0, magnitude = 0;
        for (int j = 0; j < k; ++j) {
          variance += w[j] * w[j] * seen.steps[j] * seen.steps[j] / 12;
          magnitude += std::abs(w[j] * x[static_cast<size_t>(r) * k + j]);
        }
        const double noise = is_integer(p.weight.format())                ? 7 * std::sqrt(variance)
                             : rounds_rows(linear_kernels(), p.weight) ? 0x1p-8 * magnitude
                                                                       : 0.0;
        CHECK_NEAR(y[static_cast<size_t>(r) * n + i], reference[static_cast<size_t>(r) * n + i],
                   noise + (k + 16) * 0x1p-23 * magnitude + 1e-30);
      }
    }
  }
}

TEST(a_row_does_not_depend_on_its_neighbours) {
  for (const Packed& p : all_weights()) {
    const int n = p.weight.out_features(), k = p.weight.in_features(), most = 67;
    const std::vector<float> x = random_rows(most, k, 8);
    for (const LinearKernels* kernels : available_linear_kernels()) {
      const std::vector<float> together = run(*kernels, p.weight, x, most);
      for (const int rows : {1, 2, 3, 4, 5, 6, 7, 8, 13, 33}) {
        // The last rows of x alone, so that each lands at another place of its tile.
        const std::vector<float> some(x.end() - static_cast<ptrdiff_t>(rows) * k, x.end());
        const std::vector<float> y = run(*kernels, p.weight, some, rows);
        const bool equal = std::memcmp(y.data(), together.data() + static_cast<size_t>(most - rows) * n,
                                       y.size() * sizeof(float)) == 0;
        if (!equal) test::fail(__FILE__, __LINE__, p.name + ", " + std::string(kernels->name));
      }
    }
  }
}

TEST(the_thread_count_does_not_change_a_value) {
  const Packed p = pack_random(DType::kQ4_1, WeightFormat::kI4, 500, 576, 3);
  const std::vector<float> x = random_rows(130, 576, 4);
  std::vector<float> wanted;
  for (const int threads : {1, 2, 5}) {
    ThreadPool other(threads);
    LinearWorkspace workspace;
    std::vector<float> y(130 * 500);
    linear(p.weight, x.data(), 576, y.data(), 500, 130, workspace, other);
    if (wanted.empty()) wanted = y;
    CHECK(std::memcmp(y.data(), wanted.data(), y.size() * sizeof(float)) == 0);
  }
}

TEST(sources_joined_equal_sources_apart) {
  const DType groups[][3] = {{DType::kQ4_1, DType::kQ4_1, DType::kQ4_1}, {DType::kQ4_K, DType::kQ4_K, DType::kQ6_K},
                             {DType::kQ4_0, DType::kQ8_0, DType::kQ5_0}, {DType::kQ4_0, DType::kQ4_1, DType::kQ4_K},
                             {DType::kBf16, DType::kF32, DType::kF16},   {DType::kQ5_1, DType::kBf16, DType::kQ6_K},
                             {DType::kF32, DType::kF32, DType::kF32}};
  const int rows[] = {30, 7, 21}, cols = 512;
  const std::vector<float> x = random_rows(4, cols, 12);
  for (const auto& types : groups) {
    for (const std::string_view wanted : {"auto", "f32", "int8"}) {
      std::vector<test::TestBlocks> blocks;
      std::vector<SourceTensor> sources;
      for (int i = 0; i < 3; ++i) blocks.push_back(test::BlockWriter(20 + i).write(types[i], size_t(rows[i]) * cols));
      for (int i = 0; i < 3; ++i) sources.push_back({types[i], rows[i], cols, blocks[i].bytes});
      const WeightFormat format = choose_weight_format(sources, wanted);
      const LinearWeight joined = LinearWeight::pack(sources, format, pool());
      CHECK_EQ(joined.out_features(), 58);
      const std::vector<float> y = run(linear_kernels(), joined, x, 4);
      std::vector<float> all(cols), one(cols);
      int first = 0;
      for (int i = 0; i < 3; ++i) {
        const LinearWeight apart = LinearWeight::pack(sources[i], format, pool());
        const std::vector<float> part = run(linear_kernels(), apart, x, 4);
        const bool same_layout = types[0] == types[1] && types[1] == types[2];
        for (int n = 0; n < rows[i]; ++n) {
          joined.dequantize_row(first + n, all.data());
          apart.dequantize_row(n, one.data());
          float largest = 0;
          for (const float value : one) largest = std::max(largest, std::abs(value));
          for (int k = 0; k < cols; ++k) CHECK_NEAR(all[k], one[k], largest * 0x1p-11);
          for (int r = 0; r < 4; ++r) {
            const float a = y[r * 58 + first + n], b = part[r * rows[i] + n];
            double magnitude = 0;
            for (int k = 0; k < cols; ++k) magnitude += largest * std::abs(x[r * cols + k]);
            same_layout ? CHECK_EQ(a, b) : CHECK_NEAR(a, b, magnitude * 0x1p-11);
          }
        }
        first += rows[i];
      }
    }
  }
}

TEST(codes_of_quantised_sources_are_kept) {
  for (const DType type : test::kAllDTypes) {
    const Packed p = pack_random(type, choose_weight_format(type, "auto"), 35, 512, 31);
    std::vector<float> row(512);
    for (int n = 0; n < 35; ++n) {
      p.weight.dequantize_row(n, row.data());
      float largest = 0;
      for (const float value : row) largest = std::max(largest, std::abs(value));
      for (int k = 0; k < 512; ++k) {
        const double value = p.blocks.values[n * 512 + k];
        // Scales and minima of the K types have 17 to 19 bits and are stored in 11; bfloat16 cuts f16 by three.
        const bool k_type = type == DType::kQ4_K || type == DType::kQ5_K || type == DType::kQ6_K;
        const double relative = k_type ? 0x1p-11 : 0x1p-22;
        CHECK_NEAR(row[k], value, type == DType::kF16 ? std::abs(value) * 0x1p-8 : largest * relative);
      }
    }
  }
}

TEST(int8_of_float_weights_errs_by_half_a_step) {
  for (const float size : {1.0f, 1e-12f, 1e12f}) {
    std::vector<float> w = random_rows(20, 100, 40);
    for (float& value : w) value *= size;
    const std::span bytes(reinterpret_cast<const uint8_t*>(w.data()), w.size() * sizeof(float));
    const LinearWeight weight = LinearWeight::pack({DType::kF32, 20, 100, bytes}, WeightFormat::kI8, pool());
    std::vector<float> row(100);
    for (int n = 0; n < 20; ++n) {
      weight.dequantize_row(n, row.data());
      const QuantizedRow exact = quantize(w.data() + n * 100, 100);
      // The stored scale is 2^-12 off at most, which the largest code sees 127 times.
      for (int k = 0; k < 100; ++k) CHECK_NEAR(row[k], w[n * 100 + k], exact.steps[k] * (0.5 + 127 * 0x1p-11));
    }
  }
}

TEST(values_that_are_not_finite_stay_in_their_row) {
  for (const Packed& p : all_weights()) {
    const int n = p.weight.out_features(), k = p.weight.in_features(), rows = 11;
    std::vector<float> x = random_rows(rows, k, 9);
    const std::vector<float> clean = run(linear_kernels(), p.weight, x, rows);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> with_bad = x;
      with_bad[static_cast<size_t>(4) * k + k - 1] = bad;
      for (const LinearKernels* kernels : available_linear_kernels()) {
        const std::vector<float> y = run(*kernels, p.weight, with_bad, rows);
        for (int i = 0; i < n; ++i) {
          const float value = y[static_cast<size_t>(4) * n + i];
          CHECK(is_integer(p.weight.format()) || std::isnan(bad) ? std::isnan(value) : !std::isfinite(value));
        }
        if (kernels != &linear_kernels()) continue;
        for (int r = 0; r < rows; ++r) {
          if (r == 4) continue;
          CHECK(std::memcmp(y.data() + static_cast<size_t>(r) * n, clean.data() + static_cast<size_t>(r) * n,
                            n * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST(extreme_codes_do_not_saturate) {
  // The largest codes against the largest activations of either sign, over whole blocks.
  struct ExtremeCase {
    DType type;
    std::vector<int> half_offsets;  // where the block's half-precision scale and minimum lie
  };
  for (const ExtremeCase& c : {ExtremeCase{DType::kQ8_0, {0}}, ExtremeCase{DType::kQ4_0, {0}},
                               ExtremeCase{DType::kQ5_1, {0, 2}}, ExtremeCase{DType::kQ6_K, {208}}}) {
    const DTypeInfo& info = dtype_info(c.type);
    const int cols = 256;
    for (const int fill : {0x00, 0x7f, 0x80, 0xff}) {
      const auto num_bytes = static_cast<size_t>(cols / info.block_len * info.block_bytes);
      std::vector<uint8_t> bytes(num_bytes, static_cast<uint8_t>(fill));
      for (size_t block = 0; block < bytes.size(); block += info.block_bytes) {
        for (const int offset : c.half_offsets) {
          bytes[block + offset] = 0x00;
          bytes[block + offset + 1] = 0x3c;  // 1.0
        }
      }
      for (const std::string_view wanted : {"auto", "int8"}) {
        const WeightFormat format = choose_weight_format(c.type, wanted);
        const LinearWeight weight = LinearWeight::pack({c.type, 1, cols, bytes}, format, pool());
        for (const float value : {1.0f, -1.0f}) {
          const std::vector<float> x(cols, value);
          float reference;
          linear_reference(weight, x.data(), cols, &reference, 1, 1);
          for (const LinearKernels* kernels : available_linear_kernels()) {
            CHECK_NEAR(run(*kernels, weight, x, 1)[0], reference, std::abs(reference) * 1e-6);
          }
        }
      }
    }
  }
}

TEST(rows_may_be_strided_and_none_may_be_asked_for) {
  const Packed p = pack_random(DType::kQ8_0, WeightFormat::kI8, 21, 64, 50);
  const std::vector<float> x = random_rows(3, 64, 51);
  std::vector<float> spread(3 * 70, std::numeric_limits<float>::quiet_NaN());
  for (int r = 0; r < 3; ++r) std::copy_n(x.begin() + r * 64, 64, spread.begin() + r * 70);
  for (const LinearKernels* kernels : available_linear_kernels()) {
    LinearWorkspace workspace;
    const std::vector<float> dense = run(*kernels, p.weight, x, 3);
    std::vector<float> y(3 * 30, -5.0f);
    linear_with(*kernels, p.weight, spread.data(), 70, y.data(), 30, 3, workspace, pool());
    for (int r = 0; r < 3; ++r) {
      for (int n = 0; n < 30; ++n) CHECK_EQ(y[r * 30 + n], n < 21 ? dense[r * 21 + n] : -5.0f);
    }
    linear_with(*kernels, p.weight, nullptr, 64, nullptr, 21, 0, workspace, pool());
  }
}

TEST(pack_refuses_what_does_not_fit) {
  std::vector<uint8_t> bytes(18 * 4);
  CHECK_EQ(LinearWeight::pack({DType::kQ4_0, 2, 64, bytes}, WeightFormat::kI4, pool()).out_features(), 2);
  CHECK_ERROR(LinearWeight::pack({DType::kQ4_0, 3, 64, bytes}, WeightFormat::kI4, pool()), ErrorCode::kBadArgument);
  CHECK_ERROR(LinearWeight::pack({DType::kQ4_0, 2, 48, bytes}, WeightFormat::kI4, pool()), ErrorCode::kBadArgument);
  CHECK_ERROR(LinearWeight::pack({DType::kQ4_0, -2, 64, bytes}, WeightFormat::kI4, pool()), ErrorCode::kBadArgument);
  CHECK_ERROR(LinearWeight::pack({DType::kF32, 2, 9, bytes}, WeightFormat::kI4, pool()), ErrorCode::kBadArgument);
  const SourceTensor uneven[] = {{DType::kF32, 2, 9, bytes}, {DType::kF32, 1, 18, bytes}};
  CHECK_ERROR(LinearWeight::pack(uneven, WeightFormat::kF32, pool()), ErrorCode::kBadArgument);
  CHECK_ERROR(choose_weight_format(DType::kF32, "int3"), ErrorCode::kBadArgument);
}
