#include "model/ops.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "common/cpu_features.h"
#include "common/test.h"

using namespace deftree;

namespace {

// Every set that this CPU runs.
std::vector<std::pair<std::string, const RowKernels*>> kernel_sets() {
  std::vector<std::pair<std::string, const RowKernels*>> sets = {{"scalar", &row_kernels_scalar()}};
#if defined(__x86_64__)
  const CpuLevel best = best_cpu_level(cpu_features());
  if (best >= CpuLevel::kAvx2) sets.push_back({"avx2", &row_kernels_avx2()});
  if (best >= CpuLevel::kAvx512) sets.push_back({"avx512", &row_kernels_avx512()});
#endif
  return sets;
}

// Values in [-range, range] without a pattern of short period.
std::vector<float> values(int count, float range, int salt) {
  std::vector<float> result(count);
  for (int i = 0; i < count; ++i) result[i] = range * std::sin(static_cast<float>((i + salt) * (i + 3)) * 0.7f);
  return result;
}

}  // namespace

TEST(ops_rms_norm_and_add_match_double_precision_at_any_width) {
  for (const auto& [name, kernels] : kernel_sets()) {
    for (const int n : {1, 15, 16, 33, 576, 1000}) {
      std::vector<float> x = values(n, 3, 1), h = values(n, 2, 5), weight = values(n, 1, 9), out(n);
      std::vector<double> sum(n);
      double squares = 0, added_squares = 0;
      for (int i = 0; i < n; ++i) {
        sum[i] = static_cast<double>(x[i]) + h[i];
        squares += static_cast<double>(x[i]) * x[i];
        added_squares += sum[i] * sum[i];
      }
      kernels->rms_norm(x.data(), weight.data(), 1e-5f, n, out.data());
      for (int i = 0; i < n; ++i) CHECK_NEAR(out[i], weight[i] * x[i] / std::sqrt(squares / n + 1e-5), 2e-6);
      kernels->add_rms_norm(x.data(), h.data(), weight.data(), 1e-5f, n);
      for (int i = 0; i < n; ++i) {
        CHECK_NEAR(x[i], sum[i], 1e-6);
        CHECK_NEAR(h[i], weight[i] * sum[i] / std::sqrt(added_squares / n + 1e-5), 2e-6);
      }
    }
  }
}

TEST(ops_silu_mul_is_exact_from_end_to_end_of_floats) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const auto& [name, kernels] : kernel_sets()) {
    std::vector<float> gate = values(1000, 30, 2), up = values(1000, 2, 4);
    const std::vector<float> input = gate;
    kernels->silu_mul(gate.data(), up.data(), 1000);
    for (int i = 0; i < 1000; ++i) {
      const double expected = input[i] / (1 + std::exp(-static_cast<double>(input[i]))) * up[i];
      CHECK_NEAR(gate[i], expected, 1e-6 * std::abs(expected) + 1e-12);
    }
    std::vector<float> special = {0.0f, -0.0f, 1e4f, -1e4f, 3e38f, -3e38f, kInfinity, std::nanf("")};
    const std::vector<float> ones(special.size(), 1.0f);
    kernels->silu_mul(special.data(), ones.data(), static_cast<int>(special.size()));
    CHECK_EQ(special[0], 0.0f);
    CHECK_EQ(special[2], 1e4f);
    CHECK_NEAR(special[3], 0.0, 1e-30);
    CHECK_EQ(special[4], 3e38f);
    CHECK(std::isfinite(special[5]));
    CHECK_EQ(special[6], kInfinity);
    CHECK(std::isnan(special[7]));
  }
}

TEST(ops_rope_turns_each_pair_of_half_split_dimensions) {
  for (const auto& [name, kernels] : kernel_sets()) {
    for (const int head_dim : {64, 128}) {
      const int half = head_dim / 2;
      const std::vector<float> heads = values(3 * head_dim, 2, 7);
      std::vector<float> cos(half), sin(half), out(3 * head_dim);
      for (int i = 0; i < half; ++i) cos[i] = std::cos(0.3f * i), sin[i] = std::sin(0.3f * i);
      kernels->rope(heads.data(), cos.data(), sin.data(), 3, head_dim, out.data());
      for (int head = 0; head < 3; ++head) {
        for (int i = 0; i < half; ++i) {
          const double a = heads[head * head_dim + i], b = heads[head * head_dim + i + half];
          CHECK_NEAR(out[head * head_dim + i], a * cos[i] - b * sin[i], 1e-6);
          CHECK_NEAR(out[head * head_dim + i + half], b * cos[i] + a * sin[i], 1e-6);
        }
      }
    }
  }
}

TEST(ops_small_work_stays_on_the_calling_thread) {
  CHECK_EQ(row_tasks(1, 576, 16), 1);
  CHECK_EQ(row_tasks(16, 576, 16), 1);
  CHECK_EQ(row_tasks(1, 1 << 20, 16), 1);
  CHECK_EQ(row_tasks(512, 576, 2), 8);
  CHECK(row_tasks(512, 6144, 16) == 64);
}
