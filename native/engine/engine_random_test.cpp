// Random operations in random order, cancels and prunes among them, beside a naive model: each branch is a plain list of
// tokens, and what the engine answers must follow from it by the language model alone.
#include <algorithm>
#include <list>
#include <map>
#include <random>
#include <variant>

#include "engine/engine_driver.h"
#include "engine/guessing_source.h"

namespace deftree {
namespace {

using test::Driver;
using test::fake_options;
using test::some_tokens;

struct NaiveBranch {
  bool born = false;
  uint64_t path_hash = 0;
  std::vector<int32_t> tokens;
  std::list<std::pair<RequestId, BranchCommand>> queue;
};

class NaiveModel {
 public:
  std::map<BranchKey, NaiveBranch> branches;

  void note(const Command& command) {
    std::visit(
        [&](const auto& c) {
          using C = std::decay_t<decltype(c)>;
          if constexpr (std::is_same_v<C, CreateCommand>) branches[c.branch].born = true;
          if constexpr (std::is_same_v<C, ForkCommand>) {
            for (BranchKey child : c.children) branches[child];
          }
          if constexpr (requires { c.request; } && requires { c.branch; }) {
            branches.at(c.branch).queue.emplace_back(c.request, c);
          }
        },
        command);
  }

  // `pruned` requests and branches are taken out by the caller's prune before the step's answers come.
  void answer(Driver& d, const FinishedRequest& result, int32_t context_len) {
    for (auto& [key, branch] : branches) {
      const auto it = std::find_if(branch.queue.begin(), branch.queue.end(),
                                   [&](const auto& entry) { return entry.first == result.request; });
      if (it == branch.queue.end()) continue;
      const BranchCommand command = it->second;
      const bool was_running = it == branch.queue.begin();
      branch.queue.erase(it);
      if (!was_running) {
        CHECK(result.reason == FinishReason::kAborted);  // only a cancel overtakes
        if (const auto* fork = std::get_if<ForkCommand>(&command)) {
          for (BranchKey child : fork->children) drop(child);
        }
        return;
      }
      check(d, branch, command, result, context_len);
      CHECK_EQ(result.branch_len, static_cast<int32_t>(branch.tokens.size()));
      return;
    }
    // Sent to a child whose fork was cancelled by the same batch of commands.
    CHECK(result.error && result.error->code() == ErrorCode::kDisposed);
  }

  void drop(BranchKey key) {
    const auto it = branches.find(key);
    if (it == branches.end()) return;
    std::vector<BranchKey> unborn;
    for (const auto& [id, command] : it->second.queue) {
      if (const auto* fork = std::get_if<ForkCommand>(&command)) unborn.insert(unborn.end(), fork->children.begin(), fork->children.end());
    }
    branches.erase(it);
    for (BranchKey child : unborn) drop(child);
  }

 private:
  void check(Driver& d, NaiveBranch& branch, const BranchCommand& command, const FinishedRequest& result, int32_t context_len) {
    const bool failed = result.reason == FinishReason::kError;
    if (const auto* extend = std::get_if<ExtendCommand>(&command)) {
      size_t kept = result.reason == FinishReason::kDone ? extend->tokens.size() : 0;
      if (result.reason == FinishReason::kAborted) kept = result.branch_len - branch.tokens.size();
      REQUIRE(kept <= extend->tokens.size());
      branch.tokens.insert(branch.tokens.end(), extend->tokens.begin(), extend->tokens.begin() + kept);
      if (failed) CHECK(result.error->code() == ErrorCode::kContextFull || result.error->code() == ErrorCode::kKvFull);
    } else if (const auto* fork = std::get_if<ForkCommand>(&command)) {
      for (size_t i = 0; i < fork->children.size(); ++i) {
        const auto child = branches.find(fork->children[i]);
        if (child == branches.end()) continue;
        if (result.reason != FinishReason::kDone) {
          drop(fork->children[i]);
          continue;
        }
        child->second.born = true;
        child->second.tokens = branch.tokens;
        child->second.path_hash = fork_path_hash(branch.path_hash, fork->first_ordinal + static_cast<uint32_t>(i));
      }
    } else if (const auto* decode = std::get_if<DecodeCommand>(&command)) {
      for (int32_t token : d.tokens[result.request]) {
        CHECK_EQ(token, test::fake_token(branch.tokens, decode->sampling, branch.path_hash));
        branch.tokens.push_back(token);
      }
      const int32_t num_decoded = static_cast<int32_t>(d.tokens[result.request].size());
      if (result.reason == FinishReason::kLength) CHECK_EQ(num_decoded, decode->max_tokens);
      if (result.reason == FinishReason::kContext) CHECK_EQ(static_cast<int32_t>(branch.tokens.size()), context_len);
      if (result.reason == FinishReason::kStop) CHECK_EQ(branch.tokens.back(), decode->stop_tokens[0]);
    } else if (const auto* score = std::get_if<ScoreCommand>(&command)) {
      if (result.reason != FinishReason::kDone) return;
      REQUIRE(result.logprobs.size() == score->tokens.size());
      std::vector<int32_t> path = branch.tokens;
      for (size_t i = 0; i < score->tokens.size(); ++i) {
        CHECK_NEAR(result.logprobs[i], log_prob(test::fake_logits(path), score->tokens[i]), 1e-6);
        path.push_back(score->tokens[i]);
      }
    } else if (std::holds_alternative<LogitsCommand>(command)) {
      if (result.reason == FinishReason::kDone) CHECK(result.logits == test::fake_logits(branch.tokens));
    } else if (const auto* truncate = std::get_if<TruncateCommand>(&command)) {
      if (result.reason == FinishReason::kDone) branch.tokens.resize(truncate->len);
    }
  }
};

struct RandomRun {
  std::mt19937 random;
  Driver d;
  NaiveModel model;
  EngineOptions options;
  size_t num_answered = 0;
  // A few prompts that begin alike, so that prefixes are found again.
  std::vector<std::vector<int32_t>> prompts;

  RandomRun(unsigned seed, const EngineOptions& engine_options) : random(seed), d(engine_options), options(engine_options) {
    for (uint64_t i = 0; i < 4; ++i) {
      prompts.push_back(some_tokens(10 + static_cast<int>(25 * i), 900));
      const auto own = some_tokens(20, 901 + i);
      prompts.back().insert(prompts.back().end(), own.begin(), own.end());
    }
  }

  int below(int n) { return static_cast<int>(random() % n); }

  BranchKey any_branch() {
    auto it = model.branches.begin();
    std::advance(it, below(static_cast<int>(model.branches.size())));
    return it->first;
  }

  void send_command() {
    const size_t before = d.commands.size();
    if (model.branches.empty() || (model.branches.size() < 12 && below(6) == 0)) {
      const BranchKey b = d.create();
      d.extend(b, prompts[below(4)]);
    } else {
      const BranchKey b = any_branch();
      SamplingParams params;
      params.temperature = below(2) ? 0.0f : 1.0f;
      params.seed = 3;
      if (below(4) == 0) params.repetition_penalty = 1.3f;
      switch (below(12)) {
        case 0:
        case 1: d.extend(b, below(3) ? some_tokens(below(30), random()) : prompts[below(4)]); break;
        case 2:
        case 3: if (model.branches.size() < 14) d.fork(b, below(4), random() % 100); break;
        case 4:
        case 5:
        case 6: d.decode(b, below(25), params, below(3) ? std::vector<int32_t>{} : std::vector<int32_t>{below(test::kFakeVocab)}); break;
        case 7: d.score(b, some_tokens(below(20), random())); break;
        case 8: d.logits(b); break;
        case 9: d.truncate(b, below(60)); break;
        case 10: {
          // Of the requests that may still be open; one that is answered already is no error.
          d.push(CancelCommand{static_cast<RequestId>(d.next_request - 1 - below(std::min<int>(d.next_request, 12)))});
          break;
        }
        default:
          if (model.branches.size() > 4) prune(b);
      }
    }
    for (size_t i = before; i < d.commands.size(); ++i) model.note(d.commands[i]);
  }

  // The engine sees the prune at the start of the next step, behind the commands that were sent before it.
  void prune(BranchKey key) {
    step();
    if (model.branches.find(key) == model.branches.end()) return;
    d.prune(key, below(2) == 0);
    model.drop(key);
  }

  void step() {
    d.step();
    for (; num_answered < d.order.size(); ++num_answered) {
      const FinishedRequest& result = d.result(d.order[num_answered]);
      if (result.reason == FinishReason::kPruned) continue;
      model.answer(d, result, options.context_len);
    }
  }
};

// A chain of greedy tokens with a random one among them and a random sibling below each.
void guess(std::mt19937& random, const DraftContext& context, std::vector<int32_t> path, std::vector<DraftNode>& nodes) {
  const auto below = [&](int n) { return static_cast<int32_t>(random() % n); };
  int32_t parent = -1;
  for (int32_t i = std::min(below(6), context.max_depth); i > 0 && static_cast<int32_t>(nodes.size()) + 2 <= context.max_nodes; --i) {
    const int32_t token = below(5) ? test::fake_token(path) : below(test::kFakeVocab);
    nodes.push_back({parent, (token + 1 + below(test::kFakeVocab - 1)) % test::kFakeVocab, 0.4f, 0});
    nodes.push_back({parent, token, 0.3f + 0.2f * below(3), 1});
    parent = static_cast<int32_t>(nodes.size()) - 1;
    path.push_back(token);
  }
}

void run_randomly(unsigned seed, int32_t num_pages, int32_t max_step_tokens, bool switch_policies,
                  SpeculationMode mode = SpeculationMode::kOff) {
  EngineOptions options = fake_options(num_pages, max_step_tokens);
  options.context_len = 150;
  options.speculation.mode = mode;
  RandomRun run(seed, options);
  run.d.backend->appends_to_plans = seed % 2 == 1;
  std::mt19937 guess_random(seed);
  run.d.engine->speculator().add_source(std::make_unique<test::GuessingSource>(
      [&](const DraftContext& context, const std::vector<int32_t>& path, std::vector<DraftNode>& nodes) {
        guess(guess_random, context, path, nodes);
      }));
  for (int i = 0; i < 400; ++i) {
    for (int n = run.below(4); n > 0; --n) run.send_command();
    if (switch_policies && run.below(10) == 0) {
      const auto policies = attention::all_policies();
      run.d.push(SetAttentionCommand{policies[run.below(static_cast<int>(policies.size()))]});
    }
    run.step();
  }
  for (int i = 0; i < 5000 && run.d.step() != StepOutcome::kIdle; ++i) {
  }
  CHECK(run.d.fatal.empty());
  for (const Error& error : run.d.fatal) test::fail(__FILE__, __LINE__, error.what());
  std::vector<BranchKey> left;
  for (const auto& [key, branch] : run.model.branches) left.push_back(key);
  for (BranchKey key : left) run.d.prune(key);
  run.d.run();
  const EngineStats stats = run.d.engine->stats();
  CHECK_EQ(stats.num_branches, 0);
  CHECK_EQ(stats.num_free_pages + stats.num_cached_pages, stats.num_pages);
  // Every request was answered, once (Driver::step checks the once).
  CHECK_EQ(run.d.results.size(), static_cast<size_t>(run.d.next_request - 1));
}

TEST(engine_random_operations_agree_with_a_naive_model) {
  for (unsigned seed = 0; seed < 12; ++seed) run_randomly(seed, 600, 32, false);
}

TEST(engine_random_operations_with_few_pages) {
  for (unsigned seed = 100; seed < 112; ++seed) run_randomly(seed, 40, 16, false);
}

TEST(engine_random_operations_while_policies_change) {
  for (unsigned seed = 200; seed < 208; ++seed) run_randomly(seed, 800, 24, true);
}

TEST(engine_random_operations_with_speculation) {
  for (unsigned seed = 300; seed < 310; ++seed) run_randomly(seed, 600, 32, false, SpeculationMode::kAlways);
  for (unsigned seed = 310; seed < 314; ++seed) run_randomly(seed, 600, 64, false, SpeculationMode::kAuto);
}

TEST(engine_random_operations_with_speculation_and_few_pages) {
  for (unsigned seed = 400; seed < 412; ++seed) run_randomly(seed, 40, 16, false, SpeculationMode::kAlways);
}

TEST(engine_random_operations_with_speculation_while_policies_change) {
  for (unsigned seed = 500; seed < 508; ++seed) run_randomly(seed, 800, 24, true, SpeculationMode::kAlways);
}

}  // namespace
}  // namespace deftree
