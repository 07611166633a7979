// Constrained decodes that draft: the texts, ends and log-probabilities are those without drafts, and no row is spent
// on a token that the language does not allow.
#include <algorithm>
#include <memory>
#include <vector>

#include "constraint/grammar_builder.h"
#include "engine/engine_driver.h"
#include "engine/guessing_source.h"

namespace deftree {
namespace {

using constraint::Constraint;
using test::Driver;
using test::fake_options;
using test::fake_token;
using test::GuessingSource;
using test::kFakeVocab;
using test::some_tokens;

std::shared_ptr<const Constraint> make(const constraint::Expression& language) {
  const EngineOptions options = fake_options();
  return std::make_shared<const Constraint>(
      constraint::Grammar{{language}},
      std::make_shared<const constraint::TokenTrie>(options.token_bytes, options.token_offsets));
}

struct Answer {
  std::vector<int32_t> tokens;
  FinishReason reason;
  friend bool operator==(const Answer&, const Answer&) = default;
};

// Four branches, greedy and sampled, that begin a text, fork in its middle and end it.
std::vector<Answer> decode_all(const std::shared_ptr<const Constraint>& language, int32_t stop_token,
                               SpeculationMode mode, SpeculationStats& stats) {
  EngineOptions options = fake_options(128);
  options.speculation = {mode, 8, kAllDraftSources};
  Driver d(options);
  d.engine->speculator().add_source(std::make_unique<GuessingSource>(
      [](const DraftContext& context, std::vector<int32_t> path, std::vector<DraftNode>& nodes) {
        // What may come next and what may not, on every level below the likeliest guess.
        int32_t parent = -1;
        for (int32_t i = 0; i < std::min(context.max_depth, 2); ++i) {
          const int32_t guess = (fake_token(path) + i) % 26;
          for (int32_t j = 0; j < 3; ++j) nodes.push_back({parent, (guess + j) % 26, j == 0 ? 0.9f : 0.5f, j});
          parent = static_cast<int32_t>(nodes.size()) - 3;
          path.push_back(guess);
        }
      }));
  std::vector<RequestId> requests;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    SamplingParams sampling;
    sampling.temperature = seed == 0 ? 0 : 2;
    sampling.seed = seed;
    const BranchKey trunk = d.create();
    d.extend(trunk, some_tokens(10, seed));
    const auto decode = [&](BranchKey branch, int32_t max_tokens, ConstraintParams constraint) {
      std::vector<int32_t> stops;
      if (stop_token >= 0) stops.push_back(stop_token);
      d.push(
          DecodeCommand{d.next_request, branch, max_tokens, stops, {}, sampling, std::nullopt, std::move(constraint)});
      requests.push_back(d.next_request++);
    };
    decode(trunk, 5, {language, true});
    for (const BranchKey child : d.fork(trunk, 2)) decode(child, 24, {nullptr, false});
    decode(trunk, 16, {language, false});
  }
  d.run();
  CHECK(d.fatal.empty());
  stats = d.engine->stats().speculation;
  std::vector<Answer> answers;
  for (const RequestId request : requests) answers.push_back({d.tokens[request], d.result(request).reason});
  return answers;
}

TEST(constrained_decodes_with_drafts_give_the_same_texts) {
  constexpr int32_t kStop = 39;
  const auto letters = constraint::characters({{'a', 'm'}});
  for (const auto& [language, stop_token] : {
           std::pair{make(constraint::sequence({constraint::repeat(letters, 6, 30), constraint::text("z")})), -1},
           std::pair{make(constraint::repeat(constraint::sequence({letters, constraint::text("nb")}), 1)), kStop},
           std::pair{make(constraint::repeat(constraint::text("abc"), 1)), -1},
       }) {
    SpeculationStats none, drafted;
    const std::vector<Answer> plain = decode_all(language, stop_token, SpeculationMode::kOff, none);
    CHECK(decode_all(language, stop_token, SpeculationMode::kAlways, drafted) == plain);
    CHECK_EQ(none.draft_trees, int64_t{0});
    CHECK(drafted.accepted_draft_tokens > 3);
  }
}

TEST(drafts_that_leave_the_language_are_not_run) {
  SpeculationStats stats;
  // Of all guesses only "z" fits, and only once in a while.
  const auto answers =
      decode_all(make(constraint::repeat(constraint::text("yz"), 1)), -1, SpeculationMode::kAlways, stats);
  int64_t num_tokens = 0;
  for (const Answer& answer : answers) num_tokens += static_cast<int64_t>(answer.tokens.size());
  CHECK(num_tokens > 50);
  // In this language each place has one continuation, so every row that is run is right, or stands beyond the end.
  CHECK(stats.drafted_tokens <= stats.accepted_draft_tokens + stats.draft_trees);
}

}  // namespace
}  // namespace deftree
