#include "common/cpu_features.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "common/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if defined(__APPLE__) && defined(__aarch64__)
#include <sys/sysctl.h>
#endif

namespace deftree {
namespace {

constexpr CpuLevel kLevels[] = {CpuLevel::kScalar, CpuLevel::kAvx2, CpuLevel::kAvx512, CpuLevel::kAmx};

#if defined(__x86_64__)

struct CpuidRegisters {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidRegisters cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidRegisters r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool bit(uint64_t word, int index) { return (word >> index) & 1; }

// XCR0: the register sets that the operating system saves at a context switch.
uint64_t saved_registers() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

// Linux hands out the 8 KB of tile registers on request only (arch/x86/kernel/fpu, since 5.16).
bool request_amx_permission() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kArchReqXcompPerm = 0x1023;
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileData) == 0;
#else
  return false;
#endif
}

CpuFeatures detect() {
  CpuFeatures f{};
  const CpuidRegisters leaf1 = cpuid(1, 0);
  if (!bit(leaf1.ecx, 27)) return f;  // OSXSAVE: without it there is no XGETBV
  const uint64_t saved = saved_registers();
  const bool ymm = (saved & 0x6) == 0x6;
  const bool zmm = ymm && (saved & 0xe0) == 0xe0;
  const bool tiles = (saved & 0x60000) == 0x60000;

  const CpuidRegisters leaf7 = cpuid(7, 0);
  const CpuidRegisters leaf7_1 = cpuid(7, 1);
  f.fma = ymm && bit(leaf1.ecx, 12);
  f.f16c = ymm && bit(leaf1.ecx, 29);
  f.avx2 = ymm && bit(leaf7.ebx, 5);
  f.bmi2 = bit(leaf7.ebx, 8);
  f.avx512f = zmm && bit(leaf7.ebx, 16);
  f.avx512dq = zmm && bit(leaf7.ebx, 17);
  f.avx512bw = zmm && bit(leaf7.ebx, 30);
  f.avx512vl = zmm && bit(leaf7.ebx, 31);
  f.avx512vnni = zmm && bit(leaf7.ecx, 11);
  f.avx512bf16 = zmm && bit(leaf7_1.eax, 5);
  if (tiles && bit(leaf7.edx, 24) && request_amx_permission()) {
    f.amx_bf16 = bit(leaf7.edx, 22);
    f.amx_int8 = bit(leaf7.edx, 25);
  }
  return f;
}

#elif defined(__aarch64__)

CpuFeatures detect() {
  CpuFeatures f{};
  f.neon = true;  // part of the base architecture
#if defined(__linux__)
  f.neon_dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  int value = 0;
  size_t size = sizeof(value);
  f.neon_dotprod = sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value != 0;
#endif
  return f;
}

#else

CpuFeatures detect() { return {}; }

#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

CpuLevel best_cpu_level(const CpuFeatures& f) {
  if (!(f.avx2 && f.fma && f.f16c && f.bmi2)) return CpuLevel::kScalar;
  if (!(f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq && f.avx512vnni)) return CpuLevel::kAvx2;
  if (!(f.avx512bf16 && f.amx_int8 && f.amx_bf16)) return CpuLevel::kAvx512;
  return CpuLevel::kAmx;
}

CpuLevel cap_cpu_level(CpuLevel best, std::string_view wanted) {
  if (wanted.empty()) return best;
  for (CpuLevel level : kLevels) {
    if (cpu_level_name(level) == wanted) return std::min(best, level);
  }
  throw Error(ErrorCode::kBadArgument,
              "DEFTREE_CPU is \"" + std::string(wanted) + "\"; it takes scalar, avx2, avx512 or amx");
}

CpuLevel cpu_level() {
  static const CpuLevel level = [] {
    const char* wanted = std::getenv("DEFTREE_CPU");
    return cap_cpu_level(best_cpu_level(cpu_features()), wanted == nullptr ? "" : wanted);
  }();
  return level;
}

std::string_view cpu_level_name(CpuLevel level) {
  switch (level) {
    case CpuLevel::kScalar: return "scalar";
    case CpuLevel::kAvx2: return "avx2";
    case CpuLevel::kAvx512: return "avx512";
    case CpuLevel::kAmx: return "amx";
  }
  return "scalar";
}

}  // namespace deftree
