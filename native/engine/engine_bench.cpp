// The step's own cost: schedule, snapshot, plan, commit and publish, with a backend that computes nothing.
//
//   engine_bench [branches] [prompt tokens] [decoded tokens per branch]
//
// Prints the mean of each stage per step, then one JSON line. Means over all steps of one run: compare runs in pairs.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "engine/engine.h"

namespace deftree {
namespace {

class IdleBackend final : public Backend {
 public:
  const BackendInfo& info() const override { return info_; }
  attention::AttentionShape attention_shape() const override { return {9, 3, 64, 16}; }
  attention::PlanDevice plan_device() const override { return {2, 128, 64}; }
  void forward(const StepBatch&, const attention::Plan&, const std::atomic<bool>&) override {}
  void sample(std::span<const SampleRequest> requests, std::span<SampledToken> results) override {
    // Different tokens on different paths, as a sampler would draw.
    for (size_t i = 0; i < requests.size(); ++i) {
      results[i].token = static_cast<int32_t>(uniform_random(1, requests[i].path_hash, requests[i].position) * 49152);
    }
  }
  void log_probs(std::span<const int32_t>, std::span<const int32_t>, std::span<float>) override {}
  void read_logits(int32_t, std::span<float>) override {}
  void copy_slots(std::span<const SlotCopy>) override {}
  BackendTimes times() const override { return {}; }

 private:
  BackendInfo info_{};
};

int run(int num_branches, int prompt_len, int num_tokens) {
  EngineOptions options;
  options.page_size = 16;
  options.num_pages = (prompt_len + num_branches * (num_tokens + 32)) / 16 + 64;
  options.vocab_size = 49152;
  options.context_len = prompt_len + num_tokens + 1;
  options.check_each_step = false;
  const std::atomic<bool> cancel{false};
  Engine engine(options, std::make_unique<IdleBackend>(), cancel);

  std::vector<Command> commands = {CreateCommand{0}, ExtendCommand{0, 0, std::vector<int32_t>(prompt_len, 7)}};
  ForkCommand fork{1, 0, {}, 0};
  for (int i = 1; i <= num_branches; ++i) fork.children.push_back(i);
  commands.push_back(fork);
  for (int i = 1; i <= num_branches; ++i) {
    SamplingParams sampling;
    sampling.temperature = 1;
    commands.push_back(DecodeCommand{static_cast<RequestId>(i + 1), static_cast<BranchKey>(i), num_tokens, {}, {}, sampling});
  }
  EngineStats prefilled{};
  StepOutcome outcome = StepOutcome::kMore;
  while (outcome != StepOutcome::kIdle) {
    auto message = std::make_unique<StepMessage>();
    outcome = engine.step(commands, *message);
    commands.clear();
    if (prefilled.steps == 0 && engine.stats().decoded_tokens > 0) prefilled = engine.stats();
  }
  const EngineStats end = engine.stats();
  const double steps = static_cast<double>(end.steps - prefilled.steps);
  const auto us = [&](int64_t EngineStats::*stage) { return static_cast<double>(end.*stage - prefilled.*stage) / steps / 1e3; };
  const double schedule = us(&EngineStats::schedule_ns), snapshot = us(&EngineStats::snapshot_ns),
               plan = us(&EngineStats::plan_ns), commit = us(&EngineStats::commit_ns), publish = us(&EngineStats::publish_ns),
               overhead = us(&EngineStats::overhead_ns);
  std::printf("%d branches on %d prompt tokens, %.0f steps; microseconds per step\n", num_branches, prompt_len, steps);
  std::printf("  schedule %.1f  snapshot %.1f  plan %.1f  commit %.1f  publish %.1f  in all %.1f\n", schedule, snapshot, plan,
              commit, publish, overhead);
  std::printf("{\"benchmark\":\"engine-step\",\"branches\":%d,\"prompt_tokens\":%d,\"steps\":%.0f,\"schedule_us\":%.2f,"
              "\"snapshot_us\":%.2f,\"plan_us\":%.2f,\"commit_us\":%.2f,\"publish_us\":%.2f,\"overhead_us\":%.2f}\n",
              num_branches, prompt_len, steps, schedule, snapshot, plan, commit, publish, overhead);
  return 0;
}

}  // namespace
}  // namespace deftree

int main(int argc, char** argv) {
  const auto argument = [&](int i, int fallback) { return argc > i ? std::atoi(argv[i]) : fallback; };
  return deftree::run(argument(1, 16), argument(2, 512), argument(3, 256));
}
