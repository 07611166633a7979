#include "constraint/constraint.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/error.h"
#include "common/test.h"
#include "constraint/grammar_builder.h"

namespace deftree::constraint {
namespace {

// Every byte as a token, then `further` ones, then one without bytes, as special tokens are.
std::shared_ptr<const TokenTrie> vocabulary(const std::vector<std::string>& further = {}, int first_byte = 0) {
  std::string bytes;
  std::vector<uint32_t> offsets = {0};
  const auto add = [&](const std::string& token) {
    bytes += token;
    offsets.push_back(static_cast<uint32_t>(bytes.size()));
  };
  for (int byte = first_byte; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (const std::string& token : further) add(token);
  add("");
  return std::make_shared<const TokenTrie>(std::move(bytes), std::move(offsets));
}

bool accepts(const Constraint& constraint, const std::string& text) {
  ConstraintState state = constraint.start();
  for (const char c : text) {
    const auto next = constraint.advance(state, static_cast<uint8_t>(c));
    if (!next) return false;
    state = *next;
  }
  return constraint.accepts_end(state);
}

int count(const TokenMask& mask) {
  int n = 0;
  for (const uint64_t word : mask.words) n += std::popcount(word);
  return n;
}

// The same language by another method: Brzozowski's derivatives (JACM 1964) of the grammar itself, byte by byte.
class Derivatives {
 public:
  explicit Derivatives(const Grammar& grammar) : grammar_(grammar) {}

  bool is_nullable(const Expression& e) const { return holds(e, false); }
  // Whether it matches any text at all.
  bool is_productive(const Expression& e) const { return holds(e, true); }

  Expression derive(const Expression& e, uint8_t byte) const {
    switch (e.kind) {
      case Expression::Kind::kText:
        if (e.text.empty() || static_cast<uint8_t>(e.text[0]) != byte) return choice({});
        return text(e.text.substr(1));
      case Expression::Kind::kCharacters: {  // of one byte in these tests
        const bool reads = std::ranges::any_of(e.ranges, [&](auto r) { return r.first <= byte && byte <= r.last; });
        return reads ? text("") : choice({});
      }
      case Expression::Kind::kSequence: {
        Expression result = choice({});
        for (size_t i = 0; i < e.parts.size(); ++i) {
          std::vector<Expression> rest = {derive(e.parts[i], byte)};
          rest.insert(rest.end(), e.parts.begin() + i + 1, e.parts.end());
          if (is_productive(rest[0])) result.parts.push_back(sequence(std::move(rest)));
          if (!is_nullable(e.parts[i])) break;
        }
        return result;
      }
      case Expression::Kind::kChoice: {
        Expression result = choice({});
        for (const Expression& part : e.parts) {
          Expression derived = derive(part, byte);
          if (is_productive(derived)) result.parts.push_back(std::move(derived));
        }
        return result;
      }
      case Expression::Kind::kRepeat: {
        if (e.max == 0) return choice({});
        const int32_t min = is_nullable(e.parts[0]) ? 0 : std::max(e.min - 1, 0);
        const int32_t max = e.max == Expression::kNoMax ? e.max : e.max - 1;
        return sequence({derive(e.parts[0], byte), repeat(e.parts[0], min, max)});
      }
      case Expression::Kind::kRule:
        return derive(grammar_.rules[e.rule], byte);
    }
    return choice({});
  }

 private:
  // Nullable, or productive, by the least fixed point over the rules.
  bool holds(const Expression& e, bool productive) const {
    std::vector<bool> rules(grammar_.rules.size(), false);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t i = 0; i < rules.size(); ++i) {
        const bool now = rules[i] || holds(grammar_.rules[i], productive, rules);
        changed |= now != rules[i];
        rules[i] = now;
      }
    }
    return holds(e, productive, rules);
  }
  bool holds(const Expression& e, bool productive, const std::vector<bool>& rules) const {
    const auto part_holds = [&](const Expression& part) { return holds(part, productive, rules); };
    switch (e.kind) {
      case Expression::Kind::kText:
        return productive || e.text.empty();
      case Expression::Kind::kCharacters:
        return productive && !e.ranges.empty();
      case Expression::Kind::kSequence:
        return std::ranges::all_of(e.parts, part_holds);
      case Expression::Kind::kChoice:
        return std::ranges::any_of(e.parts, part_holds);
      case Expression::Kind::kRepeat:
        return e.min == 0 || part_holds(e.parts[0]);
      case Expression::Kind::kRule:
        return rules[e.rule];
    }
    return false;
  }

  const Grammar& grammar_;
};

Expression random_expression(std::mt19937& random, int depth, int num_rules, bool may_call) {
  const auto below = [&] { return random_expression(random, depth - 1, num_rules, may_call); };
  const int kind = static_cast<int>(random() % (depth > 0 ? 6 : 2));
  const char a = static_cast<char>('a' + random() % 3);
  switch (kind) {
    case 0:
      return text(random() % 3 == 0 ? std::string{a, 'b'} : std::string{a});
    case 1:
      return characters({{static_cast<uint32_t>('a'), static_cast<uint32_t>(a)}});
    case 2:
      return sequence({below(), below()});
    case 3:
      return choice({below(), below()});
    case 4: {
      const int32_t min = static_cast<int32_t>(random() % 3);
      const int32_t max = random() % 3 == 0 ? Expression::kNoMax : min + static_cast<int32_t>(random() % 4);
      return repeat(below(), min, max);
    }
    default:
      // A letter before each call, so that no rule begins with itself.
      return may_call ? sequence({text("c"), rule(static_cast<int32_t>(random() % num_rules)), below()}) : below();
  }
}

TEST(reads_what_derivatives_read) {
  std::mt19937 random(1);
  const auto tokens = vocabulary();
  int compiled = 0, accepted = 0;
  for (int round = 0; round < 400; ++round) {
    Grammar grammar;
    const int num_rules = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < num_rules; ++i) grammar.rules.push_back(random_expression(random, 3, num_rules, true));
    const Derivatives derivatives(grammar);
    std::unique_ptr<Constraint> constraint;
    try {
      constraint = std::make_unique<Constraint>(grammar, tokens);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kBadArgument);
      CHECK(!derivatives.is_productive(grammar.rules[0]));
      continue;
    }
    ++compiled;
    for (int walk = 0; walk < 5; ++walk) {
      Expression rest = grammar.rules[0];
      ConstraintState state = constraint->start();
      for (int step = 0; step < 8; ++step) {
        CHECK_EQ(constraint->accepts_end(state), derivatives.is_nullable(rest));
        accepted += constraint->accepts_end(state);
        std::vector<uint8_t> viable;
        for (uint8_t byte = 'a'; byte <= 'd'; ++byte) {
          const bool expected = derivatives.is_productive(derivatives.derive(rest, byte));
          CHECK_EQ(constraint->advance(state, byte).has_value(), expected);
          if (expected) viable.push_back(byte);
        }
        if (viable.empty()) break;
        const uint8_t byte = viable[random() % viable.size()];
        rest = derivatives.derive(rest, byte);
        state = *constraint->advance(state, byte);
      }
    }
  }
  CHECK(compiled > 200 && accepted > 500);
}

TEST(masks_are_what_advance_says) {
  std::mt19937 random(2);
  const std::vector<std::string> further = {"\", \"", "[[",       "]]",       "}, {", "true",   "nul",  "12", "\": [",
                                            "ab",     "abcdefgh", "\xc3\xa4", "\xc3", "\xa4\"", "\xff", "  "};
  const auto tokens = vocabulary(further);
  const Constraint json(json_grammar(20), tokens);
  for (int walk = 0; walk < 60; ++walk) {
    ConstraintState state = json.start();
    for (int step = 0; step < 30 && !json.is_complete(state); ++step) {
      const auto mask = json.mask(state);
      std::vector<int32_t> allowed;
      for (int32_t token = 0; token < tokens->vocab_size(); ++token) {
        const bool expected = json.advance(state, token).has_value();
        CHECK_EQ(mask->allows(token), expected);
        if (expected) allowed.push_back(token);
      }
      CHECK(json.accepts_end(state) || !allowed.empty());
      if (allowed.empty()) break;
      state = *json.advance(state, allowed[random() % allowed.size()]);
    }
  }
}

TEST(every_text_ends_within_its_tokens) {
  std::mt19937 random(3);
  const auto tokens = vocabulary({"\", \"", "[[[[", "]]", "}, {\"", "true", "ull", "\": {", "abcdefgh", "0000"});
  const Constraint json(json_grammar(100), tokens);
  std::map<int, int> lengths;
  for (int walk = 0; walk < 400; ++walk) {
    const int32_t max_tokens = 1 + static_cast<int32_t>(random() % 40);
    ConstraintState state = json.start();
    REQUIRE(json.min_tokens(state) == 1);
    int32_t left = max_tokens;
    while (left > 0 && !json.is_complete(state)) {
      const auto mask = json.mask(state, left);
      std::vector<int32_t> allowed;
      for (int32_t token = 0; token < tokens->vocab_size(); ++token) {
        const auto next = json.advance(state, token);
        // By the definition, and no token is kept back that leaves enough.
        CHECK_EQ(mask->allows(token), next.has_value() && json.min_tokens(*next) <= left - 1);
        if (mask->allows(token)) allowed.push_back(token);
      }
      if (allowed.empty()) break;
      state = *json.advance(state, allowed[random() % allowed.size()]);
      --left;
    }
    CHECK(json.accepts_end(state));
    ++lengths[max_tokens - left];
  }
  CHECK(lengths.size() > 10);
}

TEST(counts_tokens_to_the_end_not_bytes) {
  const auto tokens = vocabulary({"Berlin", " is", " the capital", "Ber"});
  const Constraint sentence({{text("Berlin is the capital")}}, tokens);
  CHECK_EQ(sentence.min_tokens(sentence.start()), 3);
  const auto mask = sentence.mask(sentence.start(), 3);
  CHECK_EQ(count(*mask), 1);
  CHECK(mask->allows(256));
  CHECK_EQ(count(*sentence.mask(sentence.start(), 6)), 2);  // "Ber" leaves l, i, n and two more
  CHECK_EQ(count(*sentence.mask(sentence.start(), 8)), 3);
}

TEST(shares_masks_between_counts) {
  const auto tokens = vocabulary({"aaaa"});
  const Constraint constraint({{repeat(characters({{'a', 'a'}}), 0, 100000)}}, tokens);
  ConstraintState state = constraint.start();
  const auto first = constraint.mask(state);
  for (int i = 0; i < 100; ++i) state = *constraint.advance(state, 'a');
  CHECK_EQ(constraint.mask(state).get(), first.get());
  for (int i = 0; i < 24974; ++i) state = *constraint.advance(state, 256);
  CHECK_EQ(count(*constraint.mask(state)), 2);
  CHECK(constraint.mask(state).get() != first.get());
  state = *constraint.advance(state, 'a');
  CHECK_EQ(count(*constraint.mask(state)), 1);  // three are left
}

TEST(fewest_runs_are_kept_and_closed_in_time) {
  const auto tokens = vocabulary({"xxxx"});
  const Constraint constraint({{sequence({repeat(characters({{'x', 'x'}}), 1000, 2000), text("!")})}}, tokens);
  ConstraintState state = constraint.start();
  CHECK_EQ(constraint.min_tokens(state), 251);
  CHECK_EQ(count(*constraint.mask(state, 251)), 1);
  CHECK_EQ(count(*constraint.mask(state, 254)), 2);
  for (int32_t left = 251; left > 1; --left) state = *constraint.advance(state, 256);
  CHECK(constraint.mask(state, 1)->allows('!'));
  CHECK_EQ(count(*constraint.mask(state, 1)), 1);
}

TEST(characters_are_whole_and_valid_utf8) {
  const auto tokens = vocabulary();
  const Constraint any({{characters({{0, 0x10ffff}})}}, tokens);
  CHECK(accepts(any, std::string(1, '\0')));
  for (const char* good : {"a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                           "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    CHECK(accepts(any, good));
  }
  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80", "\xf5", "\xc2", "ab"}) {
    CHECK(!accepts(any, bad));
  }
  std::mt19937 random(4);
  for (int round = 0; round < 200; ++round) {
    const uint32_t first = random() % 0x800 << random() % 10, last = first + random() % 0x2000;
    const uint32_t middle = first + (last - first) / 3;
    const Constraint range({{characters({{middle, last}, {first, middle}, {middle, middle}})}}, tokens);
    for (const uint32_t c : {first, last, first - 1, last + 1, first + (last - first) / 2}) {
      if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) continue;
      std::string bytes;
      if (c < 0x80) {
        bytes = {static_cast<char>(c)};
      } else if (c < 0x800) {
        bytes = {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
      } else if (c < 0x10000) {
        bytes = {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
                 static_cast<char>(0x80 | (c & 63))};
      } else {
        bytes = {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
                 static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
      }
      CHECK_EQ(accepts(range, bytes), first <= c && c <= last);
    }
  }
}

TEST(a_copy_of_a_state_goes_its_own_way) {
  const auto tokens = vocabulary();
  const Constraint json(json_grammar(10), tokens);
  ConstraintState trunk = json.start();
  for (const char c : std::string("[1, ")) trunk = *json.advance(trunk, c);
  const ConstraintState fork = trunk;
  trunk = *json.advance(trunk, '[');
  CHECK(!(trunk == fork));
  CHECK(json.mask(trunk)->allows(']'));
  CHECK(!json.mask(fork)->allows(']'));
}

TEST(states_outlive_the_cache) {
  std::mt19937 random(5);
  const auto tokens = vocabulary({"[[", "]]", "\", \""});
  const Constraint json(json_grammar(50), tokens);
  const Constraint forgetful(json_grammar(50), tokens, {.max_instructions = 4096, .cache_bytes = 4096});
  for (int walk = 0; walk < 20; ++walk) {
    ConstraintState a = json.start(), b = forgetful.start();
    for (int step = 0; step < 40 && !json.is_complete(a); ++step) {
      const auto mask = json.mask(a, 60 - step);
      const auto again = forgetful.mask(b, 60 - step);
      CHECK(mask->words == again->words);
      std::vector<int32_t> allowed;
      for (int32_t token = 0; token < tokens->vocab_size(); ++token) {
        if (mask->allows(token)) allowed.push_back(token);
      }
      if (allowed.empty()) break;
      const int32_t token = allowed[random() % allowed.size()];
      a = *json.advance(a, token);
      b = *forgetful.advance(b, token);
      CHECK_EQ(json.accepts_end(a), forgetful.accepts_end(b));
    }
  }
  CHECK(forgetful.cache_bytes() < 1 << 20);
}

TEST(threads_share_a_constraint) {
  const auto tokens = vocabulary({"[[", "]]"});
  const Constraint json(json_grammar(50), tokens, {.max_instructions = 4096, .cache_bytes = 1 << 16});
  std::vector<std::thread> threads;
  std::atomic<int> ended = 0;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      ConstraintState state = json.start();
      for (int left = 200; left > 0 && !json.is_complete(state); --left) {
        const auto mask = json.mask(state, left);
        std::vector<int32_t> allowed;
        for (int32_t token = 0; token < tokens->vocab_size(); ++token) {
          if (mask->allows(token)) allowed.push_back(token);
        }
        if (allowed.empty()) break;
        state = *json.advance(state, allowed[random() % allowed.size()]);
      }
      ended += json.accepts_end(state);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(ended.load(), 4);
}

TEST(bytes_that_the_vocabulary_lacks_are_not_asked_for) {
  const auto without_controls = vocabulary({"a\nb"}, 32);
  const auto token_of = [](char c) { return c - 32; };
  const Constraint lines({{repeat(characters({{0, 0x7f}}), 1)}}, without_controls);
  const auto mask = lines.mask(lines.start());
  CHECK(mask->allows(token_of('a')));
  CHECK(!mask->allows(256 - 32));  // its line break could be the last thing before a dead end
  CHECK_ERROR(Constraint({{text("a\nb")}}, without_controls), ErrorCode::kBadArgument);
}

TEST(special_tokens_never_come) {
  const auto tokens = vocabulary();
  const Constraint anything({{repeat(characters({{0, 0x10ffff}}), 0)}}, tokens);
  const int32_t special = tokens->vocab_size() - 1;
  CHECK(!anything.mask(anything.start())->allows(special));
  CHECK(!anything.advance(anything.start(), special).has_value());
  CHECK(!anything.advance(anything.start(), -1).has_value());
  CHECK(!anything.advance(anything.start(), special + 1).has_value());
}

TEST(refuses_what_it_cannot_be) {
  const auto tokens = vocabulary();
  const auto make = [&](Grammar grammar) { return Constraint(grammar, tokens, {.max_instructions = 1000}); };
  CHECK_ERROR(make({}), ErrorCode::kBadArgument);
  CHECK_ERROR(make({{choice({})}}), ErrorCode::kBadArgument);
  CHECK_ERROR(make({{rule(1)}}), ErrorCode::kBadArgument);
  CHECK_ERROR(make({{rule(0)}}), ErrorCode::kBadArgument);
  CHECK_ERROR(make({{sequence({rule(0), text("a")})}}), ErrorCode::kBadArgument);
  CHECK_ERROR(make({{choice({text("a"), sequence({repeat(text("b"), 0), rule(1)})}),
                     choice({sequence({rule(0), text("c")})})}}),
              ErrorCode::kBadArgument);
  CHECK_ERROR(make({{sequence({text("["), rule(0), text("]")})}}), ErrorCode::kBadArgument);  // without end
  CHECK_ERROR(make({{text(std::string(1001, 'a'))}}), ErrorCode::kBadArgument);
  CHECK_ERROR(make({{repeat(text("a"), 3, 2)}}), ErrorCode::kBadArgument);
  CHECK_ERROR(make({{characters({{3, 2}})}}), ErrorCode::kBadArgument);
  CHECK_ERROR(make({{characters({{0xd800, 0xdfff}})}}), ErrorCode::kBadArgument);
  Expression deep = text("a");
  for (int i = 0; i < 1000; ++i) deep = sequence({deep});
  CHECK_ERROR(make({{deep}}), ErrorCode::kBadArgument);
}

TEST(repeats_of_what_may_be_empty_end) {
  const auto tokens = vocabulary();
  const Constraint constraint({{repeat(repeat(text("ab"), 0, 1), 500, 1000)}}, tokens);
  CHECK(accepts(constraint, ""));
  CHECK(accepts(constraint, "abab"));
  std::string most;
  for (int i = 0; i < 1000; ++i) most += "ab";
  CHECK(accepts(constraint, most));
  CHECK(!accepts(constraint, most + "ab"));
}

}  // namespace
}  // namespace deftree::constraint
