// The CUDA backend: weights, KV pages and activations in fixed memory; a step of few rows is one graph launch, a larger
// one the same launches one by one. The forward pass itself is model/llama.h.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "cuda/device_list.h"
#include "cuda/stage_timer.h"
#include "cuda/stream.h"
#include "engine/backend.h"
#include "engine/cuda/sampler_cuda.h"
#include "engine/step_checks.h"
#include "model/cuda/kv_cache_cuda.h"
#include "model/cuda/ops_cuda.h"
#include "model/cuda/weights_cuda.h"
#include "model/llama.h"

namespace deftree {
namespace {

// Rows of a step that runs as a graph, and of logits held at once. Rounded up to a power of two, so that there are few
// graphs.
constexpr int kMaxGraphRows = kMaxStreamRows;

int bucket(int num_rows) {
  int rows = 1;
  while (rows < num_rows) rows *= 2;
  return rows;
}

std::string gib(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (uint64_t{1} << 30));
  return text;
}

BackendOptions checked(const BackendOptions& options) {
  if (options.page_size != attention::kCudaPageSize) {
    throw Error(ErrorCode::kBadArgument, "page_size is " + std::to_string(options.page_size) +
                                             ", the GPU's attention kernels take pages of 16 only");
  }
  if (options.kv_type != "auto" && options.kv_type != "bf16") {
    throw Error(ErrorCode::kBadArgument,
                "kv_type is \"" + options.kv_type + "\", a GPU supports \"auto\" and \"bf16\"");
  }
  check_sizes(options);
  return options;
}

// Makes the GPU the calling thread's.
void use_device(int device_index) { cuda::check(cudaSetDevice(device_index), "cannot use the GPU"); }

// Before anything is allocated: that all of it fits.
void check_memory(const ModelSpec& spec, const BackendOptions& options) {
  size_t free_bytes = 0, total_bytes = 0;
  cuda::check(cudaMemGetInfo(&free_bytes, &total_bytes), "cannot ask for the GPU's free memory");
  const uint64_t fixed = cuda_bytes_without_kv(spec, options), token = cuda_kv_bytes_per_token(spec.config);
  const uint64_t num_tokens = uint64_t(options.num_pages) * options.page_size;
  const uint64_t wanted = fixed + num_tokens * token;
  if (wanted <= free_bytes) return;
  const uint64_t fits = free_bytes > fixed ? (free_bytes - fixed) / token / options.page_size * options.page_size : 0;
  const std::string way_out = fits > 0 ? std::to_string(fits) + " KV tokens would fit"
                                       : "the model itself takes " + gib(fixed) +
                                             " and does not fit; free memory on the GPU, or take a smaller model";
  throw Error(ErrorCode::kOutOfMemory,
              "the GPU has " + gib(free_bytes) + " free of " + gib(total_bytes) + " and " + gib(wanted) +
                  " are wanted, " + gib(num_tokens * token) + " of them for " + std::to_string(num_tokens) +
                  " KV tokens; " + way_out,
              {{"wanted_bytes", static_cast<double>(wanted)},
               {"free_bytes", static_cast<double>(free_bytes)},
               {"fitting_kv_tokens", static_cast<double>(fits)}});
}

int checked_device(const BackendOptions& options) {
  const CudaStatus status = query_cuda();
  if (status.devices.empty()) throw Error(ErrorCode::kDevice, "device \"cuda\" cannot be used: " + status.problem);
  if (std::ranges::find(status.devices, options.device_index, &CudaDeviceInfo::index) == status.devices.end()) {
    std::string usable;
    for (const CudaDeviceInfo& device : status.devices) {
      usable += (usable.empty() ? "" : ", ") + std::to_string(device.index) + " (" + device.name + ")";
    }
    throw Error(ErrorCode::kBadArgument,
                "device_index is " + std::to_string(options.device_index) + ", usable GPUs are " + usable);
  }
  return options.device_index;
}

// The device's part of construction that must come first.
struct DeviceGuard {
  int index;
  DeviceGuard(const ModelSpec& spec, const BackendOptions& options) : index(checked_device(options)) {
    check_cuda_config(spec.config);
    use_device(index);
    check_memory(spec, options);
  }
};

attention::AttentionShape shape_of(const LlamaConfig& config) {
  return {config.num_qo_heads, config.num_kv_heads, config.head_dim, attention::kCudaPageSize};
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(const ModelSpec& spec, const BackendOptions& options, const std::atomic<bool>& cancel)
      : options_(checked(options)),
        device_(spec, options_),
        weights_(load_cuda_weights(spec, device_.index, cancel)),
        kv_(shape_of(spec.config), spec.config.num_layers, options_.num_pages, options_.poison_kv ? 0xff : 0),
        ops_(weights_, kv_.layers(), kv_.shape(), device_.index, options_.max_step_tokens, stream_,
             options_.profile ? &timer_ : nullptr),
        logits_(size_t(kMaxGraphRows) * spec.config.vocab_size),
        sampler_(spec.config.vocab_size, kMaxGraphRows) {
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, device_.index), "cannot read the GPU's properties");
    info_ = {.device = "cuda",
             .description = properties.name,
             .weight_format = "bf16",
             .kv_type = "bf16",
             .weight_bytes = weights_.memory.bytes(),
             .kv_bytes = kv_.bytes(),
             .kv_bytes_per_token = cuda_kv_bytes_per_token(spec.config)};
    cuda::check(cudaDeviceSynchronize(), "loading the model on the GPU failed");
  }
  // Members give back their memory on the device that is current.
  ~CudaBackend() override { cudaSetDevice(device_.index); }

  const BackendInfo& info() const override { return info_; }
  attention::AttentionShape attention_shape() const override { return kv_.shape(); }
  attention::PlanDevice plan_device() const override { return ops_.plan_device(); }

  bool can_append_to_plan() const override { return true; }
  // Larger steps than those of a graph are prefills: nothing is appended to their plans.
  std::optional<int64_t> append_to_plan(std::span<const attention::AppendedToken> appended) override {
    if (appended.size() > kMaxGraphRows) return std::nullopt;
    const std::optional<int64_t> more = ops_.append_to_plan(appended);
    plan_is_appended_ = more.has_value();
    return more;
  }

  void forward(const StepBatch& batch, const attention::Plan& plan, const std::atomic<bool>& cancel) override {
    const bool is_appended = std::exchange(plan_is_appended_, false);
    check_step(batch, vocab_size(), options_);
    use_device(device_.index);
    collect_times();
    num_logits_ = 0;
    if (cancel.load(std::memory_order_relaxed)) throw Error(ErrorCode::kAborted, "the step was cancelled");
    if (batch.num_queries() <= kMaxGraphRows) {
      forward_graph(batch, plan, is_appended);
    } else {
      ops_.begin_step(batch, plan);
      hidden_ = deftree::forward(ops_, batch, plan, cancel);
      logits_block_ = kNoBlock;
    }
    num_logits_ = batch.num_logits();
    times_are_due_ = options_.profile;
  }

  void sample(std::span<const SampleRequest> requests, std::span<SampledToken> results) override {
    for (const SampleRequest& request : requests) check_logit_row(request.logit_row, num_logits_);
    for_each_block(
        requests.size(), [&](size_t i) { return requests[i].logit_row; },
        [&](std::span<const int> members, int num_rows, int first_row) {
          block_requests_.clear();
          for (const int i : members) {
            block_requests_.push_back(requests[i]);
            block_requests_.back().logit_row -= first_row;
          }
          block_results_.resize(std::max(block_results_.size(), members.size()));
          const auto sampled = std::span(block_results_).first(members.size());
          sampler_.sample(logits_.data(), num_rows, block_requests_, sampled, stream_.get());
          for (size_t i = 0; i < members.size(); ++i) std::swap(results[members[i]], sampled[i]);
        });
  }

  void log_probs(std::span<const int32_t> rows, std::span<const int32_t> tokens, std::span<float> results) override {
    for (const int32_t row : rows) check_logit_row(row, num_logits_);
    for (const int32_t token : tokens) check_token(token, vocab_size());
    for_each_block(
        rows.size(), [&](size_t i) { return rows[i]; },
        [&](std::span<const int> members, int num_rows, int first_row) {
          block_rows_.clear();
          block_tokens_.clear();
          for (const int i : members) {
            block_rows_.push_back(rows[i] - first_row);
            block_tokens_.push_back(tokens[i]);
          }
          block_log_probs_.resize(members.size());
          sampler_.log_probs(logits_.data(), num_rows, block_rows_, block_tokens_, block_log_probs_, stream_.get());
          for (size_t i = 0; i < members.size(); ++i) results[members[i]] = block_log_probs_[i];
        });
  }

  void read_logits(int32_t row, std::span<float> dst) override {
    if (dst.size() != static_cast<size_t>(vocab_size())) {
      throw Error(ErrorCode::kBadArgument, "read_logits needs vocab_size floats");
    }
    check_logit_row(row, num_logits_);
    use_device(device_.index);
    compute_logits(row / kMaxGraphRows);
    const float* from = logits_.data() + size_t(row % kMaxGraphRows) * vocab_size();
    cuda::check(cudaMemcpyAsync(dst.data(), from, dst.size_bytes(), cudaMemcpyDeviceToHost, stream_.get()),
                "cannot copy logits from the GPU");
    stream_.synchronize();
  }

  void copy_slots(std::span<const SlotCopy> copies) override {
    use_device(device_.index);
    kv_.copy_slots(copies, stream_);
  }

  BackendTimes times() const override {
    const auto& sum = timer_.sum_ns();
    return {.linear_ns = sum[kLinearStage],
            .attention_ns = sum[kAttentionStage],
            .sampling_ns = sampling_ns_,
            .other_ns = sum[kOtherStage]};
  }

 private:
  static constexpr int kNoBlock = -1;
  using GraphKey = std::pair<int, int>;  // buckets of rows and of logits rows; the second may be 0

  int vocab_size() const { return weights_.config.vocab_size; }

  // Rows up to the bucket are padding: token 0 at position 0, no slot, and logits of row 0 once more. `is_appended`:
  // the plan is that of the step before, appended to, and not `plan`.
  void forward_graph(const StepBatch& batch, const attention::Plan& plan, bool is_appended) {
    const GraphKey key{bucket(batch.num_queries()), batch.num_logits() == 0 ? 0 : bucket(batch.num_logits())};
    padded_ = batch;
    padded_.tokens.resize(key.first, 0);
    padded_.positions.resize(key.first, 0);
    padded_.slots.resize(key.first, -1);
    padded_.logit_rows.resize(key.second, 0);
    if (is_appended) {
      ops_.begin_appended_step(padded_);
    } else if (ops_.begin_step(padded_, plan)) {
      graphs_.clear();
    }
    auto graph = graphs_.find(key);
    if (graph == graphs_.end()) {
      auto recorded = std::make_unique<cuda::Graph>(stream_, [&] {
        static const std::atomic<bool> never{false};
        ops_.lm_head(deftree::forward(ops_, padded_, plan, never), key.second, logits_.data());
      });
      graph = graphs_.emplace(key, std::move(recorded)).first;
      graph_marks_ = timer_.num_marks();
    }
    graph->second->launch(stream_);
    timer_.launched(graph_marks_);
    logits_block_ = 0;
  }

  // Makes logits_ those of rows [block * kMaxGraphRows, ...) of the last step.
  void compute_logits(int block) {
    if (block == logits_block_) return;
    const int first_row = block * kMaxGraphRows;
    ops_.lm_head(hidden_ + size_t(first_row) * weights_.config.hidden_size, block_rows(block), logits_.data());
    logits_block_ = block;
  }
  int block_rows(int block) const { return std::min(num_logits_ - block * kMaxGraphRows, kMaxGraphRows); }

  // Calls body(indexes i of a block's rows, rows of the block, its first row) for each block of logits rows in turn.
  template <class RowOf, class Body>
  void for_each_block(size_t count, RowOf row_of, Body body) {
    use_device(device_.index);
    order_.resize(count);
    for (size_t i = 0; i < count; ++i) order_[i] = static_cast<int>(i);
    std::ranges::stable_sort(order_, {}, [&](int i) { return row_of(i) / kMaxGraphRows; });
    for (size_t begin = 0, end = 0; begin < count; begin = end) {
      const int block = row_of(order_[begin]) / kMaxGraphRows;
      while (end < count && row_of(order_[end]) / kMaxGraphRows == block) ++end;
      compute_logits(block);
      collect_times();
      const auto start = std::chrono::steady_clock::now();
      body(std::span<const int>(order_).subspan(begin, end - begin), block_rows(block), block * kMaxGraphRows);
      if (options_.profile) {
        sampling_ns_ +=
            std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
      }
    }
  }

  // With `profile`: waits for the last step and adds its times up.
  void collect_times() {
    if (!times_are_due_) return;
    times_are_due_ = false;
    stream_.synchronize();
    timer_.collect();
  }

  BackendOptions options_;
  DeviceGuard device_;
  cuda::Stream stream_;
  cuda::StageTimer timer_;
  CudaLlamaWeights weights_;
  CudaKvCache kv_;
  CudaOps ops_;
  BackendInfo info_;
  std::map<GraphKey, std::unique_ptr<cuda::Graph>> graphs_;
  size_t graph_marks_ = 0;  // of timer_, the same in every graph
  StepBatch padded_;
  bool plan_is_appended_ = false;  // the next step runs the plan of the last, appended to

  const __nv_bfloat16* hidden_ = nullptr;  // [num_logits, hidden_size] of a step without a graph, in ops_'s buffers
  int num_logits_ = 0;
  cuda::DeviceBuffer<float> logits_;  // [kMaxGraphRows, vocab_size]
  int logits_block_ = kNoBlock;       // whose rows logits_ holds
  CudaSampler sampler_;
  bool times_are_due_ = false;
  int64_t sampling_ns_ = 0;

  std::vector<int> order_;
  std::vector<SampleRequest> block_requests_;
  std::vector<SampledToken> block_results_;
  std::vector<int32_t> block_rows_, block_tokens_;
  std::vector<float> block_log_probs_;
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(const ModelSpec& spec, const BackendOptions& options,
                                           const std::atomic<bool>& cancel) {
  return std::make_unique<CudaBackend>(spec, options, cancel);
}

}  // namespace deftree
