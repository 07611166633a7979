#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "attention/appended_tokens.h"
#include "attention/plan.h"
#include "cache/tree_cache.h"
#include "common/error.h"
#include "common/test.h"
#include "cuda/gpu_test.h"
#include "engine/backend.h"
#include "model/cuda/rounded_ops.h"
#include "model/llama_fixture.h"

using namespace deftree;
using deftree::test::has_gpu;
using deftree::test::LlamaFixture;
using deftree::test::ModelFile;
using deftree::test::ReferenceModel;

namespace {

constexpr int kNumPages = 128;
const std::atomic<bool> kNever{false};

BackendOptions options() {
  BackendOptions options{
      .num_pages = kNumPages, .page_size = 16, .kv_type = "auto", .num_threads = 0, .max_step_tokens = 600};
  options.poison_kv = true;
  return options;
}

std::unique_ptr<Backend> make(const ModelSpec& spec, const BackendOptions& with = options()) {
  return make_cuda_backend(spec, with, kNever);
}

// Random weights, sizes that are no powers of two.
ModelSpec small_model(int num_kv_heads = 2) {
  ModelSpec spec;
  spec.config = {.num_layers = 3,
                 .hidden_size = 384,
                 .intermediate_size = 712,
                 .num_qo_heads = 6,
                 .num_kv_heads = num_kv_heads,
                 .head_dim = 64,
                 .vocab_size = 517,
                 .context_len = 4096,
                 .rope_theta = 10000,
                 .rms_norm_eps = 1e-5,
                 .tie_word_embeddings = false,
                 .rope_scaling = {}};
  spec.random_seed = 7;
  return spec;
}

struct Step {
  StepBatch batch;
  StepSnapshot snapshot;
};

// A forest grown by hand; each step says which tokens each branch appends (none: a tip query).
class Forest {
 public:
  explicit Forest(int vocab_size) : vocab_size_(vocab_size) {}

  TreeCache cache{{.num_pages = kNumPages, .page_size = 16}};

  std::vector<int32_t> tokens(int count) {
    std::vector<int32_t> result(count);
    for (int32_t& token : result) token = static_cast<int32_t>(random_() % vocab_size_);
    return result;
  }

  // Every `logit_every`-th row and the last one have logits.
  Step step(const std::vector<std::pair<BranchId, int>>& appends, int logit_every = 1) {
    std::vector<StepBranch> branches;
    for (const auto& [branch, count] : appends) {
      if (count > 0) cache.append(branch, tokens(count));
      branches.push_back({branch, count});
    }
    Step step{{}, cache.snapshot(branches)};
    for (const SnapshotQuery& query : step.snapshot.queries) {
      step.batch.tokens.push_back(query.token);
      step.batch.positions.push_back(query.position);
      step.batch.slots.push_back(query.slot);
    }
    for (int row = 0; row < step.batch.num_queries(); ++row) {
      if (row % logit_every == 0 || row + 1 == step.batch.num_queries()) step.batch.logit_rows.push_back(row);
    }
    for (const StepBranch& branch : branches) {
      if (branch.num_fresh > 0) cache.commit(branch.branch);
    }
    return step;
  }

 private:
  int vocab_size_;
  std::mt19937 random_{11};
};

std::vector<float> run(Backend& backend, const Step& step, int vocab_size,
                       attention::Policy policy = attention::Policy::kDeftFlatten) {
  attention::Plan plan;
  make_plan(step.snapshot.tree, policy, backend.attention_shape(), backend.plan_device(), plan);
  backend.forward(step.batch, plan, kNever);
  std::vector<float> logits(size_t(step.batch.num_logits()) * vocab_size);
  for (int i = 0; i < step.batch.num_logits(); ++i)
    backend.read_logits(i, std::span(logits).subspan(size_t(i) * vocab_size, vocab_size));
  return logits;
}

double distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
  return std::sqrt(sum);  // NaN when a value is
}

// A prefill in two chunks, a fork, decode steps of many widths, pruned branches, a step of a chunk beside decodes, and
// tip queries.
std::vector<Step> grow(Forest& forest) {
  std::vector<Step> steps;
  const BranchId trunk = forest.cache.create();
  steps.push_back(forest.step({{trunk, 300}}, 7));
  steps.push_back(forest.step({{trunk, 41}}));
  std::vector<BranchId> branches = forest.cache.fork(trunk, 20);
  const auto decode = [&](size_t first, size_t count) {
    std::vector<std::pair<BranchId, int>> appends;
    for (size_t i = first; i < first + count; ++i) appends.push_back({branches[i], 1});
    return appends;
  };
  for (const size_t width : {20, 1, 2, 3, 5, 9, 17, 20}) steps.push_back(forest.step(decode(0, width)));
  for (int i = 0; i < 5; ++i) {
    forest.cache.prune(branches.back(), false);
    branches.pop_back();
  }
  const std::vector<BranchId> children = forest.cache.fork(branches[3], 30);
  branches.insert(branches.end(), children.begin(), children.end());
  auto mixed = decode(15, 30);
  mixed.push_back({branches[0], 70});
  mixed.push_back({trunk, 0});
  steps.push_back(forest.step(mixed));
  steps.push_back(forest.step(decode(0, 45)));
  const BranchId other = forest.cache.create();
  auto large = decode(0, 40);
  large.push_back({other, 200});
  steps.push_back(forest.step(large));
  steps.push_back(forest.step(decode(2, 1)));
  return steps;
}

void check_against_cpu(const ModelSpec& spec, attention::Policy policy) {
  const int vocab_size = spec.config.vocab_size;
  Forest forest(vocab_size);
  const std::vector<Step> steps = grow(forest);
  const auto backend = make(spec);
  ReferenceModel exact(spec, kNumPages, false), rounded(spec, kNumPages, true);
  double worst = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    const std::vector<float> expected = exact.forward(steps[i].batch, steps[i].snapshot.tree);
    const std::vector<float> naive = rounded.forward(steps[i].batch, steps[i].snapshot.tree);
    const double ratio = distance(run(*backend, steps[i], vocab_size, policy), expected) / distance(naive, expected);
    if (!(ratio <= 2)) {
      test::fail(__FILE__, __LINE__,
                 std::string(policy_name(policy)) + ", step " + std::to_string(i) + " of " +
                     std::to_string(steps[i].batch.num_queries()) + " rows: " + std::to_string(ratio) +
                     " times the error of bf16");
    }
    worst = std::max(worst, ratio);
  }
  std::printf("    %s: at most %.2f times the error of bf16\n", std::string(policy_name(policy)).c_str(), worst);
}

}  // namespace

TEST(cuda_backend_logits_match_transformers_within_bf16) {
  if (!has_gpu()) return;
  for (const char* name : {"mha-64-tied", "gqa3-64-scaled", "gqa4-128-tied-scaled", "gqa4-128", "gqa4-64-tied"}) {
    const LlamaFixture fixture = LlamaFixture::read(name);
    const ModelFile file = ModelFile::write(fixture.config, DType::kF32);
    const auto backend = make(file.spec);
    ReferenceModel rounded(file.spec, kNumPages, true);
    TreeCache cache({.num_pages = kNumPages, .page_size = 16});
    const BranchId branch = cache.create();
    cache.append(branch, fixture.tokens);
    const StepBranch all{branch, static_cast<int32_t>(fixture.tokens.size())};
    Step step{{}, cache.snapshot({&all, 1})};
    for (const SnapshotQuery& query : step.snapshot.queries) {
      step.batch.tokens.push_back(query.token);
      step.batch.positions.push_back(query.position);
      step.batch.slots.push_back(query.slot);
    }
    std::vector<float> expected;
    for (const auto& [position, logits] : fixture.logits) {
      step.batch.logit_rows.push_back(position);
      expected.insert(expected.end(), logits.begin(), logits.end());
    }
    const double error = distance(run(*backend, step, fixture.config.vocab_size), expected);
    const double naive = distance(rounded.forward(step.batch, step.snapshot.tree), expected);
    std::printf("    %s: %.2f times the error of bf16\n", name, error / naive);
    CHECK(error <= 2 * naive);
  }
}

TEST(cuda_backend_steps_a_tree_as_the_cpu_does_under_every_policy) {
  if (!has_gpu()) return;
  for (const attention::Policy policy : attention::all_policies()) check_against_cpu(small_model(), policy);
  check_against_cpu(small_model(6), attention::Policy::kDeftFlatten);
}

// One backend has seen other steps in the same graphs before, whose rows are the padding's memory now.
TEST(cuda_backend_gives_a_step_the_same_bits_whatever_ran_before) {
  if (!has_gpu()) return;
  const ModelSpec spec = small_model();
  Forest forest(spec.config.vocab_size);
  const BranchId trunk = forest.cache.create();
  const Step prefill = forest.step({{trunk, 90}});
  const std::vector<BranchId> branches = forest.cache.fork(trunk, 8);
  std::vector<std::pair<BranchId, int>> appends;
  for (const BranchId branch : branches) appends.push_back({branch, 1});
  const Step eight = forest.step(appends);
  appends.resize(5);
  const Step five = forest.step(appends);
  const auto fresh = make(spec), used = make(spec);
  for (Backend* backend : {fresh.get(), used.get()}) run(*backend, prefill, spec.config.vocab_size);
  const std::vector<float> eight_logits = run(*used, eight, spec.config.vocab_size);
  CHECK(run(*fresh, eight, spec.config.vocab_size) == eight_logits);
  for (int i = 0; i < 3; ++i) CHECK(run(*used, eight, spec.config.vocab_size) == eight_logits);
  CHECK(run(*fresh, five, spec.config.vocab_size) == run(*used, five, spec.config.vocab_size));
}

TEST(cuda_backend_samples_and_scores_rows_of_several_blocks_in_any_order) {
  if (!has_gpu()) return;
  const ModelSpec spec = small_model();
  const auto backend = make(spec);
  Forest forest(spec.config.vocab_size);
  const BranchId trunk = forest.cache.create();
  const Step step = forest.step({{trunk, 300}});
  const std::vector<float> logits = run(*backend, step, spec.config.vocab_size);
  const SamplingParams greedy;
  std::vector<SampleRequest> requests;
  std::vector<int32_t> rows, tokens;
  for (int i = 0; i < 400; ++i) {
    rows.push_back(i * 37 % 300);
    tokens.push_back(i * 53 % 517);
    requests.push_back(
        {.logit_row = rows.back(), .params = &greedy, .path_hash = 0, .position = 0, .seen = {}, .allowed = {}});
  }
  std::vector<SampledToken> sampled(rows.size());
  std::vector<float> scores(rows.size());
  backend->sample(requests, sampled);
  backend->log_probs(rows, tokens, scores);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto row = std::span(logits).subspan(size_t(rows[i]) * 517, 517);
    CHECK_EQ(sampled[i].token, std::max_element(row.begin(), row.end()) - row.begin());
    CHECK_NEAR(scores[i], log_prob(row, tokens[i]), 1e-4);
  }
  const std::vector<int32_t> past = {300}, token = {0};
  CHECK_ERROR(backend->log_probs(past, token, std::span(scores).first(1)), ErrorCode::kBadArgument);
}

TEST(cuda_backend_copies_slots_of_all_layers) {
  if (!has_gpu()) return;
  const ModelSpec spec = small_model();
  const int vocab_size = spec.config.vocab_size;
  const auto backend = make(spec);
  Forest forest(vocab_size);
  const BranchId trunk = forest.cache.create();
  const Step prefill = forest.step({{trunk, 20}});
  run(*backend, prefill, vocab_size);
  Step tip{{.tokens = {prefill.batch.tokens[19]}, .positions = {19}, .slots = {-1}, .logit_rows = {0}}, {}};
  tip.snapshot.tree = {.page_size = 16,
                       .parent = {-1},
                       .subtree_end = {1},
                       .node_len = {20},
                       .mask = {NodeMask::kNone},
                       .span_indptr = {0, 2},
                       .spans = {{prefill.batch.slots[0] / 16, 0, 16}, {prefill.batch.slots[16] / 16, 0, 4}},
                       .query_indptr = {0, 1},
                       .tree_parent_indptr = {0, 0},
                       .tree_parent = {}};
  const std::vector<float> expected = run(*backend, tip, vocab_size);
  // Token i goes to slot i + 5 of other pages, so that its pieces stand elsewhere in their rows.
  const int to = 100 * 16 + 5;
  std::vector<SlotCopy> copies;
  for (int i = 0; i < 20; ++i) copies.push_back({prefill.batch.slots[i], to + i, 1});
  backend->copy_slots(copies);
  tip.snapshot.tree.spans = {{100, 5, 16}, {101, 0, 9}};
  const std::vector<float> copied = run(*backend, tip, vocab_size);
  CHECK_NEAR(test::relative_error(copied, expected), 0, 1e-2);  // the order of sums differs
  const std::vector<SlotCopy> past_the_end = {{0, kNumPages * 16 - 1, 2}};
  CHECK_ERROR(backend->copy_slots(past_the_end), ErrorCode::kBadArgument);
}

TEST(cuda_backend_takes_every_source_type_and_permuted_rows) {
  if (!has_gpu()) return;
  const LlamaFixture fixture = LlamaFixture::read("gqa4-64-tied");
  LlamaConfig config = fixture.config;
  Forest forest(config.vocab_size);
  const BranchId trunk = forest.cache.create();
  const Step step = forest.step({{trunk, 60}});
  const std::vector<float> expected = run(*make(ModelFile::write(config, DType::kF32).spec), step, config.vocab_size);
  CHECK(run(*make(ModelFile::write(config, DType::kBf16).spec), step, config.vocab_size) == expected);
  config.qk_permuted = true;
  CHECK(run(*make(ModelFile::write(config, DType::kF32).spec), step, config.vocab_size) == expected);
}

TEST(cuda_backend_tells_stages_apart_when_asked) {
  if (!has_gpu()) return;
  const ModelSpec spec = small_model();
  BackendOptions profiled = options();
  profiled.profile = true;
  const auto backend = make(spec, profiled), plain = make(spec);
  Forest forest(spec.config.vocab_size);
  const BranchId trunk = forest.cache.create();
  const Step large = forest.step({{trunk, 200}}), small = forest.step({{trunk, 1}});
  CHECK(run(*backend, large, spec.config.vocab_size) == run(*plain, large, spec.config.vocab_size));
  for (int i = 0; i < 2; ++i) {
    const BackendTimes before = backend->times();
    CHECK(run(*backend, small, spec.config.vocab_size) == run(*plain, small, spec.config.vocab_size));
    run(*backend, small, spec.config.vocab_size);  // the times of a step are added when the next begins
    CHECK(backend->times().linear_ns > before.linear_ns);
    CHECK(backend->times().attention_ns > before.attention_ns);
    CHECK(backend->times().other_ns > before.other_ns);
  }
  CHECK_EQ(plain->times().linear_ns, 0);
}

TEST(cuda_backend_refuses_what_does_not_fit_before_it_allocates) {
  if (!has_gpu()) return;
  const auto with = [](auto change) {
    BackendOptions changed = options();
    change(changed);
    return changed;
  };
  const ModelSpec spec = small_model();
  CHECK_ERROR(make(spec, with([](auto& o) { o.page_size = 8; })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(spec, with([](auto& o) { o.kv_type = "f16"; })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(spec, with([](auto& o) { o.num_pages = 0; })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(spec, with([](auto& o) { o.device_index = 99; })), ErrorCode::kBadArgument);
  const auto figure = [&](const ModelSpec& model, const BackendOptions& wanted, const char* name) {
    try {
      make(model, wanted);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kOutOfMemory);
      for (const auto& [key, value] : error.figures()) {
        if (key == name) return value;
      }
    }
    test::fail(__FILE__, __LINE__, "no error with its figures");
    return 0.0;
  };
  CHECK(figure(spec, with([](auto& o) { o.num_pages = 100'000'000; }), "fitting_kv_tokens") > 1e6);
  ModelSpec huge = spec;
  huge.config.num_layers = 1000;
  huge.config.hidden_size = 16384;
  huge.config.intermediate_size = 65536;
  CHECK_EQ(figure(huge, options(), "fitting_kv_tokens"), 0.0);
  std::atomic<bool> cancelled{true};
  CHECK_ERROR(make_cuda_backend(spec, options(), cancelled), ErrorCode::kAborted);
}

TEST(cuda_backend_appended_plans_give_what_new_plans_give) {
  if (!has_gpu()) return;
  const ModelSpec spec = small_model();
  const int vocab_size = spec.config.vocab_size;
  for (const attention::Policy policy : attention::all_policies()) {
    const std::unique_ptr<Backend> appending = make(spec), planning = make(spec);
    Forest forest(vocab_size);
    const BranchId root = forest.cache.create();
    const auto both = [&](const Step& step) {
      run(*appending, step, vocab_size, policy);
      return run(*planning, step, vocab_size, policy);
    };
    both(forest.step({{root, 150}}, 150));
    std::vector<std::pair<BranchId, int>> decoding;
    for (const BranchId branch : forest.cache.fork(root, 7)) decoding.emplace_back(branch, 1);
    Step step = forest.step(decoding);
    both(step);
    int num_appended = 0;
    for (int i = 0; i < 40; ++i) {
      const TreeSnapshot before = step.snapshot.tree;
      step = forest.step(decoding);
      std::vector<attention::AppendedToken> appended;
      REQUIRE(attention::find_appended_tokens(before, step.snapshot.tree, appended));
      std::vector<float> logits(size_t(step.batch.num_logits()) * vocab_size);
      if (appending->append_to_plan(appended)) {
        ++num_appended;
        appending->forward(step.batch, {}, kNever);
        for (int row = 0; row < step.batch.num_logits(); ++row)
          appending->read_logits(row, std::span(logits).subspan(size_t(row) * vocab_size, vocab_size));
      } else {
        logits = run(*appending, step, vocab_size, policy);
      }
      const std::vector<float> expected = run(*planning, step, vocab_size, policy);
      double difference = 0, norm = 0;
      for (size_t j = 0; j < logits.size(); ++j) {
        difference += std::pow(double{logits[j]} - expected[j], 2);
        norm += std::pow(double{expected[j]}, 2);
      }
      // The same keys in other tiles: sums in another order, rounded to bf16 layer by layer.
      CHECK(std::sqrt(difference / norm) < 0.01);
    }
    CHECK(num_appended >= 20);
  }
}
