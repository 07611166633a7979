// The draft model and the caller's drafts as sources: what they know of the text, what they propose, and an engine that
// decodes with them. The fake backend as draft model thinks exactly as the target does.
#include "engine/draft_model.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "engine/draft_caller.h"
#include "engine/draft_tree.h"
#include "engine/engine_driver.h"

namespace deftree {
namespace {

using test::Driver;
using test::expected_decode;
using test::fake_options;
using test::FakeBackend;
using test::kFakeVocab;
using test::some_tokens;
using Tokens = std::vector<int32_t>;

constexpr uint32_t bit(DraftSourceId id) { return 1u << static_cast<int>(id); }
constexpr int32_t kPages = 64;

struct DraftModel {
  explicit DraftModel(
      DraftModelOptions options = {
          .num_pages = kPages, .page_size = 8, .vocab_size = kFakeVocab, .context_len = 400, .max_step_tokens = 32}) {
    auto owned = std::make_unique<FakeBackend>(options.num_pages, options.page_size);
    backend = owned.get();
    source = std::make_unique<DraftModelSource>(options, std::move(owned), cancel);
  }
  std::vector<DraftNode> propose(BranchKey branch, int32_t last_token, int32_t max_depth = 6,
                                 float min_probability = 0.01f) {
    std::vector<DraftNode> nodes;
    source->propose({branch, last_token, 32, max_depth, min_probability}, nodes);
    source->check_invariants();
    return nodes;
  }

  std::atomic<bool> cancel{false};
  FakeBackend* backend;
  std::unique_ptr<DraftModelSource> source;
};

// The tokens of the path that the tree's likeliest children make.
Tokens likeliest_path(const std::vector<DraftNode>& nodes) {
  Tokens path;
  for (int32_t at = -1;;) {
    int32_t best = -1;
    for (int32_t i = 0; i < static_cast<int32_t>(nodes.size()); ++i) {
      if (nodes[i].parent == at && (best < 0 || nodes[i].probability > nodes[best].probability)) best = i;
    }
    if (best < 0) return path;
    path.push_back(nodes[best].token);
    at = best;
  }
}

TEST(draft_model_proposes_what_it_would_decode_with_the_runners_up_beside) {
  DraftModel model;
  const Tokens text = some_tokens(70, 1);  // more than a step's rows
  model.source->extend(1, text, 70);
  CHECK_EQ(model.source->known_len(1), 70);
  const auto nodes = model.propose(1, text.back());
  const Tokens path = likeliest_path(nodes), expected = expected_decode(text, 6);
  REQUIRE(path.size() >= 2);
  CHECK(std::equal(path.begin(), path.end(), expected.begin()));
  CHECK(nodes.size() > path.size());
  CHECK(is_draft_tree(nodes, {1, text.back(), 32, 6, 0}, kFakeVocab));
}

TEST(draft_model_keeps_what_the_target_accepts) {
  DraftModel model;
  Tokens text = some_tokens(20, 2);
  model.source->extend(1, text, 20);
  model.propose(1, text.back(), 6, 1e-6f);
  const Tokens next = expected_decode(text, 3);
  text.insert(text.end(), next.begin(), next.end());
  model.source->extend(1, next, 23);
  model.source->check_invariants();
  const int64_t rows = model.backend->num_rows;
  const auto again = model.propose(1, text.back(), 3, 1e-6f);
  CHECK_EQ(model.backend->num_rows, rows);  // all of it was ahead
  CHECK(likeliest_path(again) == expected_decode(text, 3));
  // A token that was not foreseen: the path ahead is given up.
  text.push_back((expected_decode(text, 1)[0] + 1) % kFakeVocab);
  model.source->extend(1, {&text.back(), 1}, 24);
  CHECK(likeliest_path(model.propose(1, text.back(), 3, 1e-6f)) == expected_decode(text, 3));
}

TEST(draft_model_forks_and_forgets_with_the_branches) {
  DraftModel model;
  Tokens text = some_tokens(30, 3);
  model.source->extend(1, text, 30);
  model.propose(1, text.back());
  const int64_t rows = model.backend->num_rows;
  model.source->fork(1, 2);
  CHECK_EQ(model.source->known_len(2), 30);
  Tokens other = text;
  other.push_back(5);
  model.source->extend(2, {&other.back(), 1}, 31);
  CHECK(likeliest_path(model.propose(2, 5, 2, 1e-6f)) == expected_decode(other, 2));
  CHECK(model.backend->num_rows - rows < 5);  // the beginning is shared
  model.source->forget(1);
  CHECK_EQ(model.source->known_len(1), 0);
  model.source->check_invariants();
}

TEST(draft_model_without_room_proposes_nothing_and_recovers) {
  DraftModel model(
      {.num_pages = 6, .page_size = 8, .vocab_size = kFakeVocab, .context_len = 45, .max_step_tokens = 32});
  const Tokens a = some_tokens(30, 4), b = some_tokens(30, 5), longer = some_tokens(45, 6);
  model.source->extend(1, a, 30);
  CHECK(!model.propose(1, a.back()).empty());
  model.source->extend(2, b, 30);
  CHECK(!model.propose(2, b.back()).empty());  // the idle branch went
  CHECK_EQ(model.source->known_len(1), 0);
  model.source->forget(2);
  model.source->extend(3, longer, 45);
  CHECK(model.propose(3, longer.back()).empty());  // its context is full
  model.source->extend(4, some_tokens(60, 7), 60);
  CHECK(model.propose(4, 0).empty());
}

TEST(draft_model_survives_a_pass_that_fails) {
  DraftModel model;
  const Tokens text = some_tokens(20, 8);
  model.source->extend(1, text, 20);
  for (int fail_at = 0; fail_at < 4; ++fail_at) {
    int64_t left = fail_at;
    model.backend->on_forward = [&](const StepBatch&) {
      if (left-- == 0) throw Error(ErrorCode::kOutOfMemory, "no memory");
    };
    std::vector<DraftNode> nodes;
    try {
      model.source->propose({1, text.back(), 32, 6, 1e-6f}, nodes);
    } catch (const Error&) {
      nodes.clear();
    }
    model.source->check_invariants();
  }
  model.backend->on_forward = {};
  CHECK(likeliest_path(model.propose(1, text.back(), 4, 1e-6f)) == expected_decode(text, 4));
}

// Branches that fork, are cut and pruned, against plain decoding.
TEST(engine_with_a_draft_model_decodes_the_same_tokens_in_fewer_steps) {
  const auto run = [](SpeculationParams speculation, int64_t& steps) {
    EngineOptions options = fake_options(128);
    options.speculation = speculation;
    Driver d(options);
    auto backend = std::make_unique<FakeBackend>(kPages, 8);
    const DraftModelOptions draft = {
        .num_pages = kPages, .page_size = 8, .vocab_size = kFakeVocab, .context_len = 400, .max_step_tokens = 32};
    auto source = std::make_unique<DraftModelSource>(draft, std::move(backend), d.cancel);
    DraftModelSource* model = source.get();
    d.engine->speculator().add_source(std::move(source));
    const BranchKey root = d.create();
    d.extend(root, some_tokens(21, 1));
    std::vector<RequestId> requests = {d.decode(root, 9)};
    const std::vector<BranchKey> children = d.fork(root, 3);
    SamplingParams warm;
    warm.temperature = 0.5f;
    warm.seed = 7;
    for (const BranchKey child : children) requests.push_back(d.decode(child, 30, warm));
    d.run();
    d.truncate(children[0], 25);
    requests.push_back(d.decode(children[0], 20));
    d.prune(children[1]);
    d.run();
    model->check_invariants();
    steps = d.engine->stats().steps;
    std::vector<Tokens> tokens;
    for (const RequestId request : requests) tokens.push_back(d.tokens[request]);
    const DraftSourceStats stats = d.engine->stats().speculation.sources[static_cast<size_t>(DraftSourceId::kModel)];
    CHECK_EQ(stats.ns > 0, speculation.mode != SpeculationMode::kOff);
    CHECK_EQ(d.engine->stats().speculation.refused_drafts, int64_t{0});
    return tokens;
  };
  int64_t plain_steps = 0, steps = 0;
  const auto plain = run({}, plain_steps);
  CHECK(run({SpeculationMode::kAlways, 16, bit(DraftSourceId::kModel)}, steps) == plain);
  CHECK(4 * steps < 3 * plain_steps);
}

// ---- The caller's drafts

constexpr DraftContext kContext = {1, 9, 8, 8, 0};

DraftCommand tree_of(int32_t len, Tokens tokens, Tokens parents) {
  return {1, len, false, std::move(tokens), std::move(parents), {}};
}

TEST(caller_is_asked_once_and_its_tree_follows_the_text) {
  CallerSource source(kFakeVocab, 8);
  source.extend(1, Tokens{7, 8, 9}, 3);
  std::vector<DraftNode> nodes;
  source.propose(kContext, nodes);
  source.propose(kContext, nodes);
  CHECK(nodes.empty());
  const std::vector<DraftRequest> requests = source.take_requests();
  REQUIRE(requests.size() == 1);
  CHECK(requests[0].tokens == Tokens({7, 8, 9}));
  CHECK_EQ(requests[0].max_depth, 8);
  // 1 -> (2 -> 3, 4), 5; the text has gone on to 1 when it comes.
  source.extend(1, Tokens{1}, 4);
  CHECK(source.answer(tree_of(3, {1, 2, 3, 4, 5}, {-1, 0, 1, 0, -1})) == CallerSource::Answer::kTaken);
  source.propose(kContext, nodes);
  CHECK_EQ(nodes.size(), size_t{3});
  CHECK_EQ(nodes[0].token, 2);
  CHECK(is_draft_tree(nodes, kContext, kFakeVocab));
  CHECK_EQ(source.take_requests().size(), size_t{1});  // of the text as it is now
  source.extend(1, Tokens{2, 3}, 6);
  nodes.clear();
  source.propose(kContext, nodes);
  CHECK(nodes.empty());
  CHECK_EQ(source.num_late(), int64_t{0});  // it was right to its end
}

TEST(caller_that_comes_late_is_told) {
  CallerSource source(kFakeVocab, 8);
  source.extend(1, Tokens{9}, 1);
  std::vector<DraftNode> nodes;
  source.propose(kContext, nodes);
  source.extend(1, Tokens{3}, 2);
  CHECK(source.answer(tree_of(1, {4}, {-1})) == CallerSource::Answer::kTaken);
  source.propose(kContext, nodes);
  CHECK(nodes.empty());
  CHECK_EQ(source.num_late(), int64_t{1});
  CHECK(source.answer(tree_of(9, {4}, {-1})) == CallerSource::Answer::kLate);  // was not asked for that
  source.forget(1);
  CHECK(source.answer(tree_of(2, {4}, {-1})) == CallerSource::Answer::kLate);
}

TEST(caller_whose_answer_is_no_tree_is_refused) {
  for (const DraftCommand& bad : {
           DraftCommand{1, 1, true, {}, {}, {}},
           tree_of(1, {kFakeVocab}, {-1}),
           tree_of(1, {-1}, {-1}),
           tree_of(1, {1, 2}, {1, 0}),  // a cycle
           tree_of(1, {1, 1}, {-1, -1}),
           tree_of(1, {1, 2}, {-1}),
           DraftCommand{1, 1, false, {1}, {-1}, {0.5f, 0.5f}},
           DraftCommand{1, 1, false, {1}, {-1}, {NAN}},
           tree_of(1, {1, 2, 3, 4, 5, 6, 7, 8, 9}, {-1, 0, 1, 2, 3, 4, 5, 6, 7}),  // too large
       }) {
    CallerSource source(kFakeVocab, 8);
    source.extend(1, Tokens{9}, 1);
    std::vector<DraftNode> nodes;
    source.propose(kContext, nodes);
    CHECK(source.answer(bad) == CallerSource::Answer::kRefused);
    source.propose(kContext, nodes);
    CHECK(nodes.empty());
    CHECK_EQ(source.take_requests().size(), size_t{2});  // it is asked again
  }
}

TEST(engine_asks_the_caller_and_uses_what_comes_in_time) {
  EngineOptions options = fake_options();
  options.speculation = {SpeculationMode::kAlways, 8, bit(DraftSourceId::kCaller)};
  Driver d(options);
  const BranchKey b = d.create();
  const Tokens prompt = some_tokens(12, 1);
  d.extend(b, prompt);
  const RequestId decode = d.decode(b, 30);
  int num_asked = 0;
  for (int i = 0; i < 200; ++i) {
    StepMessage message;
    std::vector<Command> taken = std::exchange(d.commands, {});
    const StepOutcome outcome = d.engine->step(taken, message);
    for (const DecodedToken& token : message.tokens) d.tokens[token.request].push_back(token.token);
    for (const DraftRequest& request : message.draft_requests) {
      ++num_asked;
      CHECK_EQ(request.branch, b);
      DraftCommand answer = {b, static_cast<int32_t>(request.tokens.size()), num_asked % 5 == 0, {}, {}, {}};
      answer.tokens = expected_decode(request.tokens, 6);
      for (int32_t j = 0; j < 6; ++j) answer.parents.push_back(j - 1);
      d.push(answer);
    }
    if (outcome == StepOutcome::kIdle && d.commands.empty()) break;
  }
  CHECK(d.tokens[decode] == expected_decode(prompt, 30));
  const EngineStats stats = d.engine->stats();
  CHECK(stats.steps < 20);
  CHECK(stats.speculation.accepted_draft_tokens > 10);
  CHECK_EQ(stats.speculation.refused_drafts, int64_t{num_asked / 5});
}

}  // namespace
}  // namespace deftree
