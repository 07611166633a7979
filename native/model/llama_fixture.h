// For tests and benchmarks: small Llama models whose weights come from an integer formula (the other half is
// tools/fixtures/make_llama_fixtures.py, which explains it), and a runner that drives them through the tree cache.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "attention/attention.h"
#include "attention/plan.h"
#include "cache/tree_cache.h"
#include "common/error.h"
#include "common/thread_pool.h"
#include "model/llama.h"
#include "model/ops.h"
#include "model/weights.h"

namespace deftree::test {

inline std::vector<int> formula_codes(const std::string& name, size_t count) {
  uint32_t seed = 0x811c9dc5u;
  for (const char c : name) seed = (seed ^ static_cast<uint8_t>(c)) * 0x01000193u;
  std::vector<int> codes(count);
  for (size_t i = 0; i < count; ++i) {
    uint32_t x = seed + static_cast<uint32_t>(i) * 0x9e3779b9u;
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    codes[i] = static_cast<int>((x ^ (x >> 16)) >> 24) - 128;
  }
  return codes;
}

inline std::vector<float> formula_weights(const std::string& name, const std::vector<int64_t>& shape) {
  size_t count = 1;
  for (const int64_t dim : shape) count *= static_cast<size_t>(dim);
  float scale = 1.0f / 256, offset = 1.0f;
  if (shape.size() == 2) {
    offset = 0.0f;
    int shift = 6 + static_cast<int>(std::bit_width(static_cast<uint64_t>(shape[1]))) / 2;
    if (name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos) shift -= 1;
    if (name == "model.embed_tokens.weight") shift = 6;
    scale = 1.0f / static_cast<float>(1 << shift);
  }
  std::vector<float> values(count);
  const std::vector<int> codes = formula_codes(name, count);
  for (size_t i = 0; i < count; ++i) values[i] = offset + static_cast<float>(codes[i]) * scale;
  return values;
}

// A model file in the system's folder for temporary files, removed at the end.
struct ModelFile {
  ModelSpec spec;

  // Tensors of `config` by the formula; matrices of `dtype` (kF32 or kBf16), norms of kF32.
  static ModelFile write(const LlamaConfig& config, DType dtype) {
    ModelFile file;
    file.spec.config = config;
    const std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("deftree-test-model-" + std::to_string(std::random_device{}()));
    file.spec.files = {path.string()};
    std::ofstream out(path, std::ios::binary);
    uint64_t offset = 0;
    for (auto& [name, shape] : tensors(config)) {
      const DType type = shape.size() == 1 ? DType::kF32 : dtype;
      std::vector<float> values = formula_weights(name, shape);
      if (config.qk_permuted &&
          (name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos)) {
        values = permuted(values, shape, config.head_dim);
      }
      std::string bytes;
      for (const float value : values) {
        const auto bits = std::bit_cast<uint32_t>(value);
        for (int shift = type == DType::kF32 ? 0 : 16; shift < 32; shift += 8)
          bytes += static_cast<char>(bits >> shift);
      }
      out << bytes;
      file.spec.tensors.push_back({name, 0, offset, bytes.size(), type, shape});
      offset += bytes.size();
    }
    return file;
  }

  static std::vector<std::pair<std::string, std::vector<int64_t>>> tensors(const LlamaConfig& config) {
    const int64_t hidden = config.hidden_size, q = int64_t{config.num_qo_heads} * config.head_dim;
    const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
    std::vector<std::pair<std::string, std::vector<int64_t>>> list = {
        {"model.embed_tokens.weight", {config.vocab_size, hidden}}, {"model.norm.weight", {hidden}}};
    if (!config.tie_word_embeddings) list.push_back({"lm_head.weight", {config.vocab_size, hidden}});
    for (int i = 0; i < config.num_layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      list.push_back({layer + "input_layernorm.weight", {hidden}});
      list.push_back({layer + "self_attn.q_proj.weight", {q, hidden}});
      list.push_back({layer + "self_attn.k_proj.weight", {kv, hidden}});
      list.push_back({layer + "self_attn.v_proj.weight", {kv, hidden}});
      list.push_back({layer + "self_attn.o_proj.weight", {hidden, q}});
      list.push_back({layer + "post_attention_layernorm.weight", {hidden}});
      list.push_back({layer + "mlp.gate_proj.weight", {config.intermediate_size, hidden}});
      list.push_back({layer + "mlp.up_proj.weight", {config.intermediate_size, hidden}});
      list.push_back({layer + "mlp.down_proj.weight", {hidden, config.intermediate_size}});
    }
    return list;
  }

  ModelFile() = default;
  ModelFile(ModelFile&& other) noexcept : spec(std::exchange(other.spec, {})) {}
  ~ModelFile() {
    for (const std::string& path : spec.files) std::remove(path.c_str());
  }

 private:
  // As GGUF's converter does it: [heads, 2, head_dim / 2, cols] -> [heads, head_dim / 2, 2, cols].
  static std::vector<float> permuted(const std::vector<float>& values, const std::vector<int64_t>& shape,
                                     int head_dim) {
    std::vector<float> result;
    for (int64_t head = 0; head < shape[0] / head_dim; ++head) {
      for (int64_t i = 0; i < head_dim / 2; ++i) {
        for (int64_t half = 0; half < 2; ++half) {
          const auto row = values.begin() + (head * head_dim + half * (head_dim / 2) + i) * shape[1];
          result.insert(result.end(), row, row + shape[1]);
        }
      }
    }
    return result;
  }
};

// A fixture: native/tests/fixtures/llama-<name>.txt.
struct LlamaFixture {
  LlamaConfig config;
  std::vector<int32_t> tokens;
  std::vector<std::pair<int32_t, std::vector<float>>> logits;  // by position

  static LlamaFixture read(const std::string& name) {
    const auto folder = std::filesystem::path(__FILE__).parent_path().parent_path() / "tests" / "fixtures";
    std::ifstream in(folder / ("llama-" + name + ".txt"));
    ensure(in.good(), "a Llama fixture is missing");
    LlamaFixture fixture;
    LlamaConfig& config = fixture.config;
    std::string line, key;
    while (std::getline(in, line)) {
      std::istringstream values(line);
      values >> key;
      if (key == "num_layers") values >> config.num_layers;
      if (key == "hidden_size") values >> config.hidden_size;
      if (key == "intermediate_size") values >> config.intermediate_size;
      if (key == "num_qo_heads") values >> config.num_qo_heads;
      if (key == "num_kv_heads") values >> config.num_kv_heads;
      if (key == "head_dim") values >> config.head_dim;
      if (key == "vocab_size") values >> config.vocab_size;
      if (key == "context_len") values >> config.context_len;
      if (key == "rope_theta") values >> config.rope_theta;
      if (key == "rms_norm_eps") values >> config.rms_norm_eps;
      if (key == "tie_word_embeddings") values >> config.tie_word_embeddings;
      if (key == "rope_scaling") {
        Llama3RopeScaling scaling;
        if (values >> scaling.factor >> scaling.low_freq_factor >> scaling.high_freq_factor >>
            scaling.original_context_len) {
          config.rope_scaling = scaling;
        }
      }
      if (key == "tokens") {
        for (int32_t token; values >> token;) fixture.tokens.push_back(token);
      }
      if (key == "logits") {
        int32_t position;
        values >> position;
        fixture.logits.push_back({position, {}});
        for (float value; values >> value;) fixture.logits.back().second.push_back(value);
      }
    }
    return fixture;
  }
};

// A model with KV pages and a tree cache, stepped by hand. Pages hold NaN until they are written.
class LlamaRunner {
 public:
  attention::Policy policy = attention::Policy::kDeftFlatten;
  attention::PlanDevice device = {.num_processors = 2, .min_chunk_len = 16, .max_group_rows = 32};

  LlamaRunner(const ModelSpec& spec, attention::KvType kv_type, int num_threads = 2, int num_pages = 128)
      : cache({.num_pages = num_pages, .page_size = kPageSize}),
        pool_(num_threads),
        weights_(load_weights(spec, pool_, never_)),
        kv_(make_pages(weights_.config, kv_type, num_pages, memory_)),
        ops_(weights_, kv_, kPageSize, pool_) {}

  TreeCache cache;

  BranchId create(const std::vector<int32_t>& tokens) {
    const BranchId branch = cache.create();
    extend(branch, tokens);
    return branch;
  }

  // Appends tokens in chunks of `chunk_len`; returns the logits of the last one.
  std::vector<float> extend(BranchId branch, const std::vector<int32_t>& tokens, size_t chunk_len = SIZE_MAX) {
    std::vector<float> logits;
    for (size_t begin = 0; begin < tokens.size(); begin += std::min(chunk_len, tokens.size() - begin)) {
      const size_t len = std::min(chunk_len, tokens.size() - begin);
      logits = step({{branch, {tokens.begin() + begin, tokens.begin() + begin + len}}})[0];
    }
    return logits;
  }

  // One forward pass that appends to several branches (no tokens: a tip query); the logits of each branch's last token.
  std::vector<std::vector<float>> step(const std::vector<std::pair<BranchId, std::vector<int32_t>>>& appends) {
    std::vector<StepBranch> branches;
    for (const auto& [branch, tokens] : appends) {
      if (!tokens.empty()) cache.append(branch, tokens);
      branches.push_back({branch, static_cast<int32_t>(tokens.size())});
    }
    const StepSnapshot snapshot = cache.snapshot(branches);
    check_snapshot(snapshot.tree);
    StepBatch batch;
    for (const SnapshotQuery& query : snapshot.queries) {
      batch.tokens.push_back(query.token);
      batch.positions.push_back(query.position);
      batch.slots.push_back(query.slot);
      batch.logit_rows.push_back(batch.num_logits());
    }
    make_plan(snapshot.tree, policy, ops_.attention_shape(), device, plan);
    const float* hidden = forward(ops_, batch, plan, never_);

    const LlamaConfig& config = weights_.config;
    std::vector<std::vector<float>> logits;
    for (size_t i = 0; i < branches.size(); ++i) {
      const int row = snapshot.first_query[i] + std::max(branches[i].num_fresh, 1) - 1;
      logits.emplace_back(config.vocab_size);
      ops_.linear(weights_.lm_head(), hidden + size_t(row) * config.hidden_size, config.hidden_size, 1,
                  logits[i].data());
      if (branches[i].num_fresh > 0) cache.commit(branches[i].branch);
    }
    return logits;
  }

  attention::Plan plan;

 private:
  static constexpr int kPageSize = 16;

  static std::vector<attention::CpuKvLayer> make_pages(const LlamaConfig& config, attention::KvType type, int num_pages,
                                                       std::vector<std::vector<float>>& memory) {
    const size_t values = size_t(num_pages) * kPageSize * config.num_kv_heads * config.head_dim;
    std::vector<attention::CpuKvLayer> layers;
    for (int i = 0; i < 2 * config.num_layers; ++i) {
      // The bits are NaN in either type.
      memory.emplace_back(type == attention::KvType::kF32 ? values : values / 2, std::bit_cast<float>(0xffffffffu));
    }
    for (int i = 0; i < config.num_layers; ++i) {
      layers.push_back({.k = memory[2 * i].data(), .v = memory[2 * i + 1].data(), .type = type});
    }
    return layers;
  }

  const std::atomic<bool> never_{false};
  ThreadPool pool_;
  LlamaWeights weights_;
  std::vector<std::vector<float>> memory_;
  std::vector<attention::CpuKvLayer> kv_;
  CpuOps ops_;
};

// Largest difference, relative to the largest magnitude in `expected`; infinite when a value is not finite.
inline double relative_error(const std::vector<float>& got, const std::vector<float>& expected) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (got.size() != expected.size()) return kInfinity;
  double difference = 0, largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return kInfinity;
    difference = std::max(difference, std::abs(static_cast<double>(got[i]) - expected[i]));
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return difference / largest;
}

}  // namespace deftree::test
