// For tests: an engine over the fake backend, stepped by hand, with its answers filed by request.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/test.h"
#include "engine/engine.h"
#include "engine/fake_backend.h"

namespace deftree::test {

inline EngineOptions fake_options(int32_t num_pages = 64, int32_t max_step_tokens = 32) {
  EngineOptions options;
  options.num_pages = num_pages;
  options.page_size = 8;
  options.vocab_size = kFakeVocab;
  options.context_len = 400;
  options.max_step_tokens = max_step_tokens;
  options.check_each_step = true;
  // Token i is the letter 'a' + i % 26.
  for (int32_t i = 0; i < kFakeVocab; ++i) options.token_bytes += static_cast<char>('a' + i % 26);
  for (int32_t i = 0; i <= kFakeVocab; ++i) options.token_offsets.push_back(i);
  return options;
}

class Driver {
 public:
  explicit Driver(const EngineOptions& options = fake_options()) {
    auto owned = std::make_unique<FakeBackend>(options.num_pages, options.page_size);
    backend = owned.get();
    engine = std::make_unique<Engine>(options, std::move(owned), cancel);
  }

  void push(Command command) { commands.push_back(std::move(command)); }

  // Short forms; those with a request return its id.
  BranchKey create() {
    push(CreateCommand{next_branch});
    return next_branch++;
  }
  RequestId extend(BranchKey branch, std::vector<int32_t> tokens) {
    push(ExtendCommand{next_request, branch, std::move(tokens)});
    return next_request++;
  }
  RequestId decode(BranchKey branch, int32_t max_tokens, SamplingParams sampling = {},
                   std::vector<int32_t> stop_tokens = {}, std::vector<std::string> stop_strings = {}) {
    push(DecodeCommand{next_request, branch, max_tokens, std::move(stop_tokens), std::move(stop_strings),
                       std::move(sampling)});
    return next_request++;
  }
  std::vector<BranchKey> fork(BranchKey branch, int n, uint32_t first_ordinal = 0) {
    ForkCommand command{next_request++, branch, {}, first_ordinal};
    for (int i = 0; i < n; ++i) command.children.push_back(next_branch++);
    push(command);
    return command.children;
  }
  RequestId score(BranchKey branch, std::vector<int32_t> tokens) {
    push(ScoreCommand{next_request, branch, std::move(tokens)});
    return next_request++;
  }
  RequestId logits(BranchKey branch) {
    push(LogitsCommand{next_request, branch});
    return next_request++;
  }
  RequestId truncate(BranchKey branch, int32_t len) {
    push(TruncateCommand{next_request, branch, len});
    return next_request++;
  }
  void prune(BranchKey branch, bool keep_cached = false) { push(PruneCommand{branch, keep_cached}); }

  StepOutcome step() {
    StepMessage message;
    std::vector<Command> taken = std::exchange(commands, {});
    const StepOutcome outcome = engine->step(taken, message);
    for (const DecodedToken& token : message.tokens) tokens[token.request].push_back(token.token);
    for (FinishedRequest& finished : message.finished) {
      CHECK(results.find(finished.request) == results.end());  // each request is answered once
      order.push_back(finished.request);
      results.emplace(finished.request, std::move(finished));
    }
    for (const CheckResult& check : message.checks) CHECK(!check.broken);
    if (message.fatal) fatal.push_back(*message.fatal);
    return outcome;
  }

  // Steps until nothing is left to do.
  void run() {
    for (int i = 0; i < 5000; ++i) {
      if (step() == StepOutcome::kIdle && commands.empty()) return;
    }
    fail(__FILE__, __LINE__, "the engine does not come to rest");
  }

  const FinishedRequest& result(RequestId request) {
    const auto it = results.find(request);
    if (it == results.end()) {
      fail(__FILE__, __LINE__, "request " + std::to_string(request) + " has no answer");
      throw Stop{};
    }
    return it->second;
  }

  std::atomic<bool> cancel{false};
  FakeBackend* backend;
  std::unique_ptr<Engine> engine;
  std::vector<Command> commands;
  std::map<RequestId, std::vector<int32_t>> tokens;
  std::map<RequestId, FinishedRequest> results;
  std::vector<RequestId> order;
  std::vector<Error> fatal;
  RequestId next_request = 1;
  BranchKey next_branch = 1;
};

// n tokens that depend on `seed`.
inline std::vector<int32_t> some_tokens(int n, uint64_t seed) {
  std::vector<int32_t> tokens(n);
  for (int i = 0; i < n; ++i) tokens[i] = static_cast<int32_t>(uniform_random(seed, 0, i) * kFakeVocab);
  return tokens;
}

// What the model decodes after `tokens`, alone.
inline std::vector<int32_t> expected_decode(std::vector<int32_t> tokens, int n, const SamplingParams& params = {},
                                            uint64_t path_hash = 0) {
  std::vector<int32_t> decoded;
  for (int i = 0; i < n; ++i) {
    decoded.push_back(fake_token(tokens, params, path_hash));
    tokens.push_back(decoded.back());
  }
  return decoded;
}

}  // namespace deftree::test
