// Which instructions this CPU and its operating system offer. Kernels are chosen by these bits, never by the CPU's
// model: virtual machines report odd models, and hypervisors hide single features.
#pragma once

#include <cstdint>
#include <string_view>

namespace deftree {

// A bit is true when the CPU has the instructions *and* the system saves their registers.
struct CpuFeatures {
  bool avx2, fma, f16c, bmi2;
  bool avx512f, avx512bw, avx512vl, avx512dq, avx512vnni, avx512bf16;
  bool amx_int8, amx_bf16;  // on Linux also: the process was given leave to use the tile registers
  bool neon, neon_dotprod;
};

// Kernel sets, each containing the one before it. The names are those of the source files' suffixes (_avx2, _avx512,
// _amx) and what CMakeLists.txt compiles them with:
//   kAvx2    AVX2, FMA, F16C, BMI2
//   kAvx512  F, BW, VL, DQ, VNNI   (files named _avx512bf16 need CpuFeatures::avx512bf16 too)
//   kAmx     AMX-INT8, AMX-BF16, AVX512-BF16
// kScalar is portable C++ and the only level outside x86-64.
enum class CpuLevel : uint8_t { kScalar, kAvx2, kAvx512, kAmx };

const CpuFeatures& cpu_features();
// The best level of this CPU, decided once. The environment variable DEFTREE_CPU=scalar|avx2|avx512|amx lowers it; a
// value that is not one of these throws kBadArgument at the first call.
CpuLevel cpu_level();
// "scalar", "avx2", "avx512", "amx".
std::string_view cpu_level_name(CpuLevel level);

// The best level that `features` allow.
CpuLevel best_cpu_level(const CpuFeatures& features);
// `best` lowered to the level called `wanted`; empty: not lowered. Throws kBadArgument that lists the names.
CpuLevel cap_cpu_level(CpuLevel best, std::string_view wanted);

}  // namespace deftree
