// How long a step takes, and where: prefill and decode of a model of SmolLM2-135M's shape with random weights.
//
//   forward_bench [threads]
//
// Weights are random 4-bit blocks (Q4_1, the embedding Q8_0, as in the file that docs/benchmarks.md uses), written to a
// temporary file and loaded as any model. Each case grows real branches in the tree cache: one prefix, n branches,
// greedy tokens. Times are medians over the steps, split as BackendTimes splits them; `plan` is snapshot + plan. The
// weight rate is weight bytes / linear time: a step of few rows cannot beat the machine's copy rate.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "attention/plan.h"
#include "cache/tree_cache.h"
#include "common/error.h"
#include "engine/backend.h"

using namespace deftree;

namespace {

using Clock = std::chrono::steady_clock;

constexpr LlamaConfig kShape = {.num_layers = 30,
                                .hidden_size = 576,
                                .intermediate_size = 1536,
                                .num_qo_heads = 9,
                                .num_kv_heads = 3,
                                .head_dim = 64,
                                .vocab_size = 49152,
                                .context_len = 8192,
                                .rope_theta = 100000,
                                .rms_norm_eps = 1e-5,
                                .tie_word_embeddings = true,
                                .qk_permuted = false,
                                .rope_scaling = {}};

// A model file of random blocks, removed at the end.
class RandomModel {
 public:
  RandomModel()
      : path_(std::filesystem::temp_directory_path() / ("deftree-bench-" + std::to_string(std::random_device{}()))) {
    spec_.config = kShape;
    spec_.files = {path_.string()};
    out_.open(path_, std::ios::binary);
    const int64_t hidden = kShape.hidden_size, q = kShape.num_qo_heads * kShape.head_dim;
    const int64_t kv = kShape.num_kv_heads * kShape.head_dim, intermediate = kShape.intermediate_size;
    add("model.embed_tokens.weight", DType::kQ8_0, {kShape.vocab_size, hidden});
    for (int i = 0; i < kShape.num_layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      add(layer + "input_layernorm.weight", DType::kF32, {hidden});
      add(layer + "self_attn.q_proj.weight", DType::kQ4_1, {q, hidden});
      add(layer + "self_attn.k_proj.weight", DType::kQ4_1, {kv, hidden});
      add(layer + "self_attn.v_proj.weight", DType::kQ4_1, {kv, hidden});
      add(layer + "self_attn.o_proj.weight", DType::kQ4_1, {hidden, q});
      add(layer + "post_attention_layernorm.weight", DType::kF32, {hidden});
      add(layer + "mlp.gate_proj.weight", DType::kQ4_1, {intermediate, hidden});
      add(layer + "mlp.up_proj.weight", DType::kQ4_1, {intermediate, hidden});
      add(layer + "mlp.down_proj.weight", DType::kQ4_1, {hidden, intermediate});
    }
    add("model.norm.weight", DType::kF32, {hidden});
    out_.close();
  }
  ~RandomModel() { std::filesystem::remove(path_); }

  const ModelSpec& spec() const { return spec_; }

 private:
  void add(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
    const DTypeInfo& type = dtype_info(dtype);
    int64_t blocks = 1;
    for (const int64_t dim : shape) blocks *= dim;
    blocks /= type.block_len;
    std::string bytes(static_cast<size_t>(blocks * type.block_bytes), '\0');
    for (int64_t i = 0; i < blocks; ++i) {
      char* block = bytes.data() + i * type.block_bytes;
      for (int j = 0; j < type.block_bytes; ++j) block[j] = static_cast<char>(random_());
      const auto put_half = [&](int at, uint16_t bits) {
        block[at] = static_cast<char>(bits & 0xff);
        block[at + 1] = static_cast<char>(bits >> 8);
      };
      if (dtype == DType::kF32) block[0] = block[1] = 0, block[2] = static_cast<char>(0x80), block[3] = 0x3f;  // 1.0f
      if (dtype == DType::kQ8_0) put_half(0, 0x1000);                       // scale 2^-11: values in +-1/16
      if (dtype == DType::kQ4_1) put_half(0, 0x2000), put_half(2, 0xab80);  // 2^-7 * code - 15 * 2^-8
    }
    spec_.tensors.push_back({name, 0, offset_, bytes.size(), dtype, shape});
    offset_ += bytes.size();
    out_ << bytes;
  }

  std::filesystem::path path_;
  ModelSpec spec_;
  std::ofstream out_;
  uint64_t offset_ = 0;
  std::minstd_rand random_{1};
};

struct StepTime {
  double total = 0, linear = 0, attention = 0, sampling = 0, other = 0, plan = 0;  // milliseconds
};

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

class Bench {
 public:
  Bench(const ModelSpec& spec, int num_threads)
      : backend_(make_cpu_backend(spec,
                                  {.num_pages = kNumPages,
                                   .page_size = 16,
                                   .kv_type = "auto",
                                   .num_threads = num_threads,
                                   .max_step_tokens = 512},
                                  never_)),
        cache_({.num_pages = kNumPages, .page_size = 16}) {}

  const BackendInfo& info() const { return backend_->info(); }

  // Appends a prefix of `len` tokens in chunks of 512; the time of the chunks together.
  StepTime prefill(BranchId branch, int len) {
    StepTime sum;
    for (int done = 0; done < len; done += 512) {
      std::vector<int32_t> tokens(std::min(512, len - done));
      for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % kShape.vocab_size);
      const StepTime time = step({branch}, {tokens});
      sum.total += time.total, sum.linear += time.linear, sum.attention += time.attention;
      sum.sampling += time.sampling, sum.other += time.other, sum.plan += time.plan;
    }
    return sum;
  }

  // Median step of `num_branches` branches that decode `num_steps` tokens each after a prefix.
  StepTime decode(int prefix_len, int num_branches, int num_steps) {
    const BranchId trunk = cache_.create();
    prefill(trunk, prefix_len);
    const std::vector<BranchId> branches = cache_.fork(trunk, num_branches);
    for (int i = 0; i < num_branches; ++i) next_[i] = 100 + i;
    std::vector<StepTime> times;
    for (int i = 0; i < num_steps; ++i) {
      std::vector<std::vector<int32_t>> tokens;
      for (int b = 0; b < num_branches; ++b) tokens.push_back({next_[b]});
      times.push_back(step(branches, tokens));
    }
    for (const BranchId branch : branches) cache_.prune(branch, false);
    cache_.prune(trunk, false);
    std::ranges::sort(times, {}, &StepTime::total);
    return times[times.size() / 2];
  }

  StepTime prefill_once(int len) {
    const BranchId branch = cache_.create();
    const StepTime time = prefill(branch, len);
    cache_.prune(branch, false);
    return time;
  }

 private:
  static constexpr int kNumPages = 512;

  // One step that appends tokens[i] to branches[i] and samples each one's next token.
  StepTime step(const std::vector<BranchId>& branches, const std::vector<std::vector<int32_t>>& tokens) {
    std::vector<StepBranch> step_branches;
    for (size_t i = 0; i < branches.size(); ++i) {
      cache_.append(branches[i], tokens[i]);
      step_branches.push_back({branches[i], static_cast<int32_t>(tokens[i].size())});
    }
    const Clock::time_point start = Clock::now();
    cache_.snapshot(step_branches, snapshot_);
    make_plan(snapshot_.tree, attention::Policy::kDeftFlatten, backend_->attention_shape(), backend_->plan_device(),
              plan_);
    StepTime time;
    time.plan = milliseconds_since(start);

    StepBatch batch;
    for (const SnapshotQuery& query : snapshot_.queries) {
      batch.tokens.push_back(query.token);
      batch.positions.push_back(query.position);
      batch.slots.push_back(query.slot);
    }
    // logit_rows ascend; the snapshot's order of branches is not the step's.
    std::vector<std::pair<int32_t, size_t>> last_rows;
    for (size_t i = 0; i < branches.size(); ++i) {
      last_rows.push_back({snapshot_.first_query[i] + step_branches[i].num_fresh - 1, i});
    }
    std::ranges::sort(last_rows);
    const SamplingParams greedy;
    std::vector<SampleRequest> requests(branches.size());
    for (const auto& [row, i] : last_rows) {
      requests[i] = {
          .logit_row = batch.num_logits(), .params = &greedy, .path_hash = i, .position = 0, .seen = {}, .allowed = {}};
      batch.logit_rows.push_back(row);
    }

    const BackendTimes before = backend_->times();
    backend_->forward(batch, plan_, never_);
    std::vector<SampledToken> sampled(branches.size());
    backend_->sample(requests, sampled);
    time.total = milliseconds_since(start);
    const BackendTimes after = backend_->times();
    time.linear = static_cast<double>(after.linear_ns - before.linear_ns) / 1e6;
    time.attention = static_cast<double>(after.attention_ns - before.attention_ns) / 1e6;
    time.sampling = static_cast<double>(after.sampling_ns - before.sampling_ns) / 1e6;
    time.other = static_cast<double>(after.other_ns - before.other_ns) / 1e6;
    for (size_t i = 0; i < branches.size(); ++i) {
      cache_.commit(branches[i]);
      next_[i] = sampled[i].token;
    }
    return time;
  }

  const std::atomic<bool> never_{false};
  std::unique_ptr<Backend> backend_;
  TreeCache cache_;
  StepSnapshot snapshot_;
  attention::Plan plan_;
  int32_t next_[64] = {};
  std::minstd_rand random_{7};
};

struct Case {
  const char* name;
  int num_rows;
  StepTime time;
};

void run(int num_threads) {
  const RandomModel model;
  Bench bench(model.spec(), num_threads);
  const double weight_mb = static_cast<double>(bench.info().weight_bytes) / 1e6;
  std::printf("%s, weights %s (%.0f MB), KV %s\n\n", bench.info().description.c_str(),
              bench.info().weight_format.c_str(), weight_mb, bench.info().kv_type.c_str());
  bench.prefill_once(512);  // warm-up
  const std::vector<Case> cases = {{"prefill 512", 512, bench.prefill_once(512)},
                                   {"1 branch on 512", 1, bench.decode(512, 1, 32)},
                                   {"16 branches on 512", 16, bench.decode(512, 16, 32)},
                                   {"16 branches on 2048", 16, bench.decode(2048, 16, 32)}};
  std::printf("%-20s %9s %9s %9s %9s %9s %9s %9s %12s\n", "ms a step", "total", "linear", "attention", "sampling",
              "other", "plan", "tokens/s", "weights GB/s");
  for (const auto& [name, num_rows, time] : cases) {
    std::printf("%-20s %9.2f %9.2f %9.2f %9.2f %9.2f %9.3f %9.0f %12.1f\n", name, time.total, time.linear,
                time.attention, time.sampling, time.other, time.plan, num_rows * 1000 / time.total,
                weight_mb / time.linear);
  }
  std::string json;
  for (const auto& [name, num_rows, time] : cases) {
    char line[256];
    std::snprintf(line, sizeof line,
                  "%s{\"name\":\"%s\",\"rows\":%d,\"ms\":%.3f,\"linear\":%.3f,\"attention\":%.3f,\"sampling\":%.3f,"
                  "\"other\":%.3f,\"plan\":%.3f}",
                  json.empty() ? "" : ",", name, num_rows, time.total, time.linear, time.attention, time.sampling,
                  time.other, time.plan);
    json += line;
  }
  std::printf("\n{\"bench\":\"forward\",\"device\":\"%s\",\"weights\":\"%s\",\"cases\":[%s]}\n",
              bench.info().description.c_str(), bench.info().weight_format.c_str(), json.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc > 1 ? std::atoi(argv[1]) : 0);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
