#include "model/weights.h"

#include <filesystem>
#include <functional>
#include <limits>
#include <string>

#include "common/error.h"
#include "common/test.h"
#include "model/llama_fixture.h"

using namespace deftree;
using deftree::test::ModelFile;

namespace {

LlamaConfig tiny_config() {
  LlamaConfig config{};
  config.num_layers = 2;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_qo_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 64;
  config.vocab_size = 40;
  config.context_len = 128;
  config.rope_theta = 10000;
  config.rms_norm_eps = 1e-5;
  config.tie_word_embeddings = false;
  return config;
}

LlamaWeights load(const ModelSpec& spec) {
  ThreadPool pool(2);
  const std::atomic<bool> never{false};
  return load_weights(spec, pool, never);
}

// What load() throws, or "" when it does not; fails on another code than kBadModel.
std::string bad_model_message(const ModelSpec& spec) {
  try {
    load(spec);
  } catch (const Error& error) {
    CHECK_EQ(error_code_name(error.code()), std::string("E_BAD_MODEL"));
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TensorEntry& tensor(ModelSpec& spec, const std::string& name) {
  for (TensorEntry& entry : spec.tensors) {
    if (entry.name == name) return entry;
  }
  throw test::Stop{};
}

}  // namespace

TEST(weights_load_packs_all_tensors) {
  const ModelFile file = ModelFile::write(tiny_config(), DType::kF32);
  const LlamaWeights weights = load(file.spec);
  REQUIRE(weights.layers.size() == 2);
  CHECK_EQ(weights.layers[1].qkv.out_features(), 256);
  CHECK_EQ(weights.layers[1].gate_up.out_features(), 192);
  CHECK_EQ(weights.layers[1].down.in_features(), 96);
  CHECK(&weights.lm_head() != &weights.embedding);
  CHECK(weights.bytes() >= 4u * (2 * 40 * 64 + 2 * (256 * 64 + 64 * 128 + 3 * 96 * 64)));

  // Rows of a packed group stand in the order of the sources.
  std::vector<float> row(64);
  weights.layers[1].qkv.dequantize_row(128 + 3, row.data());
  const std::vector<float> k = test::formula_weights("model.layers.1.self_attn.k_proj.weight", {64, 64});
  for (int i = 0; i < 64; ++i) CHECK_EQ(row[i], k[3 * 64 + i]);
}

TEST(weights_tied_embeddings_share_the_packed_matrix_and_ignore_an_lm_head) {
  LlamaConfig config = tiny_config();
  ModelFile file = ModelFile::write(config, DType::kF32);
  file.spec.config.tie_word_embeddings = true;
  const LlamaWeights weights = load(file.spec);
  CHECK(&weights.lm_head() == &weights.embedding);
}

TEST(weights_refuse_a_table_that_contradicts_the_config) {
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  struct Lie {
    const char* what;
    std::function<void(ModelSpec&)> tell;
    std::string message;  // a part of it
  };
  const std::vector<Lie> lies = {
      {"missing", [&](ModelSpec& s) { tensor(s, q).name = "model.norm.weights"; }, q + "\": is missing"},
      {"twice", [&](ModelSpec& s) { s.tensors.push_back(tensor(s, q)); }, q + "\": is in the table twice"},
      {"unknown",
       [&](ModelSpec& s) {
         s.tensors.push_back({"model.layers.0.self_attn.q_proj.bias", 0, 0, 512, DType::kF32, {128}});
       },
       "q_proj.bias\": is not part of a Llama model"},
      {"shape", [&](ModelSpec& s) { tensor(s, q).shape = {64, 128}; },
       q + "\": shape is [64, 128], the config implies [128, 64]"},
      {"rank", [&](ModelSpec& s) { tensor(s, q).shape = {128 * 64}; }, "shape is [8192]"},
      {"no shape", [&](ModelSpec& s) { tensor(s, q).shape = {}; }, "shape is []"},
      {"overflowing shape", [&](ModelSpec& s) { tensor(s, q).shape = {int64_t{1} << 32, int64_t{1} << 32}; },
       "shape is [4294967296"},
      {"negative shape", [&](ModelSpec& s) { tensor(s, q).shape = {-128, -64}; }, "shape is [-128"},
      {"bytes", [&](ModelSpec& s) { tensor(s, q).bytes -= 4; },
       q + "\": has 32764 bytes, [128, 64] of F32 takes 32768"},
      {"dtype", [&](ModelSpec& s) { tensor(s, q).dtype = DType::kBf16; }, "takes 16384"},
      {"blocks", [&](ModelSpec& s) { tensor(s, q).dtype = DType::kQ4_K; },
       "64 columns are not whole blocks of Q4_K (256)"},
      {"file", [&](ModelSpec& s) { tensor(s, q).file = 1; }, "is in file 1 of 1"},
      {"negative file", [&](ModelSpec& s) { tensor(s, q).file = -1; }, "is in file -1 of 1"},
      {"offset", [&](ModelSpec& s) { tensor(s, q).offset = std::numeric_limits<uint64_t>::max() - 8; },
       "reach past the end"},
      {"truncated", [](ModelSpec& s) { std::filesystem::resize_file(s.files[0], 30000); }, "may be truncated"},
      {"no file", [](ModelSpec& s) { s.files = {"/nonexistent/x"}; }, "cannot open"},
  };
  for (const Lie& lie : lies) {
    ModelFile file = ModelFile::write(tiny_config(), DType::kF32);
    const std::vector<std::string> own_files = file.spec.files;
    lie.tell(file.spec);
    const std::string message = bad_model_message(file.spec);
    if (!has(message, lie.message)) test::fail(__FILE__, __LINE__, std::string(lie.what) + ": " + message);
    file.spec.files = own_files;
  }
}

TEST(weights_refuse_a_config_out_of_range) {
  const std::vector<std::function<void(LlamaConfig&)>> lies = {
      [](LlamaConfig& c) { c.num_layers = 0; },
      [](LlamaConfig& c) { c.num_layers = 1025; },
      [](LlamaConfig& c) { c.hidden_size = -64; },
      [](LlamaConfig& c) { c.intermediate_size = std::numeric_limits<int32_t>::max(); },
      [](LlamaConfig& c) { c.num_qo_heads = 3, c.num_kv_heads = 2; },
      [](LlamaConfig& c) { c.num_kv_heads = 0; },
      [](LlamaConfig& c) { c.head_dim = 96; },
      [](LlamaConfig& c) { c.vocab_size = (1 << 22) + 1; },
      [](LlamaConfig& c) { c.context_len = 0; },
      [](LlamaConfig& c) { c.rope_theta = std::numeric_limits<double>::quiet_NaN(); },
      [](LlamaConfig& c) { c.rope_theta = 0; },
      [](LlamaConfig& c) { c.rms_norm_eps = -1; },
      [](LlamaConfig& c) { c.rope_scaling = Llama3RopeScaling{0, 1, 4, 8192}; },
      [](LlamaConfig& c) { c.rope_scaling = Llama3RopeScaling{8, 4, 4, 8192}; },
      [](LlamaConfig& c) { c.rope_scaling = Llama3RopeScaling{8, 1, 4, 0}; },
  };
  check_config(tiny_config());
  for (const auto& lie : lies) {
    LlamaConfig config = tiny_config();
    lie(config);
    CHECK_ERROR(check_config(config), ErrorCode::kBadModel);
  }
}

TEST(weights_take_gguf_rope_factors_or_scaling_not_both) {
  ModelFile file = ModelFile::write(tiny_config(), DType::kF32);
  // 32 floats of a norm (all in [0.5, 1.5]) serve as factors.
  const uint64_t offset = tensor(file.spec, "model.norm.weight").offset;
  file.spec.tensors.push_back({"rope_freqs.weight", 0, offset, 128, DType::kF32, {32}});
  const LlamaWeights weights = load(file.spec);
  const std::vector<float> factors = test::formula_weights("model.norm.weight", {64});
  CHECK_NEAR(weights.rope_inverse_frequencies[16], 0.01 / factors[16], 1e-9);
  file.spec.config.rope_scaling = Llama3RopeScaling{8, 1, 4, 64};
  CHECK(has(bad_model_message(file.spec), "rope_freqs.weight"));
}

TEST(weights_load_ends_when_cancelled) {
  const ModelFile file = ModelFile::write(tiny_config(), DType::kF32);
  ThreadPool pool(1);
  const std::atomic<bool> cancelled{true};
  CHECK_ERROR(load_weights(file.spec, pool, cancelled), ErrorCode::kAborted);
}

TEST(weights_from_a_seed_are_the_same_each_time_and_keep_the_size_of_what_goes_through) {
  ModelSpec spec;
  spec.config = tiny_config();
  spec.random_seed = 5;
  const LlamaWeights weights = load(spec), again = load(spec);
  spec.random_seed = 6;
  const LlamaWeights other = load(spec);
  const LinearWeight& down = weights.layers[0].down;
  CHECK(down.format() == WeightFormat::kBf16);
  std::vector<float> row(down.in_features()), row_again(row), row_other(row);
  double squares = 0;
  for (int i = 0; i < down.out_features(); ++i) {
    down.dequantize_row(i, row.data());
    again.layers[0].down.dequantize_row(i, row_again.data());
    other.layers[0].down.dequantize_row(i, row_other.data());
    CHECK(row == row_again);
    CHECK(row != row_other);
    for (const float value : row) squares += value * value;
  }
  // The mean of a few thousand squares of variance 1 / in_features.
  CHECK_NEAR(squares / down.out_features(), 1, 0.1);

  spec.files = {"model.safetensors"};
  CHECK_ERROR(load(spec), ErrorCode::kBadArgument);
}
