#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/engine_driver.h"

namespace deftree {
namespace {

using test::Driver;
using test::expected_decode;
using test::fake_options;
using test::some_tokens;

const std::vector<attention::Policy>& policies() {
  static const std::vector<attention::Policy> all(attention::all_policies().begin(), attention::all_policies().end());
  return all;
}

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(engine_decodes_what_the_model_says_alone) {
  Driver d;
  const auto prompt = some_tokens(50, 1);
  const BranchKey b = d.create();
  const RequestId extend = d.extend(b, prompt), decode = d.decode(b, 20);
  d.run();
  CHECK(d.result(extend).reason == FinishReason::kDone);
  CHECK_EQ(d.result(extend).branch_len, 50);
  CHECK_EQ(d.result(extend).reused_tokens, 0);
  CHECK(d.result(decode).reason == FinishReason::kLength);
  CHECK_EQ(d.result(decode).branch_len, 70);
  CHECK(d.tokens[decode] == expected_decode(prompt, 20));
  // 50 prompt tokens in chunks of 32, the first token from the last prefill row, 19 more rows: the last token's KV is
  // not written.
  CHECK_EQ(d.backend->num_forwards, 2 + 19);
  CHECK_EQ(d.backend->num_rows, 50 + 19);
}

TEST(engine_decode_goes_on_where_the_last_one_ended) {
  Driver d;
  const auto prompt = some_tokens(9, 2);
  const BranchKey b = d.create();
  d.extend(b, prompt);
  const RequestId first = d.decode(b, 5), second = d.decode(b, 6);
  d.run();
  const RequestId third = d.decode(b, 4);
  d.run();
  CHECK(joined(joined(d.tokens[first], d.tokens[second]), d.tokens[third]) == expected_decode(prompt, 15));
}

TEST(engine_forks_share_the_prompt_and_go_their_own_way) {
  for (attention::Policy policy : policies()) {
    EngineOptions options = fake_options(400);
    options.policy = policy;
    Driver d(options);
    const auto prompt = some_tokens(37, 3);
    SamplingParams params;
    params.temperature = 1;
    params.seed = 5;
    const BranchKey b = d.create();
    d.extend(b, prompt);
    const auto children = d.fork(b, 6, 10);
    std::vector<RequestId> decodes;
    for (BranchKey child : children) decodes.push_back(d.decode(child, 12, params));
    d.run();
    std::set<std::vector<int32_t>> distinct;
    for (uint32_t i = 0; i < 6; ++i) {
      CHECK(d.tokens[decodes[i]] == expected_decode(prompt, 12, params, fork_path_hash(0, 10 + i)));
      distinct.insert(d.tokens[decodes[i]]);
    }
    CHECK(distinct.size() > 3);
    CHECK_EQ(d.engine->stats().prefilled_tokens, 37);
  }
}

TEST(engine_siblings_first_token_comes_from_one_shared_row) {
  Driver d;
  const BranchKey b = d.create();
  d.extend(b, some_tokens(8, 3));
  d.run();
  const auto children = d.fork(b, 16);
  const int64_t rows = d.backend->num_rows;
  for (BranchKey child : children) d.decode(child, 1);
  d.run();
  CHECK_EQ(d.backend->num_rows - rows, 1);  // one tip query for all
}

TEST(engine_fork_after_decode_copies_the_unwritten_tail_and_computes_it_once) {
  Driver d;
  const auto prompt = some_tokens(8, 4);
  const BranchKey b = d.create();
  d.extend(b, prompt);
  const RequestId decode = d.decode(b, 4);
  d.run();
  const auto children = d.fork(b, 5);
  const int64_t rows = d.backend->num_rows;
  std::vector<RequestId> decodes;
  for (BranchKey child : children) decodes.push_back(d.decode(child, 1));
  d.run();
  CHECK_EQ(d.backend->num_rows - rows, 1);
  for (RequestId r : decodes) CHECK(d.tokens[r] == expected_decode(joined(prompt, d.tokens[decode]), 1));
  CHECK_EQ(d.engine->stats().tokens_in_forest, 12);
}

TEST(engine_identical_prompts_at_once_are_prefilled_once) {
  Driver d;
  const auto prompt = some_tokens(100, 5);
  std::vector<RequestId> extends, decodes;
  for (int i = 0; i < 16; ++i) {
    const BranchKey b = d.create();
    extends.push_back(d.extend(b, prompt));
    decodes.push_back(d.decode(b, 3));
  }
  d.run();
  CHECK_EQ(d.engine->stats().prefilled_tokens, 100);
  CHECK_EQ(d.engine->stats().reused_tokens, 15 * 100);
  for (RequestId r : decodes) CHECK(d.tokens[r] == expected_decode(prompt, 3));
  int64_t reused = 0;
  for (RequestId r : extends) reused += d.result(r).reused_tokens;
  CHECK_EQ(reused, 15 * 100);
}

TEST(engine_prompts_that_part_half_way_share_the_common_half) {
  Driver d;
  const auto common = some_tokens(60, 6);
  const auto one = joined(common, some_tokens(30, 7)), two = joined(common, some_tokens(30, 8));
  const BranchKey a = d.create(), b = d.create();
  d.extend(a, one);
  d.extend(b, two);
  const RequestId da = d.decode(a, 3), db = d.decode(b, 3);
  d.run();
  CHECK_EQ(d.engine->stats().prefilled_tokens, 60 + 30 + 30);
  CHECK(d.tokens[da] == expected_decode(one, 3));
  CHECK(d.tokens[db] == expected_decode(two, 3));
}

TEST(engine_same_text_after_different_prefixes_is_computed_side_by_side) {
  Driver d(fake_options(64, 64));
  const BranchKey a = d.create(), b = d.create();
  d.extend(a, some_tokens(12, 60));
  d.extend(b, some_tokens(12, 61));
  d.run();
  const int64_t forwards = d.backend->num_forwards;
  d.extend(a, {1, 2, 3});
  d.extend(b, {1, 2, 3});
  d.run();
  CHECK_EQ(d.backend->num_forwards - forwards, 1);
}

TEST(engine_equal_paths_in_different_slots_wait_at_most_a_step_for_each_other) {
  Driver d(fake_options(64, 64));
  const auto prompt = some_tokens(8, 62);
  std::vector<BranchKey> branches;
  for (int i = 0; i < 4; ++i) {
    branches.push_back(d.create());
    d.extend(branches.back(), prompt);
    d.decode(branches.back(), 6);
  }
  d.run();
  const int64_t forwards = d.backend->num_forwards;
  for (BranchKey b : branches) d.extend(b, {1, 2, 3});
  d.run();
  // One leads and the others find that its tokens do not lie below their own; then those go together.
  CHECK_EQ(d.backend->num_forwards - forwards, 2);
  std::vector<RequestId> decodes;
  for (BranchKey b : branches) decodes.push_back(d.decode(b, 3));
  d.run();
  const auto path = joined(joined(prompt, expected_decode(prompt, 6)), {1, 2, 3});
  for (RequestId r : decodes) CHECK(d.tokens[r] == expected_decode(path, 3));
}

TEST(engine_counts_only_the_tokens_of_an_extend_not_the_tail_before_them) {
  Driver d;
  const auto prompt = some_tokens(8, 63), text = some_tokens(40, 64);
  const BranchKey a = d.create();
  d.extend(a, prompt);
  const RequestId decode = d.decode(a, 3), extend = d.extend(a, text);
  d.run();
  CHECK_EQ(d.engine->stats().prefilled_tokens, 8 + 40);
  CHECK_EQ(d.result(extend).reused_tokens, 0);
  const BranchKey b = d.create();
  d.extend(b, joined(prompt, {d.tokens[decode].begin(), d.tokens[decode].begin() + 2}));
  d.decode(b, 1);
  const RequestId again = d.extend(b, text);
  d.run();
  CHECK_EQ(d.result(again).reused_tokens, 40);
}

TEST(engine_reuses_a_cached_prefix_and_a_full_match_needs_no_forward) {
  Driver d;
  const auto prompt = some_tokens(40, 9);
  const BranchKey a = d.create();
  d.extend(a, prompt);
  d.run();
  const int64_t forwards = d.backend->num_forwards;
  const BranchKey b = d.create();
  const RequestId again = d.extend(b, prompt);
  d.run();
  CHECK_EQ(d.backend->num_forwards, forwards);
  CHECK_EQ(d.result(again).reused_tokens, 40);
  const BranchKey c = d.create();
  const RequestId longer = d.extend(c, joined(prompt, some_tokens(5, 10)));
  d.run();
  CHECK_EQ(d.result(longer).reused_tokens, 40);
  CHECK_EQ(d.backend->num_rows, 45);
  d.prune(c, false);
  d.prune(a, true);
  d.prune(b, true);
  const BranchKey e = d.create();
  const RequestId cached = d.extend(e, prompt);
  d.run();
  CHECK_EQ(d.result(cached).reused_tokens, 40);
}

TEST(engine_long_prompt_does_not_stall_a_running_branch) {
  Driver d;
  const BranchKey a = d.create();
  d.extend(a, some_tokens(4, 11));
  const RequestId decode = d.decode(a, 100);
  d.step();
  const BranchKey b = d.create();
  const RequestId extend = d.extend(b, some_tokens(300, 12));
  while (d.results.find(extend) == d.results.end()) {
    const size_t before = d.tokens[decode].size();
    d.step();
    CHECK_EQ(d.tokens[decode].size(), before + 1);  // a token each step
  }
  // 31 rows beside the decoding branch's one.
  CHECK_EQ(d.tokens[decode].size(), 1u + (300 + 30) / 31);
}

TEST(engine_two_prompts_share_the_rows_fairly) {
  Driver d;
  const BranchKey a = d.create(), b = d.create();
  const RequestId long_one = d.extend(a, some_tokens(300, 13)), short_one = d.extend(b, some_tokens(60, 14));
  for (int i = 0; i < 4; ++i) d.step();
  CHECK(d.results.find(short_one) != d.results.end());  // 16 rows a step each
  CHECK(d.results.find(long_one) == d.results.end());
  d.run();
  CHECK(d.result(long_one).reason == FinishReason::kDone);
}

TEST(engine_more_branches_than_rows_all_progress) {
  Driver d(fake_options(200, 8));
  std::vector<std::vector<int32_t>> prompts;
  std::vector<RequestId> decodes;
  for (int i = 0; i < 20; ++i) {
    prompts.push_back(some_tokens(3 + i, 100 + i));
    const BranchKey b = d.create();
    d.extend(b, prompts.back());
    decodes.push_back(d.decode(b, 6));
  }
  d.run();
  for (int i = 0; i < 20; ++i) CHECK(d.tokens[decodes[i]] == expected_decode(prompts[i], 6));
}

TEST(engine_seeds_do_not_depend_on_batch_mates) {
  SamplingParams params;
  params.temperature = 1.2f;
  params.seed = 77;
  const auto prompt = some_tokens(20, 15);
  for (int mates : {0, 3, 15}) {
    Driver d(fake_options(400));
    for (int i = 0; i < mates; ++i) {
      const BranchKey mate = d.create();
      d.extend(mate, some_tokens(5 + i, 200 + i));
      d.decode(mate, 30, params);
    }
    const BranchKey b = d.create();
    d.extend(b, prompt);
    const RequestId decode = d.decode(b, 15, params);
    d.run();
    CHECK(d.tokens[decode] == expected_decode(prompt, 15, params));
  }
}

TEST(engine_score_matches_the_model_and_leaves_the_branch_alone) {
  for (int decoded : {0, 3}) {  // without and with an unwritten tail
    for (int n : {1, 2, 50}) {
      Driver d;
      auto tokens = some_tokens(10, 16);
      const BranchKey b = d.create();
      d.extend(b, tokens);
      if (decoded > 0) d.decode(b, decoded);
      d.run();
      tokens = joined(tokens, expected_decode(tokens, decoded));
      const auto continuation = some_tokens(n, 17);
      const RequestId score = d.score(b, continuation);
      d.run();
      const FinishedRequest& result = d.result(score);
      CHECK_EQ(result.branch_len, 10 + decoded);
      REQUIRE(static_cast<int>(result.logprobs.size()) == n);
      auto path = tokens;
      for (int i = 0; i < n; ++i) {
        CHECK_NEAR(result.logprobs[i], log_prob(test::fake_logits(path), continuation[i]), 1e-6);
        path.push_back(continuation[i]);
      }
      const RequestId decode = d.decode(b, 4);
      d.run();
      CHECK(d.tokens[decode] == expected_decode(tokens, 4));
      CHECK_EQ(d.engine->stats().num_branches, 1);
    }
  }
}

TEST(engine_score_right_after_extend_needs_no_step_of_its_own) {
  Driver d;
  const auto prompt = some_tokens(10, 18);
  const BranchKey b = d.create();
  d.extend(b, prompt);
  const auto children = d.fork(b, 3);
  std::vector<RequestId> scores;
  for (size_t i = 0; i < 3; ++i) scores.push_back(d.score(children[i], {static_cast<int32_t>(i)}));
  d.run();
  CHECK_EQ(d.backend->num_forwards, 1);
  for (int32_t i = 0; i < 3; ++i) CHECK_NEAR(d.result(scores[i]).logprobs[0], log_prob(test::fake_logits(prompt), i), 1e-6);
}

TEST(engine_logits_and_truncate) {
  Driver d;
  const auto prompt = some_tokens(20, 19);
  const BranchKey b = d.create();
  d.extend(b, prompt);
  const RequestId logits = d.logits(b), decode = d.decode(b, 5);
  const RequestId cut_tail = d.truncate(b, 24), after_tail = d.logits(b);
  const RequestId cut = d.truncate(b, 13), again = d.decode(b, 5), too_long = d.truncate(b, 19), zero = d.truncate(b, 0);
  const RequestId empty = d.decode(b, 1), fresh = d.extend(b, prompt), last = d.decode(b, 2);
  d.run();
  CHECK(d.result(logits).logits == test::fake_logits(prompt));
  CHECK(d.tokens[decode] == expected_decode(prompt, 5));
  CHECK_EQ(d.result(cut_tail).branch_len, 24);
  CHECK(d.result(after_tail).logits == test::fake_logits(joined(prompt, expected_decode(prompt, 4))));
  CHECK_EQ(d.result(cut).branch_len, 13);
  CHECK(d.tokens[again] == expected_decode({prompt.begin(), prompt.begin() + 13}, 5));
  CHECK(d.result(too_long).reason == FinishReason::kError);
  CHECK(d.result(too_long).error->code() == ErrorCode::kBadArgument);
  CHECK_EQ(d.result(zero).branch_len, 0);
  CHECK(d.result(empty).error->code() == ErrorCode::kBadArgument);
  CHECK_EQ(d.result(fresh).branch_len, 20);
  CHECK(d.tokens[last] == expected_decode(prompt, 2));
}

TEST(engine_stops_at_tokens_strings_length_and_context) {
  const auto prompt = some_tokens(10, 20);
  const auto all = expected_decode(prompt, 40);
  const auto letter = [](int32_t token) { return static_cast<char>('a' + token % 26); };
  Driver d;
  const auto decode_on_new_branch = [&](auto... arguments) {
    const BranchKey b = d.create();
    d.extend(b, prompt);
    return d.decode(b, arguments...);
  };
  const RequestId by_token = decode_on_new_branch(40, SamplingParams{}, std::vector<int32_t>{all[6]});
  const std::string two = {letter(all[4]), letter(all[5])};
  const RequestId by_string =
      decode_on_new_branch(40, SamplingParams{}, std::vector<int32_t>{}, std::vector<std::string>{"zzzz", two});
  const RequestId nothing = decode_on_new_branch(0);
  const RequestId by_context = decode_on_new_branch(100000);
  d.run();
  CHECK(d.result(by_token).reason == FinishReason::kStop);
  CHECK_EQ(d.tokens[by_token].back(), all[6]);
  CHECK_EQ(d.result(by_token).branch_len, 10 + static_cast<int32_t>(d.tokens[by_token].size()));
  CHECK(d.result(by_string).reason == FinishReason::kStopString);
  CHECK_EQ(d.result(by_string).stop_index, 1);
  CHECK(d.tokens[by_string].size() <= 6);
  CHECK(d.result(nothing).reason == FinishReason::kLength);
  CHECK(d.tokens[nothing].empty());
  CHECK(d.result(by_context).reason == FinishReason::kContext);
  CHECK_EQ(d.result(by_context).branch_len, 400);
  // No stop string in text decoded before the request counts.
  const BranchKey b = d.create();
  d.extend(b, joined(prompt, {all.begin(), all.begin() + 5}));
  const RequestId later = d.decode(b, 1, {}, {}, {two});
  d.run();
  CHECK(d.result(later).reason == FinishReason::kLength);
}

TEST(engine_context_full_is_an_error_with_figures) {
  Driver d;
  const BranchKey b = d.create();
  d.extend(b, some_tokens(399, 21));
  const RequestId extend = d.extend(b, {1, 2}), score = d.score(b, {1, 2}), fits = d.extend(b, {1}), decode = d.decode(b, 3);
  d.run();
  for (RequestId r : {extend, score}) {
    CHECK(d.result(r).error->code() == ErrorCode::kContextFull);
    CHECK_EQ(d.result(r).branch_len, 399);
  }
  CHECK_EQ(d.result(fits).branch_len, 400);
  CHECK(d.result(decode).reason == FinishReason::kContext);
}

TEST(engine_cancel_ends_a_request_within_a_step_and_keeps_the_branch) {
  Driver d;
  const auto prompt = some_tokens(10, 22);
  const BranchKey b = d.create();
  d.extend(b, prompt);
  const RequestId decode = d.decode(b, 1000), queued = d.decode(b, 3), after = d.decode(b, 2);
  for (int i = 0; i < 5; ++i) d.step();
  d.push(CancelCommand{queued});
  d.push(CancelCommand{decode});
  d.push(CancelCommand{9999});
  d.run();
  CHECK(d.result(decode).reason == FinishReason::kAborted);
  CHECK(d.result(queued).reason == FinishReason::kAborted);
  CHECK_EQ(d.tokens[decode].size(), 5u);
  CHECK(joined(d.tokens[decode], d.tokens[after]) == expected_decode(prompt, 7));

  const BranchKey c = d.create();
  const auto long_prompt = some_tokens(200, 23);
  const RequestId extend = d.extend(c, long_prompt);
  d.step();
  d.push(CancelCommand{extend});
  d.run();
  CHECK(d.result(extend).reason == FinishReason::kAborted);
  const int32_t kept = d.result(extend).branch_len;
  CHECK(kept > 0 && kept < 200);
  const RequestId more = d.decode(c, 3);
  d.run();
  CHECK(d.tokens[more] == expected_decode({long_prompt.begin(), long_prompt.begin() + kept}, 3));
}

TEST(engine_prune_frees_pages_at_once_and_ends_its_requests) {
  Driver d;
  const BranchKey b = d.create();
  d.extend(b, some_tokens(50, 24));
  const RequestId decode = d.decode(b, 1000), queued = d.score(b, {1, 2, 3});
  const auto children = d.fork(b, 2);  // waits behind the decode: its children are never born
  const RequestId child_decode = d.decode(children[0], 3);
  for (int i = 0; i < 5; ++i) d.step();
  d.prune(b);
  d.run();
  for (RequestId r : {decode, queued, child_decode}) CHECK(d.result(r).reason == FinishReason::kPruned);
  const EngineStats stats = d.engine->stats();
  CHECK_EQ(stats.num_free_pages, stats.num_pages);
  CHECK_EQ(stats.num_branches, 0);
  const RequestId late = d.decode(b, 3), later = d.decode(children[1], 3);
  d.prune(b);
  d.run();
  CHECK(d.result(late).error->code() == ErrorCode::kDisposed);
  CHECK(d.result(later).error->code() == ErrorCode::kDisposed);
}

TEST(engine_prune_after_fork_leaves_the_children) {
  Driver d;
  const auto prompt = some_tokens(12, 25);
  const BranchKey b = d.create();
  d.extend(b, prompt);
  d.run();
  const auto children = d.fork(b, 2);
  d.prune(b);
  const RequestId decode = d.decode(children[1], 4);
  d.run();
  CHECK(d.tokens[decode] == expected_decode(prompt, 4));
}

TEST(engine_full_pages_pause_branches_and_lose_none) {
  // 12 pages of 8: two branches of 40 tokens fill 10 pages; 30 more tokens each do not fit together.
  Driver d(fake_options(12));
  std::vector<std::vector<int32_t>> prompts = {some_tokens(40, 26), some_tokens(40, 27)};
  std::vector<RequestId> decodes;
  std::vector<BranchKey> branches;
  for (const auto& prompt : prompts) {
    branches.push_back(d.create());
    d.extend(branches.back(), prompt);
    decodes.push_back(d.decode(branches.back(), 30));
  }
  bool paused = false;
  while (d.results.find(decodes[0]) == d.results.end() && d.results.find(decodes[1]) == d.results.end()) {
    d.step();
    paused |= d.engine->stats().num_paused_branches > 0;
  }
  CHECK(paused);
  // Both wanted pages and nothing could move: the younger one failed, with what it had decoded.
  const FinishedRequest& failed = d.result(decodes[1]);
  CHECK(failed.reason == FinishReason::kError);
  CHECK(failed.error->code() == ErrorCode::kKvFull);
  CHECK(d.tokens[decodes[1]] == expected_decode(prompts[1], static_cast<int>(d.tokens[decodes[1]].size())));
  // Its owner drops it, and the other goes on.
  d.prune(branches[1]);
  d.run();
  CHECK(d.result(decodes[0]).reason == FinishReason::kLength);
  CHECK(d.tokens[decodes[0]] == expected_decode(prompts[0], 30));
}

TEST(engine_prompt_that_does_not_fit_beside_another_waits_for_it) {
  Driver d(fake_options(12));  // 96 tokens
  const auto one = some_tokens(60, 28), two = some_tokens(61, 29);
  const BranchKey a = d.create(), b = d.create();
  d.extend(a, one);
  const RequestId da = d.decode(a, 5);
  const RequestId second = d.extend(b, two), db = d.decode(b, 5);
  while (d.results.find(da) == d.results.end()) d.step();
  CHECK(d.results.find(second) == d.results.end());
  d.prune(a);
  d.run();
  CHECK(d.result(second).reason == FinishReason::kDone);
  CHECK(d.tokens[db] == expected_decode(two, 5));
}

TEST(engine_prompt_larger_than_all_pages_fails_and_the_branch_stays_usable) {
  Driver d(fake_options(4));
  const BranchKey b = d.create();
  d.extend(b, some_tokens(10, 30));
  const RequestId extend = d.extend(b, some_tokens(60, 31)), decode = d.decode(b, 3);
  d.run();
  CHECK(d.result(extend).error->code() == ErrorCode::kKvFull);
  CHECK_EQ(d.result(extend).branch_len, 10);
  bool wanted = false;
  for (const auto& [name, value] : d.result(extend).error->figures()) wanted |= name == "wanted_tokens" && value == 60;
  CHECK(wanted);
  CHECK(d.tokens[decode] == expected_decode(some_tokens(10, 30), 3));
}

TEST(engine_cached_prefixes_give_way_to_new_tokens) {
  Driver d(fake_options(10));
  for (uint64_t i = 0; i < 8; ++i) {
    const BranchKey b = d.create();
    const RequestId extend = d.extend(b, some_tokens(50, 40 + i));
    d.run();
    CHECK(d.result(extend).reason == FinishReason::kDone);
    d.prune(b, true);
  }
}

TEST(engine_repetition_penalty_counts_the_whole_branch) {
  SamplingParams params;
  params.repetition_penalty = 1.5f;
  const auto prompt = some_tokens(30, 50);
  Driver d;
  const BranchKey b = d.create();
  d.extend(b, prompt);
  const RequestId first = d.decode(b, 10, params), second = d.decode(b, 10, params);
  d.run();
  CHECK(joined(d.tokens[first], d.tokens[second]) == expected_decode(prompt, 20, params));
  CHECK(expected_decode(prompt, 20, params) != expected_decode(prompt, 20));
}

TEST(engine_logprobs_come_with_the_tokens) {
  Driver d;
  SamplingParams params;
  params.num_logprobs = 3;
  const auto prompt = some_tokens(5, 51);
  const BranchKey a = d.create(), b = d.create();
  d.extend(a, prompt);
  d.extend(b, prompt);
  d.decode(a, 1);
  const RequestId with = d.decode(b, 1, params);
  StepMessage message;
  d.engine->step(d.commands, message);
  REQUIRE(message.tokens.size() == 2 && message.top.size() == 2);
  for (size_t i = 0; i < 2; ++i) {
    const bool asked = message.tokens[i].request == with;
    CHECK_EQ(message.top[i].size(), asked ? 3u : 0u);
    CHECK_EQ(std::isnan(message.tokens[i].logprob), !asked);
    if (asked) CHECK_NEAR(message.tokens[i].logprob, log_prob(test::fake_logits(prompt), message.tokens[i].token), 1e-5);
  }
}

TEST(engine_failed_forward_fails_its_requests_only) {
  Driver d;
  const auto prompt = some_tokens(10, 52);
  const BranchKey a = d.create();
  d.extend(a, prompt);
  d.run();
  d.backend->on_forward = [](const StepBatch&) { throw Error(ErrorCode::kOutOfMemory, "no scratch memory"); };
  const BranchKey b = d.create();
  const RequestId decode = d.decode(a, 3), extend = d.extend(b, some_tokens(7, 53));
  d.run();
  CHECK(d.result(decode).error->code() == ErrorCode::kOutOfMemory);
  CHECK(d.result(extend).error->code() == ErrorCode::kOutOfMemory);
  CHECK_EQ(d.result(extend).branch_len, 0);
  d.backend->on_forward = nullptr;
  const RequestId again = d.decode(a, 3);
  d.run();
  CHECK(d.tokens[again] == expected_decode(prompt, 3));
  CHECK(d.fatal.empty());
}

TEST(engine_spoilt_sampling_fails_only_the_spoiler) {
  Driver d;
  const auto prompt = some_tokens(10, 54);
  SamplingParams impossible;
  for (int32_t t = 0; t < test::kFakeVocab; ++t) impossible.logit_bias.emplace_back(t, -INFINITY);
  const BranchKey a = d.create(), b = d.create();
  d.extend(a, prompt);
  d.extend(b, prompt);
  const RequestId good = d.decode(a, 4), bad = d.decode(b, 4, impossible);
  d.run();
  CHECK(d.tokens[good] == expected_decode(prompt, 4));
  CHECK(d.result(bad).error->code() == ErrorCode::kBadArgument);
}

TEST(engine_lost_device_fails_everything_once_and_for_good) {
  Driver d;
  const BranchKey b = d.create();
  d.extend(b, some_tokens(10, 55));
  const RequestId decode = d.decode(b, 100), queued = d.decode(b, 3);
  d.step();
  d.backend->on_forward = [](const StepBatch&) { throw Error(ErrorCode::kDevice, "the device fell off the bus"); };
  d.run();
  REQUIRE(d.fatal.size() == 1);
  CHECK(d.fatal[0].code() == ErrorCode::kDevice);
  for (RequestId r : {decode, queued}) CHECK(d.result(r).error->code() == ErrorCode::kDevice);
  const RequestId later = d.decode(b, 1);
  d.prune(b);
  d.run();
  CHECK(d.result(later).error->code() == ErrorCode::kDevice);
  CHECK_EQ(d.fatal.size(), 1u);
}

TEST(engine_policy_can_change_while_branches_decode) {
  Driver d(fake_options(200));
  const auto prompt = some_tokens(30, 56);
  const BranchKey b = d.create();
  d.extend(b, prompt);
  const auto children = d.fork(b, 3);
  std::vector<RequestId> decodes;
  for (BranchKey child : children) decodes.push_back(d.decode(child, 40));
  for (int round = 0; round < 3; ++round) {
    for (attention::Policy policy : policies()) {
      d.push(SetAttentionCommand{policy});
      d.step();
    }
  }
  d.run();
  for (RequestId r : decodes) CHECK(d.tokens[r] == expected_decode(prompt, 40));
}

TEST(engine_appends_to_the_plan_while_the_tree_keeps_its_shape) {
  const auto decode_all = [](bool appends, EngineStats& stats) {
    Driver d;
    d.backend->appends_to_plans = appends;
    d.backend->max_appends = 7;
    const BranchKey root = d.create();
    d.extend(root, some_tokens(20, 1));
    const std::vector<BranchKey> children = d.fork(root, 3);
    SamplingParams sampling;
    sampling.temperature = 1;
    for (const BranchKey child : children) d.decode(child, 40, sampling);
    d.run();
    stats = d.engine->stats();
    // After a new plan seven steps are appended; the first steps change the tree's shape.
    if (appends) CHECK(d.backend->num_appends >= 30);
    return d.tokens;
  };
  EngineStats planned, appended;
  CHECK(decode_all(false, planned) == decode_all(true, appended));
  CHECK_EQ(appended.kv_bytes_read, planned.kv_bytes_read);
  CHECK_EQ(appended.kv_bytes_unshared, planned.kv_bytes_unshared);
}

TEST(engine_flash_decoding_reads_what_it_would_unshared) {
  EngineOptions options = fake_options(200);
  options.policy = attention::Policy::kFlashDecoding;
  Driver d(options);
  const BranchKey b = d.create();
  d.extend(b, some_tokens(32, 57));
  d.run();
  const EngineStats before = d.engine->stats();
  const auto children = d.fork(b, 4);
  for (BranchKey child : children) d.decode(child, 10);
  d.run();
  const EngineStats after = d.engine->stats();
  CHECK_EQ(after.kv_bytes_read - before.kv_bytes_read, after.kv_bytes_unshared - before.kv_bytes_unshared);
  CHECK(after.tokens_in_forest >= 5 * 32);
}

TEST(engine_shares_reads_with_the_default_policy) {
  Driver d;
  const BranchKey b = d.create();
  d.extend(b, some_tokens(64, 58));
  d.run();
  const EngineStats before = d.engine->stats();
  const auto children = d.fork(b, 8);
  for (BranchKey child : children) d.decode(child, 10);
  d.run();
  const EngineStats after = d.engine->stats();
  const int64_t read = after.kv_bytes_read - before.kv_bytes_read, unshared = after.kv_bytes_unshared - before.kv_bytes_unshared;
  CHECK(read * 3 < unshared);
  CHECK_EQ(after.decoded_tokens, 80);
}

TEST(engine_rejects_malformed_commands) {
  const auto check = [](Command command) { validate(command, test::kFakeVocab, 400); };
  CHECK_ERROR(check(ExtendCommand{1, 1, {0, test::kFakeVocab}}), ErrorCode::kBadArgument);
  CHECK_ERROR(check(ScoreCommand{1, 1, {-1}}), ErrorCode::kBadArgument);
  const auto decode = [&](auto change) {
    DecodeCommand command{1, 1, 5, {}, {}, {}};
    change(command);
    check(command);
  };
  decode([](DecodeCommand&) {});
  CHECK_ERROR(decode([](DecodeCommand& c) { c.max_tokens = -1; }), ErrorCode::kBadArgument);
  CHECK_ERROR(decode([](DecodeCommand& c) { c.sampling.temperature = -0.5f; }), ErrorCode::kBadArgument);
  CHECK_ERROR(decode([](DecodeCommand& c) { c.sampling.temperature = std::nanf(""); }), ErrorCode::kBadArgument);
  CHECK_ERROR(decode([](DecodeCommand& c) { c.sampling.top_p = 1.5f; }), ErrorCode::kBadArgument);
  CHECK_ERROR(decode([](DecodeCommand& c) { c.sampling.repetition_penalty = 0; }), ErrorCode::kBadArgument);
  CHECK_ERROR(decode([](DecodeCommand& c) { c.sampling.logit_bias = {{1000, 1.0f}}; }), ErrorCode::kBadArgument);
  CHECK_ERROR(decode([](DecodeCommand& c) { c.stop_tokens = {-5}; }), ErrorCode::kBadArgument);
}

}  // namespace
}  // namespace deftree
