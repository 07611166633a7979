// A step's sampling on a GPU: sampler_cuda_bench [vocabulary].
//
// Method: rows of random logits (normal, spread 2.5, and eight likely tokens a row, as a trained model's). `alone` is
// the wall time of CudaSampler::sample on an idle stream; `added` what it adds behind other work: the wall time of 300
// us of it and the call, less that of the work alone, so what the host does before the work has ended is hidden, as in
// a decode step. `read` is a kernel that only reads the logits, between two events around 20 of them. Medians of 200
// rounds after 20. Each round takes the next of several sets of rows, more than L2 holds, so that small ones too come
// from device memory.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "common/error.h"
#include "cuda/buffer.h"
#include "cuda/stream.h"
#include "engine/cuda/sampler_cuda.h"

namespace deftree {
namespace {

constexpr int kWarmup = 20, kRounds = 200;
constexpr size_t kCacheBytes = size_t{128} << 20;  // more than L2 holds

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

std::vector<float> random_logits(size_t len, int vocab_size) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 2.5f);
  std::vector<float> logits(len);
  for (float& logit : logits) logit = normal(random);
  for (size_t row = 0; row < len / vocab_size; ++row) {
    for (int i = 0; i < 8; ++i) logits[row * vocab_size + random() % vocab_size] = 16.0f - 0.7f * static_cast<float>(i);
  }
  return logits;
}

__global__ void work_kernel(long long ns) {
  long long begin = 0, now = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < ns);
}

// Reads `len` floats (a multiple of 4); writes only if one of them is what none is.
__global__ void read_kernel(const float4* from, size_t len, float* never) {
  float sum = 0;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < len / 4; i += size_t{gridDim.x} * blockDim.x) {
    const float4 v = from[i];
    sum += v.x + v.y + v.z + v.w;
  }
  if (sum == 1e30f) *never = sum;
}

template <class Body>
double median_us(Body body) {
  std::vector<double> times;
  for (int round = 0; round < kWarmup + kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    body(round);
    const auto stop = std::chrono::steady_clock::now();
    if (round >= kWarmup) times.push_back(std::chrono::duration<double, std::micro>(stop - start).count());
  }
  return median(times);
}

struct Setting {
  const char* name;
  SamplingParams params;
};

void bench(int vocab_size) {
  SamplingParams greedy, temperature, top, logprobs, nucleus;
  temperature.temperature = top.temperature = nucleus.temperature = 1.0f;
  top.top_k = 40;
  top.top_p = nucleus.top_p = 0.95f;
  logprobs = top;
  logprobs.num_logprobs = 5;
  const Setting settings[] = {{"greedy", greedy},
                              {"temperature 1", temperature},
                              {"top-k 40, top-p 0.95", top},
                              {"likewise, 5 log-probabilities", logprobs},
                              {"top-p 0.95 alone", nucleus}};
  cuda::Stream stream;
  for (const int num_rows : {1, 20, 64}) {
    const size_t set_len = static_cast<size_t>(num_rows) * vocab_size;
    const size_t num_sets = kCacheBytes / (set_len * sizeof(float)) + 2;
    cuda::DeviceBuffer<float> logits(set_len * num_sets);
    const std::vector<float> set = random_logits(set_len, vocab_size);
    for (size_t i = 0; i < num_sets; ++i) {
      cuda::check(cudaMemcpy(logits.data() + i * set_len, set.data(), set_len * sizeof(float), cudaMemcpyHostToDevice),
                  "copy");
    }
    CudaSampler sampler(vocab_size, num_rows);
    const auto rows_of = [&](int round) { return logits.data() + round % num_sets * set_len; };
    constexpr int kReads = 20;
    cuda::Event begin, end;
    std::vector<double> reads;
    for (int round = 0; round < kRounds; ++round) {
      begin.record(stream);
      for (int i = 0; i < kReads; ++i) {
        read_kernel<<<1056, 256, 0, stream.get()>>>(reinterpret_cast<const float4*>(rows_of(round * kReads + i)),
                                                    set_len, logits.data());
      }
      end.record(stream);
      stream.synchronize();
      reads.push_back(end.ms_since(begin) * 1e3 / kReads);
    }
    const auto work = [&] { work_kernel<<<1, 1, 0, stream.get()>>>(300000); };
    const double work_us = median_us([&](int) {
      work();
      stream.synchronize();
    });
    std::printf("%d rows of %d, %.2f MB: read %.1f us\n", num_rows, vocab_size, set_len * 4e-6, median(reads));
    for (const Setting& setting : settings) {
      std::vector<SampleRequest> requests;
      for (int i = 0; i < num_rows; ++i) requests.push_back({i, &setting.params, static_cast<uint64_t>(i), 0, {}, {}});
      std::vector<SampledToken> results(num_rows);
      const auto sample = [&](int round) {
        for (SampleRequest& request : requests) request.position = round;
        sampler.sample(rows_of(round), num_rows, requests, results, stream.get());
      };
      const double alone_us = median_us(sample);
      const double behind_us = median_us([&](int round) {
        work();
        sample(round);
      });
      std::printf("  %-32s alone %6.1f us   added %6.1f us\n", setting.name, alone_us, behind_us - work_us);
    }
  }
}

}  // namespace
}  // namespace deftree

int main(int argc, char** argv) {
  try {
    deftree::bench(argc > 1 ? std::atoi(argv[1]) : 128256);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
