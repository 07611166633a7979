// Whole steps of a model in Llama-3-8B's shape with random weights on a GPU: cuda_backend_bench [steps].
//
// The engine drives the backend as it does for users, so a step holds planning, the forward pass, sampling and what the
// host does between. Printed beside it: what the GPU alone takes for the forward passes, launched one after another
// without waiting (the difference is sampling and idle time), and the floor, the bytes of weights and unique KV over
// the copy bandwidth of this run.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "attention/plan.h"
#include "cache/tree_cache.h"
#include "common/error.h"
#include "cuda/buffer.h"
#include "cuda/stream.h"
#include "engine/backend.h"
#include "engine/engine.h"

namespace deftree {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kNumPages = 2048, kMaxStepTokens = 4096, kPromptLen = 4000;
const std::atomic<bool> kNever{false};

ModelSpec llama_3_8b() {
  ModelSpec spec;
  spec.config = {.num_layers = 32,
                 .hidden_size = 4096,
                 .intermediate_size = 14336,
                 .num_qo_heads = 32,
                 .num_kv_heads = 8,
                 .head_dim = 128,
                 .vocab_size = 128256,
                 .context_len = 8192,
                 .rope_theta = 500000,
                 .rms_norm_eps = 1e-5,
                 .tie_word_embeddings = false,
                 .rope_scaling = {}};
  spec.random_seed = 1;
  return spec;
}

std::unique_ptr<Backend> make_backend(bool profile) {
  BackendOptions options{
      .num_pages = kNumPages, .page_size = 16, .kv_type = "auto", .num_threads = 0, .max_step_tokens = kMaxStepTokens};
  options.profile = profile;
  return make_cuda_backend(llama_3_8b(), options, kNever);
}

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Bytes read and written per second by a copy within the device; the median of 10.
double copy_bandwidth() {
  constexpr size_t kBytes = size_t{1} << 30;
  const cuda::DeviceBuffer<std::byte> from(kBytes), to(kBytes);
  const cuda::Stream stream;
  cuda::Event begin, end;
  std::vector<float> ms;
  for (int i = 0; i < 13; ++i) {
    begin.record(stream);
    cuda::check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream.get()), "copy");
    end.record(stream);
    stream.synchronize();
    if (i >= 3) ms.push_back(end.ms_since(begin));
  }
  std::ranges::nth_element(ms, ms.begin() + ms.size() / 2);
  return 2.0 * kBytes / (ms[ms.size() / 2] * 1e-3);
}

std::vector<int32_t> prompt() {
  std::vector<int32_t> tokens(kPromptLen);
  for (int i = 0; i < kPromptLen; ++i) tokens[i] = static_cast<int32_t>(i * 7919LL % 128256);
  return tokens;
}

// An engine with a prompt of 4000 tokens that is forked and decoded.
class Session {
 public:
  explicit Session(bool profile = false) {
    EngineOptions options;
    const LlamaConfig config = llama_3_8b().config;
    options.num_pages = kNumPages;
    options.num_layers = config.num_layers;
    options.vocab_size = config.vocab_size;
    options.context_len = config.context_len;
    options.max_step_tokens = kMaxStepTokens;
    engine_ = std::make_unique<Engine>(options, make_backend(profile), kNever);
  }

  // Time to the first token of a branch with a prompt of its own; the branch is dropped.
  double first_token_ms(int seed) {
    std::vector<int32_t> tokens = prompt();
    tokens[0] = seed;
    commands_ = {CreateCommand{branch_}, ExtendCommand{request_, branch_, std::move(tokens)},
                 DecodeCommand{request_ + 1, branch_, 1, {}, {}, {}}};
    const auto start = Clock::now();
    run();
    const double ms = ms_since(start);
    commands_ = {PruneCommand{branch_, false}};
    run();
    ++branch_;
    request_ += 2;
    return ms;
  }

  // Wall times of decode steps of `width` branches on one prompt.
  std::vector<double> decode_ms(int width, int num_steps) {
    const auto trunk = branch_++;
    commands_ = {CreateCommand{trunk}, ExtendCommand{request_++, trunk, prompt()}};
    ForkCommand fork{request_++, trunk, {}, 0};
    for (int i = 0; i < width; ++i) fork.children.push_back(branch_++);
    const auto children = fork.children;
    commands_.push_back(std::move(fork));
    SamplingParams sampling;
    sampling.temperature = 1;
    for (const auto child : children)
      commands_.push_back(DecodeCommand{request_++, child, num_steps + 8, {}, {}, sampling});
    for (int i = 0; i < 8; ++i) step();
    std::vector<double> ms;
    for (int i = 0; i < num_steps; ++i) {
      const auto start = Clock::now();
      step();
      ms.push_back(ms_since(start));
    }
    run();
    for (const auto child : children) commands_.push_back(PruneCommand{child, false});
    commands_.push_back(PruneCommand{trunk, false});
    run();
    return ms;
  }

  EngineStats stats() const { return engine_->stats(); }

 private:
  StepOutcome step() {
    StepMessage message;
    std::vector<Command> commands = std::exchange(commands_, {});
    const StepOutcome outcome = engine_->step(commands, message);
    if (message.fatal) throw *message.fatal;
    for (const FinishedRequest& finished : message.finished) {
      if (finished.error) throw *finished.error;
    }
    return outcome;
  }
  void run() {
    while (step() != StepOutcome::kIdle || !commands_.empty()) {
    }
  }

  std::unique_ptr<Engine> engine_;
  std::vector<Command> commands_;
  uint32_t request_ = 1, branch_ = 1;
};

// GPU time of a decode step of `width` branches, from steps launched one after another.
double gpu_ms(Backend& backend, int width) {
  TreeCache cache({.num_pages = kNumPages, .page_size = 16});
  const BranchId trunk = cache.create();
  cache.append(trunk, prompt());
  cache.commit(trunk);
  std::vector<StepBranch> branches;
  for (const BranchId branch : cache.fork(trunk, width)) {
    const int32_t token = 1;
    cache.append(branch, {&token, 1});
    branches.push_back({branch, 1});
  }
  const StepSnapshot snapshot = cache.snapshot(branches);
  StepBatch batch;
  for (const SnapshotQuery& query : snapshot.queries) {
    batch.logit_rows.push_back(batch.num_queries());
    batch.tokens.push_back(query.token);
    batch.positions.push_back(query.position);
    batch.slots.push_back(query.slot);
  }
  attention::Plan plan;
  make_plan(snapshot.tree, attention::Policy::kDeftFlatten, backend.attention_shape(), backend.plan_device(), plan);
  constexpr int kSteps = 40;
  Clock::time_point start;
  for (int i = -5; i < kSteps; ++i) {
    if (i == 0) {
      cuda::check(cudaDeviceSynchronize(), "the GPU failed");
      start = Clock::now();
    }
    backend.forward(batch, plan, kNever);
  }
  cuda::check(cudaDeviceSynchronize(), "the GPU failed");
  return ms_since(start) / kSteps;
}

double percentile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  return values[std::min(values.size() - 1, static_cast<size_t>(share * values.size()))];
}

int bench(int num_steps) {
  const double bandwidth = copy_bandwidth();
  const LlamaConfig config = llama_3_8b().config;
  const double matrix_values = double(config.num_layers) * config.hidden_size *
                               (2.0 * config.num_qo_heads * config.head_dim +
                                2.0 * config.num_kv_heads * config.head_dim + 3.0 * config.intermediate_size);
  const double weight_bytes = 2 * (matrix_values + double(config.vocab_size) * config.hidden_size);
  std::printf("copy %.3f TB/s, weights read per step %.2f GB\n", bandwidth * 1e-12, weight_bytes * 1e-9);

  const std::vector<int> widths = {1, 20, 64};
  std::vector<double> gpu;
  {
    const auto start = Clock::now();
    const auto backend = make_backend(false);
    std::printf("load %.0f ms\n", ms_since(start));
    for (const int width : widths) gpu.push_back(gpu_ms(*backend, width));
  }
  std::string json;
  {
    Session session;
    std::vector<double> first;
    for (int i = 0; i < 5; ++i) first.push_back(session.first_token_ms(i));
    const double ms = percentile(first, 0.5);
    const double tflops = 2 * matrix_values * kPromptLen / (ms * 1e-3) * 1e-12;
    std::printf("prefill of %d tokens to the first token: %.1f ms, %.0f TFLOP/s of the products\n", kPromptLen, ms,
                tflops);
    json = "\"prefill_ms\":" + std::to_string(ms) + ",\"prefill_tflops\":" + std::to_string(tflops);
    std::printf("%6s %9s %9s %9s %9s %7s\n", "width", "median ms", "p99 ms", "GPU ms", "floor ms", "ratio");
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::vector<double> times = session.decode_ms(widths[i], num_steps);
      const double tokens = kPromptLen + widths[i] * (8 + num_steps / 2.0);
      const double floor = (weight_bytes + tokens * cuda_kv_bytes_per_token(config)) / bandwidth * 1e3;
      const double median = percentile(times, 0.5);
      std::printf("%6d %9.3f %9.3f %9.3f %9.3f %7.3f\n", widths[i], median, percentile(times, 0.99), gpu[i], floor,
                  median / floor);
      json += ",\"w" + std::to_string(widths[i]) + "\":{\"median_ms\":" + std::to_string(median) +
              ",\"gpu_ms\":" + std::to_string(gpu[i]) + ",\"floor_ms\":" + std::to_string(floor) + "}";
    }
    const EngineStats stats = session.stats();
    std::printf(
        "host ms per step: take %.3f schedule %.3f snapshot %.3f plan %.3f forward %.3f commit %.3f publish %.3f\n",
        stats.take_ns * 1e-6 / stats.steps, stats.schedule_ns * 1e-6 / stats.steps,
        stats.snapshot_ns * 1e-6 / stats.steps, stats.plan_ns * 1e-6 / stats.steps,
        stats.forward_ns * 1e-6 / stats.steps, stats.commit_ns * 1e-6 / stats.steps,
        stats.publish_ns * 1e-6 / stats.steps);
  }
  {
    Session session(true);
    session.first_token_ms(1);
    for (const bool decodes : {false, true}) {
      const EngineStats before = session.stats();
      if (decodes) {
        session.decode_ms(20, 20);
      } else {
        session.first_token_ms(2);
      }
      const EngineStats after = session.stats();
      const double steps = static_cast<double>(after.steps - before.steps);
      std::printf("profile, %s, ms a step: products %.3f, attention %.3f, other kernels %.3f, sampling %.3f\n",
                  decodes ? "20 decode steps of 20 and their prefill" : "prefill",
                  (after.linear_ns - before.linear_ns) * 1e-6 / steps,
                  (after.attention_ns - before.attention_ns) * 1e-6 / steps,
                  (after.other_forward_ns - before.other_forward_ns) * 1e-6 / steps,
                  (after.sampling_ns - before.sampling_ns) * 1e-6 / steps);
    }
  }
  std::printf("{\"copy_tb_s\":%.3f,%s}\n", bandwidth * 1e-12, json.c_str());
  return 0;
}

}  // namespace
}  // namespace deftree

int main(int argc, char** argv) {
  try {
    return deftree::bench(argc > 1 ? std::max(std::atoi(argv[1]), 1) : 100);
  } catch (const deftree::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
