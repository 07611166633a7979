// Speculation in the engine: whatever is drafted, a request's tokens, log-probabilities and end are those of plain
// decoding.
#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>
#include <vector>

#include "engine/engine_driver.h"
#include "engine/guessing_source.h"

namespace deftree {
namespace {

using test::Driver;
using test::expected_decode;
using test::fake_options;
using test::fake_token;
using test::GuessingSource;
using test::kFakeVocab;
using test::some_tokens;

constexpr SpeculationParams kAddedOnly = {SpeculationMode::kAlways, 32, 1u << static_cast<int>(DraftSourceId::kCaller)};

EngineOptions speculating(EngineOptions options = fake_options(), SpeculationParams speculation = kAddedOnly) {
  options.speculation = speculation;
  return options;
}

void add_guess(Driver& d, GuessingSource::Guess guess) {
  d.engine->speculator().add_source(std::make_unique<GuessingSource>(std::move(guess)));
}

// The next tokens that greedy plain decoding would draw, as a chain.
void guess_right(const DraftContext& context, std::vector<int32_t> path, std::vector<DraftNode>& nodes) {
  for (int32_t i = 0; i < std::min({context.max_depth, context.max_nodes, 4}); ++i) {
    nodes.push_back({i - 1, fake_token(path), 0.9f, 0});
    path.push_back(nodes.back().token);
  }
}

void guess_wrong(const DraftContext& context, const std::vector<int32_t>& path, std::vector<DraftNode>& nodes) {
  const int32_t right = fake_token(path);
  for (int32_t i = 0; i < std::min(context.max_nodes, 3); ++i) {
    nodes.push_back({-1, (right + 1 + i) % kFakeVocab, 0.5f, 1});
  }
}

TEST(engine_right_drafts_give_several_tokens_a_step) {
  Driver d(speculating());
  add_guess(d, guess_right);
  const BranchKey b = d.create();
  const auto prompt = some_tokens(21, 1);
  d.extend(b, prompt);
  const RequestId decode = d.decode(b, 20);
  d.run();
  CHECK(d.tokens[decode] == expected_decode(prompt, 20));
  CHECK(d.result(decode).reason == FinishReason::kLength);
  CHECK_EQ(d.result(decode).branch_len, 41);
  const EngineStats stats = d.engine->stats();
  // The prompt's step gives the first token, four steps give five each; the last draft is cut to what is wanted.
  CHECK_EQ(stats.steps, int64_t{5});
  CHECK_EQ(stats.speculation.draft_trees, int64_t{4});
  CHECK_EQ(stats.speculation.verify_steps, int64_t{4});
  CHECK_EQ(stats.speculation.drafted_tokens, int64_t{4 + 4 + 4 + 3});
  CHECK_EQ(stats.speculation.accepted_draft_tokens, int64_t{15});
  CHECK_EQ(stats.speculation.sources[static_cast<size_t>(DraftSourceId::kCaller)].ranks[0].accepted_tokens, int64_t{15});
  CHECK(stats.drafting_ns > 0);

  // The branch is where plain decoding would have left it: one more step gives the logits.
  const RequestId logits = d.logits(b);
  d.run();
  std::vector<int32_t> path = prompt;
  path.insert(path.end(), d.tokens[decode].begin(), d.tokens[decode].end());
  CHECK(d.result(logits).logits == test::fake_logits(path));
  CHECK_EQ(d.engine->stats().tokens_in_forest, int64_t{41});
}

TEST(engine_wrong_drafts_cost_rows_and_change_nothing) {
  Driver d(speculating());
  add_guess(d, guess_wrong);
  const BranchKey b = d.create();
  d.extend(b, some_tokens(21, 1));
  const RequestId decode = d.decode(b, 60);
  d.run();
  CHECK(d.tokens[decode] == expected_decode(some_tokens(21, 1), 60));
  const SpeculationStats stats = d.engine->stats().speculation;
  CHECK_EQ(stats.accepted_draft_tokens, int64_t{0});
  CHECK(stats.draft_trees > 0);
  CHECK(stats.draft_trees < 10);  // it looks less and less often
}

TEST(engine_accepts_paths_that_do_not_lie_first) {
  // A wrong sibling stands before the right token on each level, so the accepted KV is moved.
  Driver d(speculating());
  add_guess(d, [](const DraftContext& context, std::vector<int32_t> path, std::vector<DraftNode>& nodes) {
    int32_t parent = -1;
    for (int32_t i = 0; i < std::min(context.max_depth, 4); ++i) {
      const int32_t right = fake_token(path);
      nodes.push_back({parent, (right + 1) % kFakeVocab, 0.95f, 1});
      nodes.push_back({parent, right, 0.6f, 2});
      parent = static_cast<int32_t>(nodes.size()) - 1;
      path.push_back(right);
    }
  });
  const BranchKey b = d.create();
  d.extend(b, some_tokens(21, 1));
  const RequestId decode = d.decode(b, 60);
  d.run();
  CHECK(d.tokens[decode] == expected_decode(some_tokens(21, 1), 60));
  CHECK(d.engine->stats().speculation.accepted_draft_tokens > 20);
  d.push(CheckCommand{1});
  d.run();
  CHECK(d.fatal.empty());
}

TEST(engine_drafts_end_with_stop_tokens_strings_and_the_context) {
  const auto prompt = some_tokens(21, 1);
  const auto all = expected_decode(prompt, 40);
  for (int at = 1; at < 12; ++at) {
    Driver d(speculating());
    add_guess(d, guess_right);
    const BranchKey a = d.create(), b = d.create();
    d.extend(a, prompt);
    d.extend(b, prompt);
    const RequestId by_token = d.decode(a, 40, {}, {all[at]});
    const std::string stop = {static_cast<char>('a' + all[at - 1] % 26), static_cast<char>('a' + all[at] % 26)};
    const RequestId by_string = d.decode(b, 40, {}, {}, {stop});
    d.run();
    const size_t first = std::ranges::find(all, all[at]) - all.begin() + 1;
    CHECK(d.tokens[by_token] == std::vector<int32_t>(all.begin(), all.begin() + first));
    CHECK(d.result(by_token).reason == FinishReason::kStop);
    CHECK_EQ(d.result(by_token).branch_len, 21 + static_cast<int32_t>(first));
    CHECK(d.result(by_string).reason == FinishReason::kStopString);
    CHECK_EQ(d.result(by_string).stop_index, 0);
    const auto tokens = d.tokens[by_string];
    CHECK(tokens == std::vector<int32_t>(all.begin(), all.begin() + tokens.size()));
    CHECK(tokens.size() <= static_cast<size_t>(at) + 1);
  }
  EngineOptions options = speculating();
  options.context_len = 30;
  Driver d(options);
  add_guess(d, guess_right);
  const BranchKey b = d.create();
  d.extend(b, prompt);
  const RequestId decode = d.decode(b, 40);
  d.run();
  CHECK_EQ(d.tokens[decode].size(), size_t{9});
  CHECK(d.result(decode).reason == FinishReason::kContext);
}

TEST(engine_refuses_drafts_that_are_no_tree) {
  int call = 0;
  Driver d(speculating());
  add_guess(d, [&](const DraftContext& context, const std::vector<int32_t>&, std::vector<DraftNode>& nodes) {
    switch (call++ % 6) {
      case 0: throw std::runtime_error("a broken source");
      case 1: nodes = {{-1, kFakeVocab, 0.5f, 0}}; break;
      case 2: nodes = {{1, 3, 0.5f, 0}, {0, 4, 0.5f, 0}}; break;
      case 3: for (int32_t i = 0; i <= context.max_nodes; ++i) nodes.push_back({i - 1, 3, 0.5f, 0}); break;
      case 4: nodes = {{-1, 3, 0.5f, 0}, {-1, 3, 0.5f, 0}}; break;
      case 5: nodes = {{-1, 3, NAN, 0}}; break;
    }
  });
  const BranchKey b = d.create();
  d.extend(b, some_tokens(21, 1));
  const RequestId decode = d.decode(b, 100);
  d.run();
  CHECK(d.tokens[decode] == expected_decode(some_tokens(21, 1), 100));
  CHECK(call >= 6);
  CHECK_EQ(d.engine->stats().speculation.refused_drafts, static_cast<int64_t>(call));
  CHECK_EQ(d.engine->stats().speculation.draft_trees, int64_t{0});
}

TEST(engine_drops_drafts_when_pages_are_short) {
  // Six pages of 8: the prompt takes three, the decoded tokens need the others.
  const auto prompt = some_tokens(21, 1);
  EngineOptions options = speculating(fake_options(6));
  Driver d(options);
  add_guess(d, [](const DraftContext&, const std::vector<int32_t>&, std::vector<DraftNode>& nodes) {
    for (int32_t i = 0; i < 24; ++i) nodes.push_back({-1, i, 0.5f, 0});  // three pages of guesses
  });
  const BranchKey b = d.create();
  d.extend(b, prompt);
  const RequestId decode = d.decode(b, 27);  // fills the last page
  d.run();
  CHECK(d.tokens[decode] == expected_decode(prompt, 27));
  CHECK(d.result(decode).reason == FinishReason::kLength);
  CHECK(d.engine->stats().speculation.dropped_drafts > 0);

  const RequestId more = d.decode(b, 10);
  d.run();
  CHECK(d.result(more).reason == FinishReason::kError);
  CHECK(d.result(more).error->code() == ErrorCode::kKvFull);
}

TEST(engine_a_draft_row_that_cannot_be_drawn_fails_the_request_only_when_it_is_reached) {
  for (const bool reached : {false, true}) {
    Driver d(speculating());
    const auto prompt = some_tokens(21, 1);
    const auto expected = expected_decode(prompt, 3);
    add_guess(d, [&](const DraftContext&, const std::vector<int32_t>& path, std::vector<DraftNode>& nodes) {
      const int32_t right = fake_token(path);
      nodes.push_back({-1, reached ? right : (right + 1) % kFakeVocab, 0.9f, 0});
    });
    const BranchKey b = d.create();
    d.extend(b, prompt);
    const RequestId decode = d.decode(b, 3);
    d.step();  // the first token, plainly
    d.backend->fail_position = 23;  // the draft row draws the token at position 23
    d.step();
    if (reached) {
      d.run();
      CHECK(d.result(decode).reason == FinishReason::kError);
      CHECK(d.tokens[decode] == std::vector<int32_t>(expected.begin(), expected.begin() + 2));
      CHECK_EQ(d.result(decode).branch_len, 23);
    } else {
      CHECK_EQ(d.tokens[decode].size(), size_t{2});
      d.backend->fail_position = -1;
      d.run();
      CHECK(d.tokens[decode] == expected);
    }
    CHECK(d.fatal.empty());
  }
}

TEST(engine_rolls_drafts_back_when_the_forward_pass_fails) {
  Driver d(speculating());
  add_guess(d, guess_right);
  const BranchKey b = d.create();
  const auto prompt = some_tokens(21, 1);
  d.extend(b, prompt);
  const RequestId decode = d.decode(b, 20);
  d.step();
  d.backend->on_forward = [](const StepBatch&) { throw Error(ErrorCode::kOutOfMemory, "no memory"); };
  d.step();
  CHECK(d.result(decode).reason == FinishReason::kError);
  CHECK(d.fatal.empty());
  d.backend->on_forward = nullptr;
  const RequestId again = d.decode(b, 19);
  d.run();
  std::vector<int32_t> all = d.tokens[decode];
  all.insert(all.end(), d.tokens[again].begin(), d.tokens[again].end());
  CHECK(all == expected_decode(prompt, 20));
}

TEST(engine_prunes_cancels_and_forks_between_speculative_steps) {
  Driver d(speculating());
  add_guess(d, guess_right);
  const auto prompt = some_tokens(21, 1);
  const BranchKey a = d.create(), b = d.create(), c = d.create();
  for (BranchKey branch : {a, b, c}) d.extend(branch, prompt);
  const RequestId pruned = d.decode(a, 50), cancelled = d.decode(b, 50), forked = d.decode(c, 12);
  const auto children = d.fork(c, 2);
  const RequestId child = d.decode(children[1], 10);
  d.step();
  d.step();
  d.prune(a);
  d.push(CancelCommand{cancelled});
  const RequestId shorter = d.truncate(b, 24);
  const RequestId after = d.decode(b, 6);
  d.run();
  CHECK(d.result(pruned).reason == FinishReason::kPruned);
  CHECK(d.result(cancelled).reason == FinishReason::kAborted);
  CHECK_EQ(d.result(cancelled).branch_len, 21 + static_cast<int32_t>(d.tokens[cancelled].size()));
  CHECK(d.result(shorter).reason == FinishReason::kDone);
  const auto all = expected_decode(prompt, 30);
  CHECK(d.tokens[after] == std::vector<int32_t>(all.begin() + 3, all.begin() + 9));
  CHECK(d.tokens[forked] == std::vector<int32_t>(all.begin(), all.begin() + 12));
  CHECK(d.tokens[child] == std::vector<int32_t>(all.begin() + 12, all.begin() + 22));
}

TEST(engine_shares_the_step_budget_with_drafts) {
  EngineOptions options = speculating(fake_options(200, 16));
  Driver d(options);
  add_guess(d, [](const DraftContext&, const std::vector<int32_t>&, std::vector<DraftNode>& nodes) {
    for (int32_t i = 0; i < 30; ++i) nodes.push_back({-1, i, 0.5f, 0});
  });
  size_t most = 0;
  d.backend->on_forward = [&](const StepBatch& batch) { most = std::max(most, batch.tokens.size()); };
  std::vector<RequestId> decodes;
  for (int i = 0; i < 5; ++i) {
    const BranchKey b = d.create();
    d.extend(b, some_tokens(30 + i, i));
    decodes.push_back(d.decode(b, 20));
  }
  d.run();
  CHECK_EQ(most, size_t{16});
  for (int i = 0; i < 5; ++i) CHECK(d.tokens[decodes[i]] == expected_decode(some_tokens(30 + i, i), 20));
}

TEST(engine_auto_mode_speculates_by_its_step_cost) {
  for (const bool rows_are_free : {true, false}) {
    EngineOptions options = speculating(fake_options(), {SpeculationMode::kAuto, 32, kAddedOnly.sources});
    // A step takes far longer than the fake backend's own, so that its steps do not change the curve's shape much.
    options.step_cost = rows_are_free ? std::vector<StepCostPoint>{{1, 1e12}, {64, 1e12}}
                                      : std::vector<StepCostPoint>{{1, 1e12}, {2, 4e12}};
    Driver d(options);
    add_guess(d, guess_right);
    const BranchKey b = d.create();
    d.extend(b, some_tokens(21, 1));
    const RequestId decode = d.decode(b, 20);
    d.run();
    CHECK(d.tokens[decode] == expected_decode(some_tokens(21, 1), 20));
    CHECK_EQ(d.engine->stats().speculation.draft_trees > 0, rows_are_free);
  }
}

TEST(engine_measures_its_step_cost_and_leaves_no_trace) {
  for (const bool at_load : {true, false}) {
    EngineOptions options = fake_options();
    if (at_load) options.speculation.mode = SpeculationMode::kAuto;
    Driver d(options);
    CHECK_EQ(d.engine->speculator().cost().known(), at_load);
    const BranchKey b = d.create();
    d.extend(b, some_tokens(21, 1));
    // The backend keeps its plan from step to step; the steps that are timed in between must not come into it.
    d.backend->appends_to_plans = true;
    DecodeCommand command{100, b, 4, {}, {}, {}};
    command.speculation = SpeculationParams{};
    d.push(command);
    command = {101, b, 16, {}, {}, {}};
    command.speculation = SpeculationParams{.mode = SpeculationMode::kAuto};
    d.push(command);
    d.run();
    std::vector<int32_t> tokens = d.tokens[100];
    tokens.insert(tokens.end(), d.tokens[101].begin(), d.tokens[101].end());
    CHECK(tokens == expected_decode(some_tokens(21, 1), 20));
    const auto& points = d.engine->speculator().cost().points();
    REQUIRE(points.size() >= 2);
    CHECK_EQ(points[0].rows, 1);
    CHECK(points.back().rows <= options.max_step_tokens);
    d.prune(b);
    d.run();
    CHECK_EQ(d.engine->stats().num_free_pages, 64);
  }
}

TEST(a_draft_size_that_is_none_is_refused) {
  DecodeCommand command{1, 1, 5, {}, {}, {}};
  for (const int32_t size : {0, -1, 1025}) {
    command.speculation = SpeculationParams{SpeculationMode::kAuto, size, kAllDraftSources};
    CHECK_ERROR(validate(command, kFakeVocab, 100), ErrorCode::kBadArgument);
  }
  command.speculation->max_draft_tokens = 1024;
  validate(command, kFakeVocab, 100);
}

// ---- The same requests with and without speculation

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<std::vector<TokenLogprob>> top;
  FinishReason reason;
  int32_t branch_len, stop_index;
};

// A few prompts, forks of them, and decodes with every kind of sampling; the answers by request.
std::vector<Answer> answers(unsigned seed, SpeculationParams speculation, SpeculationStats* stats) {
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  EngineOptions options = fake_options(400, 8 + below(60));
  options.context_len = 120;
  options.speculation = speculation;
  const auto policies = attention::all_policies();
  options.policy = policies[below(static_cast<int>(policies.size()))];
  Driver d(options);
  std::mt19937 guess_random(seed + 1);
  add_guess(d, [&](const DraftContext& context, std::vector<int32_t> path, std::vector<DraftNode>& nodes) {
    // A random tree with the greedy tokens in it here and there.
    const int32_t count = static_cast<int32_t>(guess_random() % (context.max_nodes + 1));
    std::vector<std::vector<int32_t>> paths;
    for (int32_t i = 0; i < count; ++i) {
      const int32_t parent = static_cast<int32_t>(guess_random() % (i + 1)) - 1;
      std::vector<int32_t> own = parent < 0 ? path : paths[parent];
      const int32_t token = guess_random() % 3 ? fake_token(own) : static_cast<int32_t>(guess_random() % kFakeVocab);
      const bool is_new = std::ranges::none_of(nodes, [&](const DraftNode& n) { return n.parent == parent && n.token == token; });
      const bool fits = static_cast<int32_t>(own.size() - path.size()) < context.max_depth;
      if (!is_new || !fits) break;
      nodes.push_back({parent, token, 0.1f + 0.9f * static_cast<float>(guess_random() % 10) / 10, static_cast<int32_t>(guess_random() % 4)});
      own.push_back(token);
      paths.push_back(std::move(own));
    }
  });

  std::vector<RequestId> decodes;
  std::vector<BranchKey> branches;
  for (int i = 0; i < 3; ++i) {
    branches.push_back(d.create());
    d.extend(branches.back(), some_tokens(10 + below(30), below(3)));
  }
  for (int i = 0; i < 14; ++i) {
    const BranchKey b = branches[below(static_cast<int>(branches.size()))];
    if (branches.size() < 8 && below(3) == 0) {
      for (BranchKey child : d.fork(b, 2)) branches.push_back(child);
    }
    SamplingParams params;
    params.temperature = static_cast<float>(below(3)) * 0.6f;
    params.seed = below(5);
    if (below(3) == 0) params.top_k = 5;
    if (below(3) == 0) params.top_p = 0.8f;
    if (below(3) == 0) params.min_p = 0.1f;
    if (below(3) == 0) params.repetition_penalty = 1.5f;
    if (below(3) == 0) params.logit_bias = {{below(kFakeVocab), 3.0f}, {below(kFakeVocab), -INFINITY}};
    params.num_logprobs = below(4) == 0 ? below(12) : -1 + below(2);
    std::vector<int32_t> stop_tokens;
    std::vector<std::string> stop_strings;
    if (below(3) == 0) stop_tokens = {below(kFakeVocab), below(kFakeVocab)};
    if (below(3) == 0) stop_strings = {std::string(1, static_cast<char>('a' + below(26))) + static_cast<char>('a' + below(26))};
    decodes.push_back(d.decode(b, 1 + below(30), params, stop_tokens, stop_strings));
  }
  std::vector<std::vector<TokenLogprob>> none;
  std::map<RequestId, Answer> by_request;
  for (int i = 0; i < 3000; ++i) {
    StepMessage message;
    std::vector<Command> taken = std::exchange(d.commands, {});
    const StepOutcome outcome = d.engine->step(taken, message);
    for (size_t t = 0; t < message.tokens.size(); ++t) {
      Answer& answer = by_request[message.tokens[t].request];
      answer.tokens.push_back(message.tokens[t].token);
      answer.logprobs.push_back(message.tokens[t].logprob);
      answer.top.push_back(message.top.empty() ? std::vector<TokenLogprob>{} : message.top[t]);
    }
    for (const FinishedRequest& finished : message.finished) {
      Answer& answer = by_request[finished.request];
      answer.reason = finished.reason;
      answer.branch_len = finished.branch_len;
      answer.stop_index = finished.stop_index;
    }
    CHECK(!message.fatal);
    if (outcome == StepOutcome::kIdle) break;
  }
  *stats = d.engine->stats().speculation;
  std::vector<Answer> result;
  for (RequestId id : decodes) result.push_back(by_request[id]);
  return result;
}

TEST(engine_speculation_changes_no_token_logprob_or_end) {
  int64_t accepted = 0, rejected = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    SpeculationStats stats;
    const std::vector<Answer> plain = answers(seed, {}, &stats);
    CHECK_EQ(stats.draft_trees, int64_t{0});
    const std::vector<Answer> speculative = answers(seed, {SpeculationMode::kAlways, 1 + static_cast<int32_t>(seed) % 20, kAllDraftSources}, &stats);
    accepted += stats.accepted_draft_tokens;
    rejected += stats.drafted_tokens - stats.accepted_draft_tokens;
    REQUIRE(plain.size() == speculative.size());
    for (size_t i = 0; i < plain.size(); ++i) {
      const Answer &a = plain[i], &b = speculative[i];
      CHECK(a.tokens == b.tokens);
      CHECK(a.reason == b.reason && a.branch_len == b.branch_len && a.stop_index == b.stop_index);
      REQUIRE(a.tokens.size() == b.tokens.size());
      for (size_t t = 0; t < a.tokens.size(); ++t) {
        CHECK(a.logprobs[t] == b.logprobs[t] || (std::isnan(a.logprobs[t]) && std::isnan(b.logprobs[t])));
        REQUIRE(a.top[t].size() == b.top[t].size());
        for (size_t k = 0; k < a.top[t].size(); ++k) {
          CHECK(a.top[t][k].token == b.top[t][k].token && a.top[t][k].logprob == b.top[t][k].logprob);
        }
      }
    }
  }
  CHECK(accepted > 1000 && rejected > 1000);
}

}  // namespace
}  // namespace deftree
