#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "common/error.h"
#include "model/mapped_file.h"
#include "model/rope.h"

namespace deftree {
namespace {

using Shape = std::vector<int64_t>;

[[noreturn]] void bad_model(const std::string& message) { throw Error(ErrorCode::kBadModel, message); }

[[noreturn]] void bad_tensor(std::string_view name, const std::string& what) {
  bad_model("tensor \"" + std::string(name) + "\": " + what);
}

std::string to_text(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// The tensors of a spec by name, each checked when it is asked for the first time.
class TensorTable {
 public:
  explicit TensorTable(const ModelSpec& spec) {
    for (const std::string& path : spec.files) files_.emplace_back(path);
    for (const TensorEntry& tensor : spec.tensors) {
      if (!by_name_.emplace(tensor.name, &tensor).second) bad_tensor(tensor.name, "is in the table twice");
    }
  }

  bool has(const std::string& name) const { return by_name_.contains(name); }

  // `shape` comes from a checked config, so its product cannot overflow.
  void expect(const std::string& name, const Shape& shape) {
    const TensorEntry& tensor = find(name);
    if (tensor.shape != shape) {
      bad_tensor(name, "shape is " + to_text(tensor.shape) + ", the config implies " + to_text(shape));
    }
    const DTypeInfo& type = dtype_info(tensor.dtype);
    if (shape.back() % type.block_len != 0) {
      bad_tensor(name, "its " + std::to_string(shape.back()) + " columns are not whole blocks of " +
                           std::string(type.name) + " (" + std::to_string(type.block_len) + ")");
    }
    uint64_t bytes = static_cast<uint64_t>(type.block_bytes);
    for (const int64_t dim : shape) bytes *= static_cast<uint64_t>(dim);
    bytes /= static_cast<uint64_t>(type.block_len);
    if (tensor.bytes != bytes) {
      bad_tensor(name, "has " + std::to_string(tensor.bytes) + " bytes, " + to_text(shape) + " of " +
                           std::string(type.name) + " takes " + std::to_string(bytes));
    }
    if (tensor.file < 0 || tensor.file >= static_cast<int32_t>(files_.size())) {
      bad_tensor(name, "is in file " + std::to_string(tensor.file) + " of " + std::to_string(files_.size()));
    }
    const MappedFile& file = files_[tensor.file];
    if (!file.contains(tensor.offset, tensor.bytes)) {
      bad_tensor(name, "bytes " + std::to_string(tensor.offset) + " + " + std::to_string(tensor.bytes) +
                           " reach past the end of \"" + file.path() + "\" at " + std::to_string(file.size()) +
                           "; the file may be truncated");
    }
    expected_.push_back(name);
  }

  // After all expect() calls: throws for a tensor that none named.
  void expect_no_other() const {
    if (expected_.size() == by_name_.size()) return;
    std::unordered_map<std::string_view, const TensorEntry*> rest = by_name_;
    for (const std::string& name : expected_) rest.erase(name);
    for (const auto& [name, tensor] : rest) {
      if (name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight") continue;
      bad_tensor(name, "is not part of a Llama model");
    }
  }

  SourceTensor source(const std::string& name) const {
    const TensorEntry& tensor = find(name);
    const int64_t cols = tensor.shape.back();
    const int64_t rows = tensor.shape.size() == 1 ? 1 : tensor.shape[0];
    return {tensor.dtype, rows, cols, files_[tensor.file].bytes(tensor.offset, tensor.bytes)};
  }

  void release(const std::string& name) const {
    const TensorEntry& tensor = find(name);
    files_[tensor.file].release(tensor.offset, tensor.bytes);
  }

 private:
  const TensorEntry& find(const std::string& name) const {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) bad_tensor(name, "is missing");
    return *found->second;
  }

  std::vector<MappedFile> files_;
  std::unordered_map<std::string_view, const TensorEntry*> by_name_;
  std::vector<std::string> expected_;
};

std::string layer_name(int layer, const char* rest) { return "model.layers." + std::to_string(layer) + "." + rest; }

constexpr const char* kRopeFactors = "rope_freqs.weight";

void check_tensors(const LlamaConfig& config, TensorTable& table) {
  const int64_t hidden = config.hidden_size, intermediate = config.intermediate_size, vocab = config.vocab_size;
  const int64_t q = int64_t{config.num_qo_heads} * config.head_dim, kv = int64_t{config.num_kv_heads} * config.head_dim;
  table.expect("model.embed_tokens.weight", {vocab, hidden});
  for (int i = 0; i < config.num_layers; ++i) {
    table.expect(layer_name(i, "input_layernorm.weight"), {hidden});
    table.expect(layer_name(i, "self_attn.q_proj.weight"), {q, hidden});
    table.expect(layer_name(i, "self_attn.k_proj.weight"), {kv, hidden});
    table.expect(layer_name(i, "self_attn.v_proj.weight"), {kv, hidden});
    table.expect(layer_name(i, "self_attn.o_proj.weight"), {hidden, q});
    table.expect(layer_name(i, "post_attention_layernorm.weight"), {hidden});
    table.expect(layer_name(i, "mlp.gate_proj.weight"), {intermediate, hidden});
    table.expect(layer_name(i, "mlp.up_proj.weight"), {intermediate, hidden});
    table.expect(layer_name(i, "mlp.down_proj.weight"), {hidden, intermediate});
  }
  table.expect("model.norm.weight", {hidden});
  if (!config.tie_word_embeddings) table.expect("lm_head.weight", {vocab, hidden});
  if (table.has(kRopeFactors)) {
    if (config.rope_scaling) bad_tensor(kRopeFactors, "stands beside rope_scaling in the config; only one may");
    table.expect(kRopeFactors, {config.head_dim / 2});
  }
  table.expect_no_other();
}

std::vector<float> to_floats(const SourceTensor& source) {
  std::vector<float> values(static_cast<size_t>(source.rows * source.cols));
  dequantize(source.dtype, source.bytes, values);
  return values;
}

// GGUF's converter stores rows i and i + head_dim / 2 of each head of q and k as rows 2i and 2i + 1.
std::vector<uint8_t> unpermute_rows(const SourceTensor& source, int head_dim) {
  const size_t row_bytes = source.bytes.size() / static_cast<size_t>(source.rows);
  std::vector<uint8_t> bytes(source.bytes.size());
  for (int64_t row = 0; row < source.rows; ++row) {
    const int64_t head = row / head_dim, in_head = row % head_dim;
    const int64_t half = in_head / (head_dim / 2), i = in_head % (head_dim / 2);
    const int64_t from = head * head_dim + 2 * i + half;
    std::copy_n(source.bytes.data() + from * row_bytes, row_bytes, bytes.data() + row * row_bytes);
  }
  return bytes;
}

// Packs tensors by name and lets go of their bytes in the file.
class Packer {
 public:
  Packer(const TensorTable& table, const ModelSpec& spec, ThreadPool& pool, const std::atomic<bool>& cancel)
      : table_(table), spec_(spec), pool_(pool), cancel_(cancel) {}

  std::vector<float> norm(const std::string& name) const { return to_floats(table_.source(name)); }

  LinearWeight linear(const std::string& name) const { return linear(std::vector{table_.source(name)}, {name}); }

  LinearWeight qkv(int layer) const {
    const std::vector<std::string> names = {layer_name(layer, "self_attn.q_proj.weight"),
                                            layer_name(layer, "self_attn.k_proj.weight"),
                                            layer_name(layer, "self_attn.v_proj.weight")};
    std::vector<SourceTensor> sources = {table_.source(names[0]), table_.source(names[1]), table_.source(names[2])};
    std::vector<uint8_t> q_rows, k_rows;
    if (spec_.config.qk_permuted) {
      sources[0].bytes = q_rows = unpermute_rows(sources[0], spec_.config.head_dim);
      sources[1].bytes = k_rows = unpermute_rows(sources[1], spec_.config.head_dim);
    }
    return linear(sources, names);
  }

  LinearWeight gate_up(int layer) const {
    const std::vector<std::string> names = {layer_name(layer, "mlp.gate_proj.weight"),
                                            layer_name(layer, "mlp.up_proj.weight")};
    return linear({table_.source(names[0]), table_.source(names[1])}, names);
  }

 private:
  LinearWeight linear(const std::vector<SourceTensor>& sources, const std::vector<std::string>& names) const {
    if (cancel_.load(std::memory_order_relaxed)) throw Error(ErrorCode::kAborted, "loading the model was cancelled");
    const WeightFormat format = choose_weight_format(sources, spec_.weights);
    LinearWeight weight = LinearWeight::pack(sources, format, pool_);
    for (const std::string& name : names) table_.release(name);
    return weight;
  }

  const TensorTable& table_;
  const ModelSpec& spec_;
  ThreadPool& pool_;
  const std::atomic<bool>& cancel_;
};

struct IntRange {
  const char* name;
  int32_t value, min, max;
};

}  // namespace

uint64_t LlamaWeights::bytes() const {
  uint64_t sum = embedding.bytes() + (untied_lm_head ? untied_lm_head->bytes() : 0) + final_norm.size() * sizeof(float);
  for (const LlamaLayerWeights& layer : layers) {
    sum += layer.qkv.bytes() + layer.attention_out.bytes() + layer.gate_up.bytes() + layer.down.bytes();
    sum += (layer.attention_norm.size() + layer.mlp_norm.size()) * sizeof(float);
  }
  return sum;
}

void check_config(const LlamaConfig& config) {
  for (const IntRange& range :
       {IntRange{"num_layers", config.num_layers, 1, 1024}, IntRange{"hidden_size", config.hidden_size, 32, 1 << 17},
        IntRange{"intermediate_size", config.intermediate_size, 32, 1 << 20},
        IntRange{"num_qo_heads", config.num_qo_heads, 1, 1024}, IntRange{"num_kv_heads", config.num_kv_heads, 1, 1024},
        IntRange{"head_dim", config.head_dim, 64, 128}, IntRange{"vocab_size", config.vocab_size, 1, 1 << 22},
        IntRange{"context_len", config.context_len, 1, 1 << 24}}) {
    if (range.value >= range.min && range.value <= range.max) continue;
    bad_model("config: " + std::string(range.name) + " is " + std::to_string(range.value) + ", supported are " +
              std::to_string(range.min) + " to " + std::to_string(range.max));
  }
  if (config.head_dim != 64 && config.head_dim != 128) {
    bad_model("config: head_dim is " + std::to_string(config.head_dim) + ", supported are 64 and 128");
  }
  if (config.num_qo_heads % config.num_kv_heads != 0) {
    bad_model("config: " + std::to_string(config.num_qo_heads) + " query heads do not divide among " +
              std::to_string(config.num_kv_heads) + " KV heads");
  }
  if (!(std::isfinite(config.rope_theta) && config.rope_theta > 1)) bad_model("config: rope_theta must be above 1");
  if (!(config.rms_norm_eps >= 0 && config.rms_norm_eps < 1)) bad_model("config: rms_norm_eps must be in [0, 1)");
  if (config.rope_scaling) {
    const Llama3RopeScaling& scaling = *config.rope_scaling;
    if (!(std::isfinite(scaling.factor) && scaling.factor > 0))
      bad_model("config: rope_scaling factor must be positive");
    if (!(std::isfinite(scaling.high_freq_factor) && scaling.low_freq_factor > 0 &&
          scaling.high_freq_factor > scaling.low_freq_factor)) {
      bad_model("config: rope_scaling needs 0 < low_freq_factor < high_freq_factor");
    }
    if (scaling.original_context_len < 1) bad_model("config: rope_scaling original_context_len must be positive");
  }
}

LlamaWeights load_weights(const ModelSpec& spec, ThreadPool& pool, const std::atomic<bool>& cancel) {
  check_config(spec.config);
  TensorTable table(spec);
  check_tensors(spec.config, table);

  const Packer pack(table, spec, pool, cancel);
  LlamaWeights weights;
  weights.config = spec.config;
  weights.rope_inverse_frequencies = rope_inverse_frequencies(spec.config);
  if (table.has(kRopeFactors)) {
    const std::vector<float> factors = to_floats(table.source(kRopeFactors));
    for (size_t i = 0; i < factors.size(); ++i) {
      if (!(factors[i] > 0)) bad_tensor(kRopeFactors, "holds a factor that is not positive");
      weights.rope_inverse_frequencies[i] /= factors[i];
    }
  }
  weights.embedding = pack.linear("model.embed_tokens.weight");
  for (int i = 0; i < spec.config.num_layers; ++i) {
    weights.layers.push_back({.attention_norm = pack.norm(layer_name(i, "input_layernorm.weight")),
                              .qkv = pack.qkv(i),
                              .attention_out = pack.linear(layer_name(i, "self_attn.o_proj.weight")),
                              .mlp_norm = pack.norm(layer_name(i, "post_attention_layernorm.weight")),
                              .gate_up = pack.gate_up(i),
                              .down = pack.linear(layer_name(i, "mlp.down_proj.weight"))});
  }
  weights.final_norm = pack.norm("model.norm.weight");
  if (!spec.config.tie_word_embeddings) weights.untied_lm_head = pack.linear("lm_head.weight");
  return weights;
}

}  // namespace deftree
