#include "model/tensor_table.h"

#include <cmath>

#include "common/error.h"
#include "model/rope.h"

namespace deftree {
namespace {

using Shape = std::vector<int64_t>;

constexpr const char* kRopeFactors = "rope_freqs.weight";

[[noreturn]] void bad_tensor(std::string_view name, const std::string& what) {
  throw Error(ErrorCode::kBadModel, "tensor \"" + std::string(name) + "\": " + what);
}

std::string to_text(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

uint64_t hash_name(uint64_t seed, std::string_view name) {
  for (const char c : name) seed = (seed ^ static_cast<uint8_t>(c)) * 0x100000001b3u;  // FNV-1a
  return seed;
}

}  // namespace

TensorTable::TensorTable(const ModelSpec& spec) : spec_(spec) {
  if (is_random() && !(spec.files.empty() && spec.tensors.empty() && !spec.config.qk_permuted)) {
    throw Error(ErrorCode::kBadArgument, "a model of random weights has no files, no tensors and no permuted rows");
  }
  for (const std::string& path : spec.files) files_.emplace_back(path);
  for (const TensorEntry& tensor : spec.tensors) {
    if (!by_name_.emplace(tensor.name, tensor).second) bad_tensor(tensor.name, "is in the table twice");
  }
}

void TensorTable::expect(const std::string& name, const Shape& shape) {
  if (is_random()) {
    uint64_t bytes = 2;
    for (const int64_t dim : shape) bytes *= static_cast<uint64_t>(dim);
    by_name_[name] = {.name = name, .file = -1, .offset = 0, .bytes = bytes, .dtype = DType::kBf16, .shape = shape};
    return;
  }
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

void TensorTable::expect_no_other() const {
  if (is_random() || expected_.size() == by_name_.size()) return;
  std::unordered_map<std::string_view, const TensorEntry*> rest;
  for (const auto& [name, tensor] : by_name_) rest.emplace(name, &tensor);
  for (const std::string& name : expected_) rest.erase(name);
  for (const auto& [name, tensor] : rest) {
    if (name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight") continue;
    bad_tensor(name, "is not part of a Llama model");
  }
}

TensorBytes TensorTable::source(const std::string& name) const {
  const TensorEntry& tensor = find(name);
  const int64_t cols = tensor.shape.back();
  const int64_t rows = tensor.shape.size() == 1 ? 1 : tensor.shape[0];
  if (!is_random()) {
    return {.tensor = {tensor.dtype, rows, cols, files_[tensor.file].bytes(tensor.offset, tensor.bytes)}, .owned = {}};
  }
  TensorBytes result{.tensor = {tensor.dtype, rows, cols, {}}, .owned = std::vector<uint8_t>(tensor.bytes)};
  const RandomTensor values = random(name);
  for (uint64_t i = 0; i < tensor.bytes / 2; ++i) {
    const uint16_t bits = f32_to_bf16(values.offset + values.scale * static_cast<float>(random_code(values.seed, i)));
    result.owned[2 * i] = static_cast<uint8_t>(bits);
    result.owned[2 * i + 1] = static_cast<uint8_t>(bits >> 8);
  }
  result.tensor.bytes = result.owned;
  return result;
}

// Matrices keep the size of what goes through them; norms are near one.
RandomTensor TensorTable::random(const std::string& name) const {
  const TensorEntry& tensor = find(name);
  const uint64_t seed = hash_name(*spec_.random_seed, name);
  if (tensor.shape.size() == 1) return {.seed = seed, .scale = 0.1f / kRandomCodeDeviation, .offset = 1};
  const double in_features = static_cast<double>(tensor.shape.back());
  return {.seed = seed, .scale = static_cast<float>(1 / (kRandomCodeDeviation * std::sqrt(in_features))), .offset = 0};
}

std::vector<float> TensorTable::floats(const std::string& name) const {
  const TensorBytes bytes = source(name);
  std::vector<float> values(static_cast<size_t>(bytes.tensor.rows * bytes.tensor.cols));
  dequantize(bytes.tensor.dtype, bytes.tensor.bytes, values);
  return values;
}

void TensorTable::release(const std::string& name) const {
  if (is_random()) return;
  const TensorEntry& tensor = find(name);
  files_[tensor.file].release(tensor.offset, tensor.bytes);
}

const TensorEntry& TensorTable::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) bad_tensor(name, "is missing");
  return found->second;
}

std::string layer_name(int layer, const char* rest) { return "model.layers." + std::to_string(layer) + "." + rest; }

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

std::vector<double> load_rope_frequencies(const LlamaConfig& config, const TensorTable& table) {
  std::vector<double> frequencies = rope_inverse_frequencies(config);
  if (!table.has(kRopeFactors)) return frequencies;
  const std::vector<float> factors = table.floats(kRopeFactors);
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] > 0)) bad_tensor(kRopeFactors, "holds a factor that is not positive");
    frequencies[i] /= factors[i];
  }
  return frequencies;
}

int64_t permuted_row(int64_t row, int head_dim) {
  const int64_t head = row / head_dim, in_head = row % head_dim;
  return head * head_dim + 2 * (in_head % (head_dim / 2)) + in_head / (head_dim / 2);
}

}  // namespace deftree
