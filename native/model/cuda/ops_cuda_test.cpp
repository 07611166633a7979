#include "model/cuda/ops_cuda.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "attention/plan.h"
#include "cache/tree_cache.h"
#include "common/error.h"
#include "common/test.h"
#include "cuda/gpu_test.h"
#include "model/cuda/kv_cache_cuda.h"
#include "model/dtype.h"
#include "model/llama.h"
#include "model/rope.h"
#include "model/tensor_table.h"

using namespace deftree;
using deftree::test::has_gpu;

namespace {

constexpr int kNumPages = 32, kMaxRows = 160;
constexpr double kBf16Ulp = 1.0 / 128;  // rounding to bf16 is off by half of it
const std::atomic<bool> kNever{false};

ModelSpec spec_of(int head_dim) {
  ModelSpec spec;
  spec.config = {.num_layers = 2,
                 .hidden_size = 520,
                 .intermediate_size = 1096,
                 .num_qo_heads = 6,
                 .num_kv_heads = 2,
                 .head_dim = head_dim,
                 .vocab_size = 300,
                 .context_len = 200000,
                 .rope_theta = 500000,
                 .rms_norm_eps = 1e-5,
                 .tie_word_embeddings = true,
                 .rope_scaling = Llama3RopeScaling{8, 1, 4, 8192}};
  spec.random_seed = 3;
  return spec;
}

template <class T>
cuda::DeviceBuffer<T> upload(const std::vector<T>& values) {
  cuda::DeviceBuffer<T> buffer(values.size());
  cuda::check(cudaMemcpy(buffer.data(), values.data(), buffer.bytes(), cudaMemcpyHostToDevice), "copy");
  return buffer;
}
template <class T>
std::vector<T> download(const T* data, size_t size) {
  std::vector<T> values(size);
  cuda::check(cudaMemcpy(values.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost), "copy");
  return values;
}
std::vector<float> download(const __nv_bfloat16* data, size_t size) {
  std::vector<float> values;
  for (const uint16_t bits : download(reinterpret_cast<const uint16_t*>(data), size))
    values.push_back(bf16_to_f32(bits));
  return values;
}

std::vector<float> random_values(size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

struct Model {
  ModelSpec spec;
  CudaLlamaWeights weights;
  CudaKvCache kv;
  cuda::Stream stream;
  CudaOps ops;

  explicit Model(int head_dim = 64)
      : spec(spec_of(head_dim)),
        weights(load_cuda_weights(spec, 0, kNever)),
        kv({6, 2, head_dim, 16}, spec.config.num_layers, kNumPages, 0xff),
        ops(weights, kv.layers(), kv.shape(), 0, kMaxRows, stream, nullptr) {
    cuda::check(cudaDeviceSynchronize(), "load");
  }
};

// A product's result in either form, and its values. Parts of a tile are written, all else is NaN.
struct Sum {
  std::vector<double> y;  // [num_rows, out_features]
  cuda::DeviceBuffer<float> parts;
  cuda::DeviceBuffer<uint16_t> values;
  LinearSum view{};

  Sum(int num_rows, int out_features, bool in_parts, std::mt19937& random) : y(size_t(num_rows) * out_features) {
    view.num_rows = num_rows;
    view.out_features = out_features;
    if (!in_parts) {
      std::vector<uint16_t> bits;
      const std::vector<float> from = random_values(y.size(), random);
      for (size_t i = 0; i < y.size(); ++i) {
        bits.push_back(f32_to_bf16(from[i]));
        y[i] = bf16_to_f32(bits[i]);
      }
      values = upload(bits);
      view.values = reinterpret_cast<const __nv_bfloat16*>(values.data());
      return;
    }
    constexpr int kTile = 64, kUnits = 5, kWorkersPerTile = 3;
    const int num_tiles = (out_features + kTile - 1) / kTile;
    view.tile_features = kTile;
    view.units_per_tile = kUnits;
    view.num_units = num_tiles * kUnits;
    view.num_workers = num_tiles * kWorkersPerTile + 1;
    std::vector<float> all(6 * y.size(), std::numeric_limits<float>::quiet_NaN());
    for (int tile = 0; tile < num_tiles; ++tile) {
      // As LinearSum defines it: worker w begins at unit floor(w * units / workers).
      const auto worker_of = [&](int unit) {
        int worker = 0;
        while ((worker + 1) * view.num_units / view.num_workers <= unit) ++worker;
        return worker;
      };
      const int num_parts = worker_of(tile * kUnits + kUnits - 1) - worker_of(tile * kUnits) + 1;
      for (int part = 0; part < num_parts; ++part) {
        for (int row = 0; row < num_rows; ++row) {
          for (int f = tile * kTile; f < std::min((tile + 1) * kTile, out_features); ++f) {
            const size_t at = size_t(row) * out_features + f;
            all[part * y.size() + at] = random_values(1, random)[0];
            y[at] += all[part * y.size() + at];
          }
        }
      }
    }
    parts = upload(all);
    view.parts = parts.data();
  }
};

void check_near(const std::vector<float>& got, const std::vector<double>& expected, double relative, const char* what) {
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::abs(got[i] - expected[i]) <= relative * std::abs(expected[i]) + 1e-6) continue;
    test::fail(__FILE__, __LINE__,
               std::string(what) + ", value " + std::to_string(i) + ": " + std::to_string(got[i]) + " vs " +
                   std::to_string(expected[i]));
    return;
  }
}

// Rows as begin_step wants them, with slots that leave gaps and a row without one.
StepBatch some_rows(int num_rows) {
  StepBatch batch;
  for (int i = 0; i < num_rows; ++i) {
    batch.tokens.push_back(i * 97 % 300);
    batch.positions.push_back(i == 0 ? 0 : i * 7919 % 190000);
    batch.slots.push_back(i == 3 ? -1 : i * 3 + 1);
  }
  return batch;
}

void check_norms(Model& m, int num_rows, bool in_parts, std::mt19937& random) {
  const int width = m.spec.config.hidden_size;
  const std::vector<float> x = random_values(size_t(num_rows) * width, random);
  const std::vector<float> weight = download(m.weights.final_norm, width);
  const auto device_x = upload(x);
  Sum added(num_rows, width, in_parts, random);
  CudaActivations a = m.ops.activations(num_rows);
  a.x = device_x.data();
  a.out = added.view;
  for (const bool adds : {false, true}) {
    adds ? m.ops.add_rms_norm(a, m.weights.final_norm, num_rows)
         : m.ops.rms_norm(a.x, m.weights.final_norm, num_rows, a.h);
    m.stream.synchronize();
    std::vector<double> sum(x.begin(), x.end()), expected(x.size());
    for (int row = 0; row < num_rows; ++row) {
      double squares = 0;
      for (int i = 0; i < width; ++i) {
        double& value = sum[size_t(row) * width + i];
        if (adds) value += added.y[size_t(row) * width + i];
        squares += value * value;
      }
      for (int i = 0; i < width; ++i)
        expected[size_t(row) * width + i] =
            sum[size_t(row) * width + i] / std::sqrt(squares / width + m.spec.config.rms_norm_eps) * weight[i];
    }
    check_near(download(a.x, x.size()), sum, 1e-6, "residual stream");
    check_near(download(a.h, x.size()), expected, kBf16Ulp / 2 + 1e-5, "norm");
  }
}

void check_silu(Model& m, int num_rows, bool in_parts, std::mt19937& random) {
  const int width = m.spec.config.intermediate_size;
  Sum gate_up(num_rows, 2 * width, in_parts, random);
  CudaActivations a = m.ops.activations(num_rows);
  a.gate_up = gate_up.view;
  m.ops.silu_mul(a, num_rows);
  m.stream.synchronize();
  std::vector<double> expected;
  for (int row = 0; row < num_rows; ++row) {
    for (int i = 0; i < width; ++i) {
      const double gate = gate_up.y[size_t(row) * 2 * width + i], up = gate_up.y[size_t(row) * 2 * width + width + i];
      expected.push_back(gate / (1 + std::exp(-gate)) * up);
    }
  }
  check_near(download(a.mlp, expected.size()), expected, kBf16Ulp / 2 + 1e-5, "silu");
}

void check_rope(int head_dim, int num_rows, bool in_parts, std::mt19937& random) {
  Model m(head_dim);
  const LlamaConfig& config = m.spec.config;
  const int num_heads = config.num_qo_heads + 2 * config.num_kv_heads, half = head_dim / 2;
  const StepBatch batch = some_rows(num_rows);
  m.ops.begin_step(batch, {});
  Sum qkv(num_rows, num_heads * head_dim, in_parts, random);
  CudaActivations a = m.ops.activations(num_rows);
  a.qkv = qkv.view;
  m.ops.rope_angles(batch.positions, a);
  m.ops.rope_append_kv(1, a, batch.slots);
  m.stream.synchronize();
  const size_t page_values = size_t(kNumPages) * 16 * config.num_kv_heads * head_dim;
  const std::vector<float> q = download(a.q, size_t(num_rows) * config.num_qo_heads * head_dim);
  const std::vector<float> k = download(m.kv.layers()[1].k, page_values), v = download(m.kv.layers()[1].v, page_values);
  const std::vector<double> frequencies = rope_inverse_frequencies(config);
  std::vector<float> got;
  std::vector<double> expected;
  size_t num_written = 0;
  for (int row = 0; row < num_rows; ++row) {
    for (int head = 0; head < num_heads; ++head) {
      const bool is_q = head < config.num_qo_heads, is_v = head >= config.num_qo_heads + config.num_kv_heads;
      const int kv_head = (head - config.num_qo_heads) % config.num_kv_heads, slot = batch.slots[row];
      if (!is_q && slot < 0) continue;
      for (int dim = 0; dim < head_dim; ++dim) {
        const double* from = qkv.y.data() + (size_t(row) * num_heads + head) * head_dim;
        const double angle = batch.positions[row] * frequencies[dim % half];
        const double partner = dim < half ? -from[dim + half] : from[dim - half];
        expected.push_back(is_v ? from[dim] : from[dim] * std::cos(angle) + partner * std::sin(angle));
        const size_t at = is_q ? 0 : attention::cuda_kv_offset(m.kv.shape(), slot / 16, kv_head, slot % 16, dim);
        got.push_back(is_q ? q[(size_t(row) * config.num_qo_heads + head) * head_dim + dim] : is_v ? v[at] : k[at]);
        num_written += !is_q;
      }
    }
  }
  check_near(got, expected, kBf16Ulp / 2 + 1e-4, "rope");  // differences of near values lose a few bits of f32
  size_t num_numbers = 0;
  for (const float value : k) num_numbers += !std::isnan(value);
  for (const float value : v) num_numbers += !std::isnan(value);
  CHECK_EQ(num_numbers, num_written);  // all else still holds NaN
  for (const float value : download(m.kv.layers()[0].k, page_values)) REQUIRE(std::isnan(value));
}

// A prefilled trunk with `width` branches of one token each.
struct TreeStep {
  TreeCache cache{{.num_pages = kNumPages, .page_size = 16}};
  StepBatch prefill, step;
  attention::Plan prefill_plan, step_plan;

  TreeStep(const CudaOps& ops, int width) {
    const BranchId trunk = cache.create();
    std::vector<int32_t> tokens;
    for (int i = 0; i < 90; ++i) tokens.push_back(i * 31 % 300);
    cache.append(trunk, tokens);
    take({{trunk, 90}}, ops, prefill, prefill_plan);
    std::vector<StepBranch> branches;
    for (const BranchId branch : cache.fork(trunk, width)) {
      const int32_t token = branch % 300;
      cache.append(branch, {&token, 1});
      branches.push_back({branch, 1});
    }
    take(branches, ops, step, step_plan);
  }

 private:
  void take(const std::vector<StepBranch>& branches, const CudaOps& ops, StepBatch& batch, attention::Plan& plan) {
    const StepSnapshot snapshot = cache.snapshot(branches);
    for (const SnapshotQuery& query : snapshot.queries) {
      batch.logit_rows.push_back(batch.num_queries());
      batch.tokens.push_back(query.token);
      batch.positions.push_back(query.position);
      batch.slots.push_back(query.slot);
    }
    make_plan(snapshot.tree, attention::Policy::kDeftFlatten, ops.attention_shape(), ops.plan_device(), plan);
    for (const StepBranch& branch : branches) cache.commit(branch.branch);
  }
};

}  // namespace

TEST(ops_cuda_embedding_angles_and_gathering_are_exact) {
  if (!has_gpu()) return;
  Model m;
  const LlamaConfig& config = m.spec.config;
  StepBatch batch = some_rows(9);
  batch.logit_rows = {1, 4, 8};
  m.ops.begin_step(batch, {});
  CudaActivations a = m.ops.activations(9);
  m.ops.embed(m.weights.embedding, batch.tokens, a.x);
  m.ops.rope_angles(batch.positions, a);
  m.stream.synchronize();

  TensorTable table(m.spec);
  check_tensors(config, table);
  const std::vector<float> embedding = table.floats("model.embed_tokens.weight");
  const std::vector<float> x = download(a.x, 9 * config.hidden_size);
  for (int row = 0; row < 9; ++row) {
    for (int i = 0; i < config.hidden_size; ++i)
      REQUIRE(x[row * config.hidden_size + i] == embedding[batch.tokens[row] * config.hidden_size + i]);
  }
  std::vector<float> cos(9 * 32), sin(9 * 32);
  rope_angles(rope_inverse_frequencies(config), batch.positions, cos.data(), sin.data());
  const std::vector<float> got_cos = download(a.cos, cos.size()), got_sin = download(a.sin, sin.size());
  for (size_t i = 0; i < cos.size(); ++i) {
    CHECK_NEAR(got_cos[i], cos[i], 1e-7);
    CHECK_NEAR(got_sin[i], sin[i], 1e-7);
  }

  CHECK_EQ(m.ops.keep_rows(batch.logit_rows, a), 3);
  m.stream.synchronize();
  const std::vector<float> kept = download(a.x, 3 * config.hidden_size);
  for (int row = 0; row < 3; ++row) {
    for (int i = 0; i < config.hidden_size; ++i)
      REQUIRE(kept[row * config.hidden_size + i] == x[batch.logit_rows[row] * config.hidden_size + i]);
  }
}

TEST(ops_cuda_norms_and_silu_match_double_precision) {
  if (!has_gpu()) return;
  Model m;
  std::mt19937 random(1);
  for (const bool in_parts : {false, true}) {
    for (const int num_rows : {1, 7, 130}) {
      check_norms(m, num_rows, in_parts, random);
      check_silu(m, num_rows, in_parts, random);
    }
  }
}

TEST(ops_cuda_rope_turns_q_and_k_and_writes_each_slot_once) {
  if (!has_gpu()) return;
  std::mt19937 random(2);
  for (const int head_dim : {64, 128}) {
    for (const bool in_parts : {false, true}) check_rope(head_dim, 20, in_parts, random);
  }
}

TEST(llama_cuda_graph_and_padding_change_no_bit) {
  if (!has_gpu()) return;
  Model m;
  const int hidden = m.spec.config.hidden_size, width = 11;
  TreeStep tree(m.ops, width);
  m.ops.begin_step(tree.prefill, tree.prefill_plan);
  forward(m.ops, tree.prefill, tree.prefill_plan, kNever);

  const auto eager = [&](const StepBatch& batch) {
    m.ops.begin_step(batch, tree.step_plan);
    const __nv_bfloat16* h = forward(m.ops, batch, tree.step_plan, kNever);
    m.stream.synchronize();
    return download(h, size_t(width) * hidden);
  };
  const std::vector<float> expected = eager(tree.step);
  for (const float value : expected) REQUIRE(std::isfinite(value));
  // The same rows, then others that no plan names.
  StepBatch padded = tree.step;
  for (int i = width; i < 16; ++i) {
    padded.tokens.push_back(i * 17);
    padded.positions.push_back(i);
    padded.slots.push_back(-1);
    padded.logit_rows.push_back(0);
  }
  CHECK(eager(padded) == expected);

  m.ops.begin_step(padded, tree.step_plan);
  const __nv_bfloat16* h = nullptr;
  const cuda::Graph graph(m.stream, [&] { h = forward(m.ops, padded, tree.step_plan, kNever); });
  for (int i = 0; i < 2; ++i) {
    m.ops.begin_step(padded, tree.step_plan);
    graph.launch(m.stream);
    m.stream.synchronize();
    CHECK(download(h, size_t(width) * hidden) == expected);
  }
}

TEST(llama_cuda_forward_ends_when_cancelled) {
  if (!has_gpu()) return;
  Model m;
  TreeStep tree(m.ops, 1);
  m.ops.begin_step(tree.prefill, tree.prefill_plan);
  const std::atomic<bool> cancelled{true};
  CHECK_ERROR(forward(m.ops, tree.prefill, tree.prefill_plan, cancelled), ErrorCode::kAborted);
}
