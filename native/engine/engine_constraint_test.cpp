// Constrained decodes in the engine, against a loop that masks and draws token by token.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "constraint/grammar_builder.h"
#include "engine/engine_driver.h"

namespace deftree {
namespace {

using constraint::Constraint;
using constraint::ConstraintState;
using test::Driver;
using test::fake_options;
using test::kFakeVocab;
using test::some_tokens;

constexpr int32_t kEnd = 39;  // a stop token; its text is the letter "n"

std::shared_ptr<const Constraint> make(const constraint::Expression& language) {
  const EngineOptions options = fake_options();
  return std::make_shared<const Constraint>(
      constraint::Grammar{{language}},
      std::make_shared<const constraint::TokenTrie>(options.token_bytes, options.token_offsets));
}

// "a" to "m", many times, then "z".
std::shared_ptr<const Constraint> word(int32_t min, int32_t max) {
  return make(constraint::sequence(
      {constraint::repeat(constraint::characters({{'a', 'm'}}), min, max), constraint::text("z")}));
}

RequestId decode(Driver& d, BranchKey branch, int32_t max_tokens, ConstraintParams constraint,
                 SamplingParams sampling = {}, std::vector<int32_t> stop_tokens = {kEnd}) {
  d.push(DecodeCommand{d.next_request,
                       branch,
                       max_tokens,
                       std::move(stop_tokens),
                       {},
                       std::move(sampling),
                       std::nullopt,
                       std::move(constraint)});
  return d.next_request++;
}

std::string text_of(const std::vector<int32_t>& tokens) {
  std::string text;
  for (const int32_t token : tokens) text += static_cast<char>('a' + token % 26);
  return text;
}

// What comes after `tokens` under the constraint, from `state`, which moves along.
std::vector<int32_t> expected(std::vector<int32_t> tokens, const Constraint& constraint, ConstraintState& state,
                              int32_t max_tokens, const SamplingParams& sampling = {}, uint64_t path_hash = 0) {
  std::vector<int32_t> decoded;
  SamplerScratch scratch;
  while (static_cast<int32_t>(decoded.size()) < max_tokens && !constraint.is_complete(state)) {
    auto words = constraint.mask(state, max_tokens - static_cast<int32_t>(decoded.size()))->words;
    const uint64_t end = uint64_t{1} << kEnd;
    words[0] = constraint.accepts_end(state) ? words[0] | end : words[0] & ~end;
    SampledToken drawn;
    sample_token(test::fake_logits(tokens),
                 {0, &sampling, path_hash, static_cast<int32_t>(tokens.size()), tokens, words}, scratch, drawn);
    decoded.push_back(drawn.token);
    tokens.push_back(drawn.token);
    if (drawn.token == kEnd) break;
    state = *constraint.advance(state, drawn.token);
  }
  return decoded;
}

TEST(constraint_keeps_a_branch_to_its_language_beside_free_ones) {
  const auto constraint = word(3, 30);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Driver d;
    SamplingParams sampling;
    sampling.temperature = 1.5f;
    sampling.seed = seed;
    const auto prompt = some_tokens(9, seed);
    const BranchKey bound = d.create(), free = d.create();
    d.extend(bound, prompt);
    d.extend(free, prompt);
    const RequestId a = decode(d, bound, 20, {constraint}, sampling), b = d.decode(free, 20, sampling);
    d.run();
    ConstraintState state = constraint->start();
    CHECK(d.tokens[a] == expected(prompt, *constraint, state, 20, sampling));
    CHECK(d.tokens[b] == test::expected_decode(prompt, 20, sampling));
    CHECK(d.result(a).reason == FinishReason::kStop);
    CHECK_EQ(text_of(d.tokens[a]).back(), 'z');
    CHECK(d.tokens[a].size() >= 4 && d.tokens[a].size() <= 20);
  }
}

TEST(constraint_text_is_whole_when_its_tokens_run_out) {
  for (const int32_t max_tokens : {4, 5, 9}) {
    Driver d;
    const BranchKey b = d.create();
    d.extend(b, some_tokens(5, 1));
    SamplingParams never_z;
    for (const int32_t z : {25}) never_z.logit_bias.push_back({z, -50.0f});
    const RequestId request = decode(d, b, max_tokens, {word(3, 100)}, never_z);
    d.run();
    CHECK(d.result(request).reason == FinishReason::kStop);
    CHECK_EQ(static_cast<int32_t>(d.tokens[request].size()), max_tokens);
    CHECK_EQ(text_of(d.tokens[request]).back(), 'z');
  }
}

TEST(constraint_that_needs_more_tokens_than_there_are_is_refused_with_figures) {
  Driver d;
  const BranchKey b = d.create();
  d.extend(b, some_tokens(5, 1));
  const RequestId short_of_tokens = decode(d, b, 3, {word(3, 100)});
  d.run();
  REQUIRE(d.result(short_of_tokens).error.has_value());
  const Error& error = *d.result(short_of_tokens).error;
  CHECK(error.code() == ErrorCode::kBadArgument);
  CHECK((error.figures() == ErrorFigures{{"min_tokens", 4}, {"max_tokens", 3}}));
  d.extend(b, some_tokens(392, 2));
  const RequestId short_of_context = decode(d, b, 100, {word(3, 100)});
  d.run();
  CHECK(d.result(short_of_context).error.has_value());
  CHECK(decode(d, b, 100, {word(2, 100)}) > 0);
  d.run();
  CHECK(!d.results.rbegin()->second.error.has_value());
}

TEST(constraint_forks_in_the_middle_and_goes_on_in_each_child) {
  const auto constraint = word(6, 12);
  Driver d;
  SamplingParams sampling;
  sampling.temperature = 1.2f;
  const auto prompt = some_tokens(9, 4);
  const BranchKey trunk = d.create();
  d.extend(trunk, prompt);
  const RequestId begun = decode(d, trunk, 4, {constraint, true}, sampling);
  const auto children = d.fork(trunk, 6);
  std::vector<RequestId> requests;
  for (const BranchKey child : children) requests.push_back(decode(d, child, 20, {nullptr}, sampling));
  d.run();
  CHECK(d.result(begun).reason == FinishReason::kLength);
  std::vector<int32_t> path = prompt;
  path.insert(path.end(), d.tokens[begun].begin(), d.tokens[begun].end());
  ConstraintState middle = constraint->start();
  for (const int32_t token : d.tokens[begun]) middle = *constraint->advance(middle, token);
  for (size_t i = 0; i < children.size(); ++i) {
    ConstraintState state = middle;
    const uint64_t path_hash = fork_path_hash(0, static_cast<uint32_t>(i));
    CHECK(d.tokens[requests[i]] == expected(path, *constraint, state, 20, sampling, path_hash));
    const std::string whole = text_of(d.tokens[begun]) + text_of(d.tokens[requests[i]]);
    CHECK(whole.size() >= 7 && whole.size() <= 13 && whole.back() == 'z');
  }
}

TEST(constraint_is_gone_when_the_branch_goes_another_way) {
  Driver d;
  const BranchKey b = d.create();
  d.extend(b, some_tokens(9, 5));
  const auto goes_on = [&] {
    const RequestId request = decode(d, b, 50, {nullptr});
    d.run();
    return !d.result(request).error.has_value();
  };
  const auto begin = [&] {
    decode(d, b, 2, {word(5, 9), true});
    d.run();
  };
  CHECK(!goes_on());
  begin();
  d.extend(b, {1});
  CHECK(!goes_on());
  begin();
  d.truncate(b, 5);
  CHECK(!goes_on());
  begin();
  d.decode(b, 2);
  CHECK(!goes_on());
  begin();
  CHECK(goes_on());
  CHECK(!goes_on());  // its text is complete
}

TEST(constraint_lets_stop_tokens_come_only_where_the_text_may_end) {
  // "n" is also the stop token's text; the text may end after each "b".
  const auto constraint =
      make(constraint::repeat(constraint::sequence({constraint::text("n"), constraint::text("b")}), 1));
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Driver d;
    SamplingParams sampling;
    sampling.temperature = 2;
    sampling.seed = seed;
    const BranchKey b = d.create();
    d.extend(b, some_tokens(5, seed));
    const RequestId request = decode(d, b, 40, {constraint}, sampling);
    d.run();
    std::vector<int32_t> tokens = d.tokens[request];
    if (d.result(request).reason == FinishReason::kStop) {
      CHECK_EQ(tokens.back(), kEnd);
      tokens.pop_back();
    }
    CHECK(std::ranges::find(tokens, kEnd) == tokens.end());
    CHECK_EQ(tokens.size() % 2, 0u);
    CHECK_EQ(text_of(tokens).back(), 'b');
  }
}

TEST(constraint_text_without_a_stop_token_ends_where_nothing_more_fits) {
  const auto constraint = make(constraint::repeat(constraint::text("ab"), 1));
  Driver d;
  const BranchKey b = d.create();
  d.extend(b, some_tokens(5, 1));
  const RequestId request = decode(d, b, 5, {constraint}, {}, {});
  d.run();
  CHECK(d.result(request).reason == FinishReason::kStop);
  CHECK_EQ(text_of(d.tokens[request]), "abab");
}

TEST(constraint_of_the_empty_text_ends_at_once) {
  Driver d;
  const BranchKey b = d.create();
  d.extend(b, some_tokens(5, 1));
  const RequestId request = decode(d, b, 5, {make(constraint::text(""))});
  d.run();
  CHECK(d.result(request).reason == FinishReason::kStop);
  CHECK(d.tokens[request].empty());
}

TEST(constraint_with_a_bias_that_rules_out_all_fails_alone) {
  Driver d;
  const BranchKey b = d.create(), other = d.create();
  for (const BranchKey branch : {b, other}) d.extend(branch, some_tokens(5, 1));
  SamplingParams banned;
  banned.logit_bias = {{25, -INFINITY}};
  const RequestId fails = decode(d, b, 5, {make(constraint::text("z"))}, banned);
  const RequestId stays = decode(d, other, 5, {word(2, 3)});
  d.run();
  CHECK(d.result(fails).error.has_value() && d.result(fails).error->code() == ErrorCode::kBadArgument);
  CHECK(d.result(stays).reason == FinishReason::kStop);
}

TEST(constraint_of_another_vocabulary_is_refused) {
  const auto other = std::make_shared<const Constraint>(
      constraint::Grammar{{constraint::text("a")}},
      std::make_shared<const constraint::TokenTrie>("abc", std::vector<uint32_t>{0, 1, 2, 3}));
  const DecodeCommand command{1, 1, 5, {}, {}, {}, std::nullopt, ConstraintParams{other}};
  CHECK_ERROR(validate(Command(command), kFakeVocab, 400), ErrorCode::kBadArgument);
}

}  // namespace
}  // namespace deftree
