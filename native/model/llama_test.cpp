#include "model/llama.h"

#include <string>
#include <vector>

#include "common/test.h"
#include "model/llama_fixture.h"

using namespace deftree;
using namespace deftree::test;
using attention::KvType;

namespace {

using Tokens = std::vector<int32_t>;

// float32 sums in another order: what chunking, policies and neighbours may change.
constexpr double kOrderTolerance = 5e-6;

Tokens slice(const Tokens& tokens, size_t begin, size_t end) { return {tokens.begin() + begin, tokens.begin() + end}; }

ModelFile write(const std::string& fixture, DType dtype = DType::kF32) {
  return ModelFile::write(LlamaFixture::read(fixture).config, dtype);
}

// Logits of the last token of `tokens`, by one prefill in a runner of its own.
std::vector<float> alone(const ModelFile& file, const Tokens& tokens, KvType kv_type = KvType::kF32) {
  LlamaRunner runner(file.spec, kv_type);
  return runner.extend(runner.cache.create(), tokens);
}

// The largest error against the fixture's logits, extending one branch from recorded position to recorded position.
double fixture_error(const LlamaFixture& fixture, const ModelSpec& spec, KvType kv_type) {
  LlamaRunner runner(spec, kv_type);
  const BranchId branch = runner.cache.create();
  double error = 0;
  size_t begin = 0;
  for (const auto& [position, expected] : fixture.logits) {
    const std::vector<float> logits = runner.extend(branch, slice(fixture.tokens, begin, position + 1));
    error = std::max(error, relative_error(logits, expected));
    begin = position + 1;
  }
  return error;
}

const std::vector<std::string> kFixtures = {"mha-64-tied", "gqa3-64-scaled", "gqa4-128-tied-scaled", "gqa4-128",
                                            "gqa4-64-tied"};

}  // namespace

TEST(llama_logits_match_transformers) {
  for (const std::string& name : kFixtures) {
    const LlamaFixture fixture = LlamaFixture::read(name);
    REQUIRE(fixture.logits.size() == 3);
    const ModelFile file = ModelFile::write(fixture.config, DType::kF32);
    CHECK_NEAR(fixture_error(fixture, file.spec, KvType::kF32), 0, 2e-5);
  }
}

// The scaled fixtures reach past original_context_len, so that a wrong frequency shows.
TEST(llama_logits_depend_on_rope_scaling) {
  for (const char* name : {"gqa3-64-scaled", "gqa4-128-tied-scaled"}) {
    const LlamaFixture fixture = LlamaFixture::read(name);
    ModelFile file = ModelFile::write(fixture.config, DType::kF32);
    file.spec.config.rope_scaling.reset();
    CHECK(fixture_error(fixture, file.spec, KvType::kF32) > 0.05);
  }
}

// Against float32: a float16 KV value is off by up to 2^-11 of itself, bf16 weights are those of the formula exactly
// (but a kernel may round activations to bf16, 2^-9), int8 codes are off by 1/254 of the largest weight among 32. Two
// layers and a softmax over scores of several units average the first out, and multiply the others by less than 8.
TEST(llama_narrow_formats_stay_within_their_rounding) {
  for (const std::string& name : kFixtures) {
    const LlamaFixture fixture = LlamaFixture::read(name);
    ModelFile f32 = ModelFile::write(fixture.config, DType::kF32),
              bf16 = ModelFile::write(fixture.config, DType::kBf16);
    CHECK_NEAR(fixture_error(fixture, f32.spec, KvType::kF16), 0, 2.0 / 2048);
    CHECK_NEAR(fixture_error(fixture, bf16.spec, KvType::kF32), 0, 8.0 / 512);
    f32.spec.weights = "int8";
    CHECK_NEAR(fixture_error(fixture, f32.spec, KvType::kF32), 0, 8.0 / 127);
  }
}

TEST(llama_prefill_whole_in_chunks_and_token_by_token_agree) {
  const ModelFile file = write("gqa3-64-scaled");
  const Tokens tokens = slice(LlamaFixture::read("gqa3-64-scaled").tokens, 0, 70);
  const std::vector<float> whole = alone(file, tokens);
  for (const size_t chunk_len : {1, 7, 16, 64}) {
    LlamaRunner runner(file.spec, KvType::kF32);
    const std::vector<float> logits = runner.extend(runner.cache.create(), tokens, chunk_len);
    CHECK_NEAR(relative_error(logits, whole), 0, kOrderTolerance);
    runner.cache.check_invariants();
  }
}

TEST(llama_branches_of_one_step_give_the_logits_of_each_alone_under_every_policy) {
  const ModelFile file = write("gqa3-64-scaled");
  const Tokens& tokens = LlamaFixture::read("gqa3-64-scaled").tokens;
  const Tokens prefix = slice(tokens, 0, 45);
  // Four branches of different lengths; 2 and 3 share tokens beyond the prefix.
  const std::vector<Tokens> own = {slice(tokens, 50, 51), slice(tokens, 60, 65), slice(tokens, 70, 90),
                                   slice(tokens, 70, 91)};
  std::vector<std::vector<float>> expected;
  for (Tokens path : own) {
    path.insert(path.begin(), prefix.begin(), prefix.end());
    path.push_back(7);
    expected.push_back(alone(file, path));
  }
  for (const attention::Policy policy : attention::all_policies()) {
    LlamaRunner runner(file.spec, KvType::kF32);
    runner.policy = policy;
    const BranchId trunk = runner.create(prefix);
    std::vector<BranchId> branches = runner.cache.fork(trunk, 3);
    for (int i = 0; i < 3; ++i) runner.extend(branches[i], own[i]);
    branches.push_back(runner.cache.fork(branches[2], 1)[0]);
    runner.extend(branches[3], {own[3].back()});

    std::vector<std::pair<BranchId, Tokens>> appends;
    for (const BranchId branch : branches) appends.push_back({branch, {7}});
    const auto logits = runner.step(appends);
    for (size_t i = 0; i < branches.size(); ++i) {
      const double error = relative_error(logits[i], expected[i]);
      if (error < kOrderTolerance) continue;
      fail(__FILE__, __LINE__,
           std::string(policy_name(policy)) + ", branch " + std::to_string(i) + ": " + std::to_string(error));
    }
    runner.cache.check_invariants();
  }
}

TEST(llama_prefill_tip_queries_and_decode_share_a_step) {
  const ModelFile file = write("gqa4-128");
  const Tokens& tokens = LlamaFixture::read("gqa4-128").tokens;
  LlamaRunner runner(file.spec, KvType::kF32);
  const BranchId trunk = runner.create(slice(tokens, 0, 30));
  const std::vector<BranchId> branches = runner.cache.fork(trunk, 2);
  const BranchId other = runner.create(slice(tokens, 40, 60));
  // A prefill chunk, a decode, the tip of the trunk (twice, shared) and of another root.
  const auto logits = runner.step({{branches[0], slice(tokens, 30, 50)},
                                   {branches[1], {tokens[5]}},
                                   {trunk, {}},
                                   {runner.cache.fork(trunk, 1)[0], {}},
                                   {other, {}}});
  Tokens decoded = slice(tokens, 0, 30);
  decoded.push_back(tokens[5]);
  CHECK_NEAR(relative_error(logits[0], alone(file, slice(tokens, 0, 50))), 0, kOrderTolerance);
  CHECK_NEAR(relative_error(logits[1], alone(file, decoded)), 0, kOrderTolerance);
  CHECK_NEAR(relative_error(logits[2], alone(file, slice(tokens, 0, 30))), 0, kOrderTolerance);
  CHECK(logits[2] == logits[3]);
  CHECK_NEAR(relative_error(logits[4], alone(file, slice(tokens, 40, 60))), 0, kOrderTolerance);
}

TEST(llama_puts_back_the_permuted_rows_of_gguf) {
  const LlamaFixture fixture = LlamaFixture::read("gqa4-64-tied");
  LlamaConfig config = fixture.config;
  const std::vector<float> expected = alone(ModelFile::write(config, DType::kF32), fixture.tokens);
  config.qk_permuted = true;
  CHECK(alone(ModelFile::write(config, DType::kF32), fixture.tokens) == expected);
}

TEST(llama_forward_ends_when_cancelled) {
  const ModelFile file = write("mha-64-tied");
  ThreadPool pool(1);
  std::atomic<bool> cancel{false};
  const LlamaWeights weights = load_weights(file.spec, pool, cancel);
  CpuOps ops(weights, {}, 16, pool);
  cancel = true;
  CHECK_ERROR(forward(ops, {.tokens = {1}, .positions = {0}, .slots = {0}, .logit_rows = {0}}, {}, cancel),
              ErrorCode::kAborted);
}
