#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>

#include "common/error.h"
#include "model/tensor_table.h"

namespace deftree {
namespace {

[[noreturn]] void bad_model(const std::string& message) { throw Error(ErrorCode::kBadModel, message); }

// Puts the rows of q or k into Hugging Face's order.
void unpermute_rows(TensorBytes& source, int head_dim) {
  const std::span<const uint8_t> from = source.tensor.bytes;
  const size_t row_bytes = from.size() / static_cast<size_t>(source.tensor.rows);
  std::vector<uint8_t> bytes(from.size());
  for (int64_t row = 0; row < source.tensor.rows; ++row) {
    std::copy_n(from.data() + permuted_row(row, head_dim) * row_bytes, row_bytes, bytes.data() + row * row_bytes);
  }
  source.owned = std::move(bytes);
  source.tensor.bytes = source.owned;
}

// Packs tensors by name and lets go of their bytes in the file.
class Packer {
 public:
  Packer(const TensorTable& table, const ModelSpec& spec, ThreadPool& pool, const std::atomic<bool>& cancel)
      : table_(table), spec_(spec), pool_(pool), cancel_(cancel) {}

  LinearWeight linear(const std::string& name) const { return linear(std::vector{name}, 0); }

  LinearWeight qkv(int layer) const {
    return linear({layer_name(layer, "self_attn.q_proj.weight"), layer_name(layer, "self_attn.k_proj.weight"),
                   layer_name(layer, "self_attn.v_proj.weight")},
                  spec_.config.qk_permuted ? 2 : 0);
  }

  LinearWeight gate_up(int layer) const {
    return linear({layer_name(layer, "mlp.gate_proj.weight"), layer_name(layer, "mlp.up_proj.weight")}, 0);
  }

 private:
  // The rows of the first `num_permuted` tensors are put back into order.
  LinearWeight linear(const std::vector<std::string>& names, size_t num_permuted) const {
    if (cancel_.load(std::memory_order_relaxed)) throw Error(ErrorCode::kAborted, "loading the model was cancelled");
    std::vector<TensorBytes> owners;
    std::vector<SourceTensor> sources;
    for (const std::string& name : names) {
      owners.push_back(table_.source(name));
      if (owners.size() <= num_permuted) unpermute_rows(owners.back(), spec_.config.head_dim);
      sources.push_back(owners.back().tensor);
    }
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
  weights.rope_inverse_frequencies = load_rope_frequencies(spec.config, table);
  weights.embedding = pack.linear("model.embed_tokens.weight");
  for (int i = 0; i < spec.config.num_layers; ++i) {
    weights.layers.push_back({.attention_norm = table.floats(layer_name(i, "input_layernorm.weight")),
                              .qkv = pack.qkv(i),
                              .attention_out = pack.linear(layer_name(i, "self_attn.o_proj.weight")),
                              .mlp_norm = table.floats(layer_name(i, "post_attention_layernorm.weight")),
                              .gate_up = pack.gate_up(i),
                              .down = pack.linear(layer_name(i, "mlp.down_proj.weight"))});
  }
  weights.final_norm = table.floats("model.norm.weight");
  if (!spec.config.tie_word_embeddings) weights.untied_lm_head = pack.linear("lm_head.weight");
  return weights;
}

}  // namespace deftree
