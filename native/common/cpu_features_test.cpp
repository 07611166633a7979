#include "common/cpu_features.h"

#include "common/error.h"
#include "common/test.h"

namespace deftree {
namespace {

CpuFeatures avx2_features() {
  CpuFeatures f{};
  f.avx2 = f.fma = f.f16c = f.bmi2 = true;
  return f;
}

CpuFeatures avx512_features() {
  CpuFeatures f = avx2_features();
  f.avx512f = f.avx512bw = f.avx512vl = f.avx512dq = f.avx512vnni = true;
  return f;
}

}  // namespace

TEST(cpu_level_needs_every_feature_its_files_are_compiled_with) {
  CHECK(best_cpu_level(CpuFeatures{}) == CpuLevel::kScalar);
  CHECK(best_cpu_level(avx2_features()) == CpuLevel::kAvx2);
  CHECK(best_cpu_level(avx512_features()) == CpuLevel::kAvx512);

  CpuFeatures no_fma = avx512_features();
  no_fma.fma = false;
  CHECK(best_cpu_level(no_fma) == CpuLevel::kScalar);

  CpuFeatures no_vnni = avx512_features();
  no_vnni.avx512vnni = false;
  CHECK(best_cpu_level(no_vnni) == CpuLevel::kAvx2);

  CpuFeatures amx = avx512_features();
  amx.amx_int8 = amx.amx_bf16 = true;
  CHECK(best_cpu_level(amx) == CpuLevel::kAvx512);
  amx.avx512bf16 = true;
  CHECK(best_cpu_level(amx) == CpuLevel::kAmx);
}

TEST(cpu_level_is_lowered_never_raised) {
  CHECK(cap_cpu_level(CpuLevel::kAvx512, "") == CpuLevel::kAvx512);
  CHECK(cap_cpu_level(CpuLevel::kAvx512, "avx2") == CpuLevel::kAvx2);
  CHECK(cap_cpu_level(CpuLevel::kAvx2, "amx") == CpuLevel::kAvx2);
  CHECK(cap_cpu_level(CpuLevel::kAmx, "scalar") == CpuLevel::kScalar);
  CHECK_ERROR(cap_cpu_level(CpuLevel::kAmx, "sse2"), ErrorCode::kBadArgument);
}

TEST(cpu_features_agree_with_the_compiler) {
#if defined(__x86_64__)
  CHECK_EQ(cpu_features().avx2, __builtin_cpu_supports("avx2") != 0);
  CHECK_EQ(cpu_features().fma, __builtin_cpu_supports("fma") != 0);
  CHECK_EQ(cpu_features().avx512f, __builtin_cpu_supports("avx512f") != 0);
  CHECK_EQ(cpu_features().avx512bw, __builtin_cpu_supports("avx512bw") != 0);
  CHECK_EQ(cpu_features().avx512vnni, __builtin_cpu_supports("avx512vnni") != 0);
#elif defined(__aarch64__)
  CHECK(cpu_features().neon);
#endif
  CHECK(cpu_level() <= best_cpu_level(cpu_features()));
}

}  // namespace deftree
