// linear_bench [threads = 2] [filter]: time of all linear layers of one step, per model shape, weight format and number
// of rows, beside the machine's own ceilings measured in the same run.
//
// Method: every layer has its own weights, as in a real step, so that caches help no more than they would there. A step
// is repeated for about half a second after one warm-up; the median and the fastest are printed. Weights are random:
// but for subnormal floats, time does not depend on values. GB/s counts weight bytes once per step, whatever the row count; GOP/s
// counts a multiply and an add per weight and row. Ceilings: the read rate of a loop over 96 MiB, and the rate of
// vpdpbusd on registers. The last line is JSON.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "model/linear_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace deftree;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Timing {
  double median, fastest;
};

template <class Body>
Timing measure(Body body) {
  body();
  std::vector<double> times;
  const Clock::time_point begin = Clock::now();
  while (times.size() < 3 || (seconds_since(begin) < 0.5 && times.size() < 400)) {
    const Clock::time_point start = Clock::now();
    body();
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times[0]};
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) uint64_t read_all(const std::byte* data, size_t bytes) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (size_t at = 0; at + 256 <= bytes; at += 256) {
    a = _mm512_add_epi64(a, _mm512_load_si512(data + at));
    b = _mm512_add_epi64(b, _mm512_load_si512(data + at + 64));
    c = _mm512_add_epi64(c, _mm512_load_si512(data + at + 128));
    d = _mm512_add_epi64(d, _mm512_load_si512(data + at + 192));
  }
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d)));
  return lanes[0] ^ lanes[7];
}

// Twelve chains hide the instruction's latency of five cycles.
__attribute__((target("avx512f,avx512vnni"))) void dot_loop(int rounds) {
  for (int i = 0; i < rounds; ++i) {
    asm volatile(
        "vpdpbusd %%zmm0, %%zmm1, %%zmm2\n vpdpbusd %%zmm0, %%zmm1, %%zmm3\n vpdpbusd %%zmm0, %%zmm1, %%zmm4\n"
        "vpdpbusd %%zmm0, %%zmm1, %%zmm5\n vpdpbusd %%zmm0, %%zmm1, %%zmm6\n vpdpbusd %%zmm0, %%zmm1, %%zmm7\n"
        "vpdpbusd %%zmm0, %%zmm1, %%zmm8\n vpdpbusd %%zmm0, %%zmm1, %%zmm9\n vpdpbusd %%zmm0, %%zmm1, %%zmm10\n"
        "vpdpbusd %%zmm0, %%zmm1, %%zmm11\n vpdpbusd %%zmm0, %%zmm1, %%zmm12\n vpdpbusd %%zmm0, %%zmm1, %%zmm13\n"
        :
        :
        : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
          "xmm13");
  }
}
#endif

struct Ceilings {
  double read_gb_s = 0, dot_gop_s = 0;
};

Ceilings measure_ceilings(ThreadPool& pool, size_t bytes) {
  Ceilings ceilings;
#if defined(__x86_64__)
  if (!cpu_features().avx512vnni) return ceilings;
  const AlignedBuffer buffer(bytes);
  std::fill_n(buffer.data(), bytes, std::byte{1});
  const int parts = pool.num_threads() * 8;
  std::vector<uint64_t> sums(static_cast<size_t>(parts));
  const size_t part = bytes / parts / 64 * 64;
  const Timing read = measure([&] {
    pool.run(parts, [&](int task, int) { sums[task] = read_all(buffer.data() + task * part, part); });
  });
  constexpr int kRounds = 400000;
  const Timing dot = measure([&] { pool.run(pool.num_threads(), [&](int, int) { dot_loop(kRounds); }); });
  ceilings.read_gb_s = static_cast<double>(part) * parts / read.median / 1e9;
  ceilings.dot_gop_s = 12.0 * kRounds * pool.num_threads() * 128 / dot.median / 1e9;
#else
  (void)pool, (void)bytes;
#endif
  return ceilings;
}

struct Shape {
  int out_features, in_features;
};

struct Model {
  const char* name;
  int num_layers;
  std::vector<Shape> layer;  // qkv, o, gate and up, down
  Shape head;
};

// How a whole model is stored: the type its layers and its head come from, and the format they are packed in.
struct Storage {
  const char* name;
  DType layer_type;
  WeightFormat layer_format;
  DType head_type;
  WeightFormat head_format;
};

LinearWeight random_weight(Shape shape, DType type, WeightFormat format, ThreadPool& pool) {
  const DTypeInfo& info = dtype_info(type);
  const size_t num_blocks = size_t(shape.out_features) * shape.in_features / info.block_len;
  std::vector<uint8_t> bytes(num_blocks * info.block_bytes);
  std::minstd_rand random(1);
  if (info.block_len == 1) {
    // Bytes at random would hold subnormal floats, which cost a hundred times a normal one.
    for (size_t i = 0; i < num_blocks; ++i) {
      const float value = static_cast<float>(random() % 2001) / 1000.0f - 1.0005f;
      const uint16_t rounded = f32_to_bf16(value);
      if (type == DType::kF32) std::memcpy(bytes.data() + 4 * i, &value, 4);
      if (type == DType::kBf16) std::memcpy(bytes.data() + 2 * i, &rounded, 2);
    }
  } else {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() >> 8 & 0x3f);
  }
  return LinearWeight::pack({type, shape.out_features, shape.in_features, bytes}, format, pool);
}

struct Row {
  std::string model, storage;
  int rows;
  double ms, fastest_ms, gb_s, gop_s;
};

void bench_model(const Model& model, const Storage& storage, ThreadPool& pool, std::vector<Row>& results) {
  std::vector<LinearWeight> weights;
  for (int i = 0; i < model.num_layers; ++i) {
    for (const Shape& shape : model.layer) {
      weights.push_back(random_weight(shape, storage.layer_type, storage.layer_format, pool));
    }
  }
  const size_t num_layer_weights = weights.size();
  weights.push_back(random_weight(model.head, storage.head_type, storage.head_format, pool));

  for (const int rows : {1, 4, 16, 64, 512}) {
    // A prefill chunk of 512 wants logits of one row only: the head is left out there.
    const size_t count = rows == 512 ? num_layer_weights : weights.size();
    size_t bytes = 0, macs = 0;
    for (size_t i = 0; i < count; ++i) {
      bytes += weights[i].bytes();
      macs += size_t(weights[i].out_features()) * weights[i].in_features();
    }
    std::vector<float> x(size_t(rows) * 4096), y(size_t(rows) * std::max(model.head.out_features, 4096));
    std::minstd_rand random(2);
    for (float& value : x) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
    LinearWorkspace workspace;
    const Timing time = measure([&] {
      for (size_t i = 0; i < count; ++i) {
        const LinearWeight& w = weights[i];
        linear(w, x.data(), w.in_features(), y.data(), w.out_features(), rows, workspace, pool);
      }
    });
    const Row row{model.name, storage.name, rows, time.median * 1e3, time.fastest * 1e3, bytes / time.median / 1e9,
                  2.0 * macs * rows / time.median / 1e9};
    std::printf("%-14s %-18s %5d %10.3f %10.3f %8.1f %8.1f\n", row.model.c_str(), row.storage.c_str(), rows, row.ms,
                row.fastest_ms, row.gb_s, row.gop_s);
    std::fflush(stdout);
    results.push_back(row);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 2;
  const std::string filter = argc > 2 ? argv[2] : "";
  ThreadPool pool(threads);

  const Model models[] = {
      {"SmolLM2-135M", 30, {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}}, {49152, 576}},
      {"mini", 2, {{512, 256}, {256, 256}, {1536, 256}, {256, 768}}, {1024, 256}},
  };
  const Storage storages[] = {
      {"f32", DType::kF32, WeightFormat::kF32, DType::kF32, WeightFormat::kF32},
      {"bf16", DType::kBf16, WeightFormat::kBf16, DType::kBf16, WeightFormat::kBf16},
      {"int8 of bf16", DType::kBf16, WeightFormat::kI8, DType::kBf16, WeightFormat::kI8},
      {"Q4_1+Q8_0 int8", DType::kQ4_1, WeightFormat::kI8, DType::kQ8_0, WeightFormat::kI8},
      {"Q4_1+Q8_0 int4", DType::kQ4_1, WeightFormat::kI4, DType::kQ8_0, WeightFormat::kI8},
      {"Q4_0+Q8_0 int4", DType::kQ4_0, WeightFormat::kI4, DType::kQ8_0, WeightFormat::kI8},
  };

  const Ceilings ceilings = measure_ceilings(pool, size_t{96} << 20);
  std::printf("%s kernels, %d threads; read %.1f GB/s over 96 MiB, vpdpbusd %.0f GOP/s\n",
              std::string(linear_kernels().name).c_str(), threads, ceilings.read_gb_s, ceilings.dot_gop_s);
  std::printf("%-14s %-18s %5s %10s %10s %8s %8s\n", "model", "weights", "rows", "median ms", "fastest ms", "GB/s",
              "GOP/s");
  std::vector<Row> results;
  for (const Model& model : models) {
    for (const Storage& storage : storages) {
      if ((std::string(model.name) + " " + storage.name).find(filter) == std::string::npos) continue;
      bench_model(model, storage, pool, results);
    }
  }

  std::printf("{\"bench\":\"linear\",\"kernels\":\"%s\",\"threads\":%d,", std::string(linear_kernels().name).c_str(),
              threads);
  std::printf("\"read_gb_s\":%.2f,\"dot_gop_s\":%.1f,\"rows\":[", ceilings.read_gb_s, ceilings.dot_gop_s);
  for (size_t i = 0; i < results.size(); ++i) {
    const Row& r = results[i];
    std::printf("%s{\"model\":\"%s\",\"weights\":\"%s\",\"rows\":%d,", i ? "," : "", r.model.c_str(),
                r.storage.c_str(), r.rows);
    std::printf("\"ms\":%.4f,\"gb_s\":%.2f,\"gop_s\":%.1f}", r.ms, r.gb_s, r.gop_s);
  }
  std::printf("]}\n");
}
