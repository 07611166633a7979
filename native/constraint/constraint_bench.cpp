// What a constraint costs: constraint_bench [tokens].
//
// Method: a vocabulary of all bytes and of random words and punctuation, most with a space before them, as byte-pair
// encodings have; JSON of records with bounded strings. `walks` random texts are written token by token. A mask is new
// when its state was not met before, known otherwise; times are medians and the 99th of 100, of processor time.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <unordered_set>
#include <vector>

#include "constraint/constraint.h"
#include "constraint/grammar_builder.h"

namespace deftree::constraint {
namespace {

constexpr int kWalks = 64, kSteps = 200;

double now_us() { return static_cast<double>(std::clock()) * (1e6 / CLOCKS_PER_SEC); }

std::shared_ptr<const TokenTrie> make_vocabulary(int num_tokens) {
  std::mt19937 random(1);
  std::string bytes;
  std::vector<uint32_t> offsets = {0};
  std::unordered_set<std::string> known;
  const auto add = [&](const std::string& token) {
    if (!known.insert(token).second) return;
    bytes += token;
    offsets.push_back(static_cast<uint32_t>(bytes.size()));
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (int len = 2; len <= 64; len *= 2) add(std::string(len, ' '));
  const std::string punctuation = "\"{}[]:,.-_()'\\/";
  while (static_cast<int>(offsets.size()) <= num_tokens) {
    std::string token = random() % 2 == 0 ? " " : "";
    const size_t len = 1 + random() % 4 + random() % 4;
    const bool is_word = random() % 12 != 0;
    for (size_t i = 0; i < len; ++i) {
      token += is_word ? static_cast<char>('a' + random() % 26 * (random() % 26) / 26)
                       : punctuation[random() % punctuation.size()];
    }
    add(token);
  }
  return std::make_shared<const TokenTrie>(std::move(bytes), std::move(offsets));
}

void report(const char* what, std::vector<double> us) {
  std::sort(us.begin(), us.end());
  if (us.empty()) return;
  double sum = 0;
  for (const double each : us) sum += each;
  std::printf("%-22s %8zu  median %9.2f us  p99 %9.2f us  sum %9.1f ms\n", what, us.size(), us[us.size() / 2],
              us[us.size() * 99 / 100], sum / 1000);
}

void run(int num_tokens) {
  double start = now_us();
  const auto vocabulary = make_vocabulary(num_tokens);
  std::printf("%d tokens, %zu trie nodes, built in %.1f ms\n", vocabulary->vocab_size(), vocabulary->nodes().size(),
              (now_us() - start) / 1000);
  start = now_us();
  const Constraint json(json_grammar(40), vocabulary);
  std::printf("compiled in %.2f ms\n", (now_us() - start) / 1000);

  std::mt19937 random(2);
  std::vector<double> new_mask, known_mask, advance;
  for (int walk = 0; walk < kWalks; ++walk) {
    ConstraintState state = json.start();
    for (int step = 0; step < kSteps && !json.is_complete(state); ++step) {
      const size_t before = json.cache_bytes();
      double began = now_us();
      const auto mask = json.mask(state, kSteps - step);
      const double us = now_us() - began;
      (json.cache_bytes() == before ? known_mask : new_mask).push_back(us);
      int32_t token;
      do token = static_cast<int32_t>(random() % vocabulary->vocab_size());
      while (!mask->allows(token));
      began = now_us();
      state = *json.advance(state, token);
      advance.push_back(now_us() - began);
    }
  }
  report("new mask", new_mask);
  report("known mask", known_mask);
  report("advance", advance);
  std::printf("cache %.1f MiB\n\n", static_cast<double>(json.cache_bytes()) / (1 << 20));
}

}  // namespace
}  // namespace deftree::constraint

int main(int argc, char** argv) {
  if (argc > 1) {
    deftree::constraint::run(std::atoi(argv[1]));
    return 0;
  }
  for (const int num_tokens : {1536, 49152, 128256}) deftree::constraint::run(num_tokens);
  return 0;
}
