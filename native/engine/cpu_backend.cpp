// The CPU backend: packed weights, KV pages, one thread pool; the forward pass itself is model/llama.h.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "attention/attention.h"
#include "common/cpu_features.h"
#include "common/error.h"
#include "common/thread_pool.h"
#include "engine/backend.h"
#include "engine/step_checks.h"
#include "model/llama.h"
#include "model/ops.h"
#include "model/weights.h"

namespace deftree {
namespace {

using attention::CpuKvLayer;
using attention::KvType;

// Logits are computed for this many rows at once and dropped: a score of hundreds of tokens never holds
// [rows, vocab_size] floats.
constexpr int kLogitRows = 32;
constexpr int kMaxThreads = 256;
constexpr int kMaxDefaultThreads = 16;

[[noreturn]] void bad_option(const std::string& message) { throw Error(ErrorCode::kBadArgument, message); }

int choose_num_threads(int32_t wanted) {
  if (wanted < 0 || wanted > kMaxThreads) {
    bad_option("num_threads is " + std::to_string(wanted) + ", supported are 0 (chosen) to " +
               std::to_string(kMaxThreads));
  }
  if (wanted > 0) return wanted;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxDefaultThreads);
}

BackendOptions checked(const BackendOptions& options) {
  if (options.page_size < 8 || options.page_size > 256 || (options.page_size & (options.page_size - 1)) != 0) {
    bad_option("page_size is " + std::to_string(options.page_size) + ", supported are powers of two from 8 to 256");
  }
  check_sizes(options);
  return options;
}

// "auto" keeps the cache as precise as the weights: float32 beside float32 weights, float16 otherwise.
KvType choose_kv_type(const std::string& wanted, WeightFormat weights) {
  if (wanted == "f32") return KvType::kF32;
  if (wanted == "f16") return KvType::kF16;
  if (wanted == "auto") return weights == WeightFormat::kF32 ? KvType::kF32 : KvType::kF16;
  bad_option("kv_type is \"" + wanted + "\", the CPU supports \"auto\", \"f32\" and \"f16\"");
}

// K and V pages of all layers. The memory is zero and untouched: the system gives it page by page as tokens come.
class KvPages {
 public:
  KvPages(const LlamaConfig& config, const BackendOptions& options, KvType type) {
    const uint64_t slot_bytes = uint64_t(config.num_kv_heads) * config.head_dim * (type == KvType::kF32 ? 4 : 2);
    const uint64_t layer_bytes = uint64_t(options.num_pages) * options.page_size * slot_bytes;
    bytes_ = 2 * layer_bytes * config.num_layers;
    for (int i = 0; i < config.num_layers; ++i) {
      layers_.push_back({.k = allocate(layer_bytes), .v = allocate(layer_bytes), .type = type});
    }
  }

  const std::vector<CpuKvLayer>& layers() const { return layers_; }
  uint64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  void* allocate(uint64_t bytes) {
    constexpr size_t kAlign = 64;
    void* memory = bytes < std::numeric_limits<size_t>::max() - kAlign ? std::calloc(bytes + kAlign, 1) : nullptr;
    if (memory == nullptr) {
      throw Error(ErrorCode::kOutOfMemory,
                  "no memory for " + std::to_string(bytes_ >> 20) + " MiB of KV pages; ask for fewer pages",
                  {{"wanted_bytes", static_cast<double>(bytes_)}});
    }
    memory_.emplace_back(memory);
    size_t space = bytes + kAlign;
    return std::align(kAlign, bytes, memory, space);
  }

  uint64_t bytes_ = 0;
  std::vector<std::unique_ptr<void, Free>> memory_;
  std::vector<CpuKvLayer> layers_;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(const ModelSpec& spec, const BackendOptions& options, const std::atomic<bool>& cancel)
      : options_(checked(options)),
        pool_(choose_num_threads(options.num_threads)),
        weights_(load_weights(spec, pool_, cancel)),
        kv_(weights_.config, options_, choose_kv_type(options_.kv_type, weights_.layers[0].gate_up.format())),
        ops_(weights_, kv_.layers(), options_.page_size, pool_),
        sampler_scratch_(pool_.num_threads()),
        thread_errors_(pool_.num_threads()) {
    const LlamaConfig& config = weights_.config;
    const bool f32 = kv_.layers()[0].type == KvType::kF32;
    info_ = {
        .device = "cpu",
        .description = std::string(cpu_level_name(cpu_level())) + ", " + std::to_string(pool_.num_threads()) +
                       (pool_.num_threads() == 1 ? " thread" : " threads"),
        .weight_format = std::string(weight_format_name(weights_.layers[0].gate_up.format())),
        .kv_type = f32 ? "f32" : "f16",
        .weight_bytes = weights_.bytes(),
        .kv_bytes = kv_.bytes(),
        .kv_bytes_per_token = uint64_t{2} * config.num_layers * config.num_kv_heads * config.head_dim * (f32 ? 4 : 2)};
  }

  const BackendInfo& info() const override { return info_; }
  attention::AttentionShape attention_shape() const override { return ops_.attention_shape(); }

  attention::PlanDevice plan_device() const override { return attention::cpu_plan_device(pool_.num_threads()); }

  void forward(const StepBatch& batch, const attention::Plan& plan, const std::atomic<bool>& cancel) override {
    check_step(batch, weights_.config.vocab_size, options_);
    num_logits_ = 0;
    BackendTimes& times = ops_.times();
    const int64_t inside_before = times.linear_ns + times.attention_ns;
    {
      const ScopeTimer timer(times.other_ns);
      hidden_ = deftree::forward(ops_, batch, plan, cancel);
    }
    times.other_ns -= times.linear_ns + times.attention_ns - inside_before;
    num_logits_ = batch.num_logits();
  }

  void sample(std::span<const SampleRequest> requests, std::span<SampledToken> results) override {
    rows_.clear();
    for (const SampleRequest& request : requests) rows_.push_back(request.logit_row);
    for_each_logits(rows_, [&](int i, std::span<const float> logits, int thread) {
      sample_token(logits, requests[i], sampler_scratch_[thread], results[i]);
    });
  }

  void log_probs(std::span<const int32_t> rows, std::span<const int32_t> tokens, std::span<float> results) override {
    for (const int32_t token : tokens) check_token(token, weights_.config.vocab_size);
    for_each_logits(rows, [&](int i, std::span<const float> logits, int) { results[i] = log_prob(logits, tokens[i]); });
  }

  void read_logits(int32_t row, std::span<float> dst) override {
    if (dst.size() != static_cast<size_t>(weights_.config.vocab_size))
      bad_option("read_logits needs vocab_size floats");
    for_each_logits({&row, 1},
                    [&](int, std::span<const float> logits, int) { std::ranges::copy(logits, dst.begin()); });
  }

  std::span<const float> hidden_state(int32_t row) const override {
    check_logit_row(row, num_logits_);
    const size_t hidden_size = weights_.config.hidden_size;
    return {hidden_ + row * hidden_size, hidden_size};
  }

  void copy_slots(std::span<const SlotCopy> copies) override {
    const int num_slots = options_.num_pages * options_.page_size;
    for (const SlotCopy& copy : copies) {
      if (copy.len < 0 || copy.from_slot < 0 || copy.to_slot < 0 || copy.len > num_slots - copy.from_slot ||
          copy.len > num_slots - copy.to_slot) {
        bad_option("copy_slots reaches past the pages");
      }
    }
    pool_.run(weights_.config.num_layers, [&](int layer, int) {
      for (const SlotCopy& copy : copies) {
        for (int i = 0; i < copy.len; ++i) {
          attention::copy_slot(ops_.attention_shape(), kv_.layers()[layer], copy.from_slot + i, copy.to_slot + i);
        }
      }
    });
  }

  BackendTimes times() const override {
    BackendTimes times = ops_.times();
    for (const SamplerScratch& scratch : sampler_scratch_) times.successors_ns += scratch.successors_ns;
    return times;
  }

 private:
  // Calls body(i, logits of row rows[i], thread) for each i, on the pool; rows come in any order and may repeat.
  // Rethrows an exception of body after the block in which it was thrown.
  template <class Body>
  void for_each_logits(std::span<const int32_t> rows, Body body) {
    const int hidden_size = weights_.config.hidden_size, vocab_size = weights_.config.vocab_size;
    for (const int32_t row : rows) check_logit_row(row, num_logits_);
    order_.resize(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) order_[i] = static_cast<int>(i);
    std::ranges::stable_sort(order_, {}, [&](int i) { return rows[i]; });

    for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
      block_hidden_.clear();
      block_row_.clear();
      int num_rows = 0;
      for (; end < rows.size(); ++end) {
        const int32_t row = rows[order_[end]];
        if (end == begin || row != rows[order_[end - 1]]) {
          if (num_rows == kLogitRows) break;
          const float* hidden = hidden_ + size_t(row) * hidden_size;
          block_hidden_.insert(block_hidden_.end(), hidden, hidden + hidden_size);
          ++num_rows;
        }
        block_row_.push_back(num_rows - 1);
      }
      logits_.resize(std::max(logits_.size(), size_t(num_rows) * vocab_size));
      ops_.linear(weights_.lm_head(), block_hidden_.data(), hidden_size, num_rows, logits_.data());

      const ScopeTimer timer(ops_.times().sampling_ns);
      pool_.run(static_cast<int>(end - begin), [&](int task, int thread) {
        try {
          const float* logits = logits_.data() + size_t(block_row_[task]) * vocab_size;
          body(order_[begin + task], std::span(logits, size_t(vocab_size)), thread);
        } catch (...) {
          thread_errors_[thread] = std::current_exception();
        }
      });
      std::exception_ptr first;
      for (std::exception_ptr& error : thread_errors_) {
        if (!first) first = error;
        error = nullptr;
      }
      if (first) std::rethrow_exception(first);
    }
  }

  BackendOptions options_;
  ThreadPool pool_;
  LlamaWeights weights_;
  KvPages kv_;
  CpuOps ops_;
  BackendInfo info_;

  const float* hidden_ = nullptr;  // [num_logits, hidden_size] of the last step, in ops_'s buffers
  int num_logits_ = 0;

  std::vector<float> block_hidden_;  // [block rows, hidden_size]
  std::vector<float> logits_;        // [block rows, vocab_size]
  std::vector<int> block_row_;       // row of the block of each of its requests
  std::vector<int> order_;
  std::vector<int32_t> rows_;
  std::vector<SamplerScratch> sampler_scratch_;    // [num_threads]
  std::vector<std::exception_ptr> thread_errors_;  // [num_threads]
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const ModelSpec& spec, const BackendOptions& options,
                                          const std::atomic<bool>& cancel) {
  return std::make_unique<CpuBackend>(spec, options, cancel);
}

}  // namespace deftree
