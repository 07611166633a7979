#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "attention/plan.h"
#include "cache/tree_cache.h"
#include "common/error.h"
#include "common/test.h"
#include "engine/backend.h"
#include "model/llama_fixture.h"

using namespace deftree;
using deftree::test::LlamaFixture;
using deftree::test::ModelFile;

namespace {

constexpr BackendOptions kOptions = {
    .num_pages = 32, .page_size = 16, .kv_type = "auto", .num_threads = 2, .max_step_tokens = 128};
const std::atomic<bool> kNever{false};

std::unique_ptr<Backend> make(BackendOptions options = kOptions, const std::string& weights = "auto") {
  ModelFile file = ModelFile::write(LlamaFixture::read("gqa3-64-scaled").config, DType::kF32);
  file.spec.weights = weights;
  return make_cpu_backend(file.spec, options, kNever);
}

// The first `len` tokens of the fixture as one prefill of a new branch, all rows with logits.
struct Prefill {
  TreeCache cache{{.num_pages = kOptions.num_pages, .page_size = kOptions.page_size}};
  BranchId branch = cache.create();
  StepBatch batch;
  attention::Plan plan;

  Prefill(const Backend& backend, int len) {
    const std::vector<int32_t> tokens = LlamaFixture::read("gqa3-64-scaled").tokens;
    cache.append(branch, std::span(tokens).first(len));
    const StepBranch step{branch, len};
    const StepSnapshot snapshot = cache.snapshot({&step, 1});
    for (const SnapshotQuery& query : snapshot.queries) {
      batch.tokens.push_back(query.token);
      batch.positions.push_back(query.position);
      batch.slots.push_back(query.slot);
      batch.logit_rows.push_back(batch.num_logits());
    }
    make_plan(snapshot.tree, attention::Policy::kDeftFlatten, backend.attention_shape(), backend.plan_device(), plan);
  }
};

std::vector<float> logits_of(Backend& backend, int row) {
  std::vector<float> logits(320);
  backend.read_logits(row, logits);
  return logits;
}

}  // namespace

TEST(cpu_backend_logits_match_the_fixture_and_rows_without_logits_change_nothing) {
  const auto backend = make();
  Prefill prefill(*backend, 101);
  backend->forward(prefill.batch, prefill.plan, kNever);
  const auto expected = LlamaFixture::read("gqa3-64-scaled").logits;
  CHECK_NEAR(test::relative_error(logits_of(*backend, 0), expected[0].second), 0, 2e-5);
  const std::vector<float> last = logits_of(*backend, 100);
  CHECK_NEAR(test::relative_error(last, expected[1].second), 0, 2e-5);

  prefill.batch.logit_rows = {100};
  backend->forward(prefill.batch, prefill.plan, kNever);
  CHECK(logits_of(*backend, 0) == last);
  prefill.batch.logit_rows = {};
  backend->forward(prefill.batch, prefill.plan, kNever);
  CHECK_ERROR(logits_of(*backend, 0), ErrorCode::kBadArgument);
}

// 101 rows are several blocks of logits; the requests come out of order and repeat rows.
TEST(cpu_backend_samples_and_scores_any_rows_in_any_order) {
  const auto backend = make();
  const Prefill prefill(*backend, 101);
  backend->forward(prefill.batch, prefill.plan, kNever);
  std::vector<int32_t> rows, tokens;
  for (int i = 0; i < 150; ++i) {
    rows.push_back(i * 37 % 101);
    tokens.push_back(i * 53 % 320);
  }
  const SamplingParams greedy;
  std::vector<SampleRequest> requests;
  for (const int32_t row : rows) {
    requests.push_back({.logit_row = row, .params = &greedy, .path_hash = 0, .position = 0, .seen = {}, .allowed = {}});
  }
  std::vector<SampledToken> sampled(rows.size());
  std::vector<float> scores(rows.size());
  backend->sample(requests, sampled);
  backend->log_probs(rows, tokens, scores);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::vector<float> logits = logits_of(*backend, rows[i]);
    CHECK_EQ(sampled[i].token, std::max_element(logits.begin(), logits.end()) - logits.begin());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    CHECK_NEAR(scores[i], logits[tokens[i]] - std::log(sum), 1e-4);
  }
  CHECK(backend->times().linear_ns > 0);
  CHECK(backend->times().attention_ns > 0);
  CHECK(backend->times().sampling_ns > 0);
  CHECK(backend->times().other_ns > 0);
}

TEST(cpu_backend_rethrows_what_sampling_throws_and_goes_on) {
  const auto backend = make();
  const Prefill prefill(*backend, 40);
  backend->forward(prefill.batch, prefill.plan, kNever);
  const SamplingParams greedy;
  const std::vector<uint64_t> nothing_allowed(5, 0);
  std::vector<SampleRequest> requests(
      4, {.logit_row = 0, .params = &greedy, .path_hash = 0, .position = 0, .seen = {}, .allowed = nothing_allowed});
  std::vector<SampledToken> sampled(4);
  CHECK_ERROR(backend->sample(requests, sampled), ErrorCode::kBadArgument);
  for (SampleRequest& request : requests) request.allowed = {};
  backend->sample(requests, sampled);
  CHECK(sampled[3].token >= 0);
}

TEST(cpu_backend_copies_slots_of_all_layers) {
  const auto backend = make();
  Prefill prefill(*backend, 20);
  backend->forward(prefill.batch, prefill.plan, kNever);
  const std::vector<float> expected = logits_of(*backend, 19);

  // The same branch on other pages: the copy stands for its prefill, the last token runs again as a tip query.
  const std::vector<int32_t>& slots = prefill.batch.slots;
  const int32_t to = 20 * 16;
  std::vector<SlotCopy> copies;
  for (int i = 0; i < 20; ++i) copies.push_back({slots[i], to + i, 1});
  backend->copy_slots(copies);
  TreeSnapshot tree = {.page_size = 16,
                       .parent = {-1},
                       .subtree_end = {1},
                       .node_len = {20},
                       .mask = {NodeMask::kNone},
                       .span_indptr = {0, 2},
                       .spans = {{20, 0, 16}, {21, 0, 4}},
                       .query_indptr = {0, 1},
                       .tree_parent_indptr = {0, 0},
                       .tree_parent = {}};
  make_plan(tree, attention::Policy::kDeftFlatten, backend->attention_shape(), backend->plan_device(), prefill.plan);
  backend->forward({.tokens = {prefill.batch.tokens[19]}, .positions = {19}, .slots = {-1}, .logit_rows = {0}},
                   prefill.plan, kNever);
  CHECK_NEAR(test::relative_error(logits_of(*backend, 0), expected), 0, 5e-6);

  const std::vector<SlotCopy> past_the_end = {{0, 32 * 16 - 1, 2}};
  CHECK_ERROR(backend->copy_slots(past_the_end), ErrorCode::kBadArgument);
}

TEST(cpu_backend_tells_what_it_chose) {
  const auto f32 = make();
  CHECK_EQ(f32->info().device, "cpu");
  CHECK_EQ(f32->info().kv_type, "f32");
  CHECK_EQ(f32->info().kv_bytes_per_token, uint64_t{2 * 2 * 64 * 4});
  CHECK_EQ(f32->info().kv_bytes, 32 * 16 * f32->info().kv_bytes_per_token);
  CHECK_EQ(f32->plan_device().num_processors, 2);
  const auto int8 = make(kOptions, "int8");
  CHECK_EQ(int8->info().kv_type, "f16");
  CHECK_EQ(int8->info().weight_format, "int8");
  CHECK(int8->info().weight_bytes < f32->info().weight_bytes / 3);
}

TEST(cpu_backend_refuses_options_out_of_range) {
  const auto with = [](auto change) {
    BackendOptions options = kOptions;
    change(options);
    return options;
  };
  CHECK_ERROR(make(with([](auto& o) { o.num_pages = 0; })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(with([](auto& o) { o.num_pages = std::numeric_limits<int32_t>::max(); })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(with([](auto& o) { o.page_size = 12; })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(with([](auto& o) { o.page_size = 0; })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(with([](auto& o) { o.num_threads = -1; })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(with([](auto& o) { o.num_threads = 100000; })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(with([](auto& o) { o.max_step_tokens = 0; })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(with([](auto& o) { o.kv_type = "bf16"; })), ErrorCode::kBadArgument);
  CHECK_ERROR(make(kOptions, "int2"), ErrorCode::kBadArgument);
}

TEST(cpu_backend_refuses_a_malformed_step) {
  const auto backend = make();
  const Prefill good(*backend, 10);
  const auto run = [&](auto change) {
    StepBatch batch = good.batch;
    change(batch);
    backend->forward(batch, good.plan, kNever);
  };
  CHECK_ERROR(run([](StepBatch& b) { b = {}; }), ErrorCode::kBadArgument);
  CHECK_ERROR(run([](StepBatch& b) { b.tokens[3] = 320; }), ErrorCode::kBadArgument);
  CHECK_ERROR(run([](StepBatch& b) { b.tokens[3] = -1; }), ErrorCode::kBadArgument);
  CHECK_ERROR(run([](StepBatch& b) { b.slots[3] = 32 * 16; }), ErrorCode::kBadArgument);
  CHECK_ERROR(run([](StepBatch& b) { b.positions.pop_back(); }), ErrorCode::kBadArgument);
  CHECK_ERROR(run([](StepBatch& b) { b.logit_rows = {4, 4}; }), ErrorCode::kBadArgument);
  CHECK_ERROR(run([](StepBatch& b) { b.logit_rows = {10}; }), ErrorCode::kBadArgument);
  CHECK_ERROR(run([](StepBatch& b) { b.tokens.resize(11); }), ErrorCode::kBadArgument);
  const std::vector<int32_t> row = {0}, bad_token = {320};
  std::vector<float> score(1);
  backend->forward(good.batch, good.plan, kNever);
  CHECK_ERROR(backend->log_probs(row, bad_token, score), ErrorCode::kBadArgument);
}
