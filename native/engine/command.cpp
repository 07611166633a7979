#include "engine/command.h"

#include <cmath>
#include <span>
#include <string>
#include <utility>

#include "engine/overloaded.h"

namespace deftree {
namespace {

[[noreturn]] void bad_argument(std::string message, ErrorFigures figures = {}) {
  throw Error(ErrorCode::kBadArgument, std::move(message), std::move(figures));
}

}  // namespace

void validate(const Command& command, int32_t vocab_size, int32_t context_len) {
  const auto check_tokens = [&](std::span<const int32_t> tokens, const char* field) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] >= 0 && tokens[i] < vocab_size) continue;
      bad_argument(std::string(field) + "[" + std::to_string(i) + "] is " + std::to_string(tokens[i]) +
                       ", the vocabulary has tokens 0 to " + std::to_string(vocab_size - 1),
                   {{"token", tokens[i]}, {"index", static_cast<double>(i)}, {"vocab_size", vocab_size}});
    }
  };
  const auto check_range = [](double value, double low, double high, const char* field) {
    if (value >= low && value <= high) return;  // false for NaN
    bad_argument(std::string(field) + " is " + std::to_string(value) + ", it must lie between " + std::to_string(low) +
                     " and " + std::to_string(high),
                 {{"value", value}});
  };
  std::visit(Overloaded{
                 [&](const ExtendCommand& c) { check_tokens(c.tokens, "tokens"); },
                 [&](const ScoreCommand& c) { check_tokens(c.tokens, "tokens"); },
                 [&](const TruncateCommand& c) { check_range(c.len, 0, context_len, "length"); },
                 [&](const DecodeCommand& c) {
                   const SamplingParams& s = c.sampling;
                   check_range(c.max_tokens, 0, INT32_MAX, "maxTokens");
                   check_tokens(c.stop_tokens, "stopTokens");
                   check_range(s.temperature, 0, 1e6, "temperature");
                   check_range(s.top_k, 0, INT32_MAX, "topK");
                   check_range(s.top_p, 0, 1, "topP");
                   check_range(s.min_p, 0, 1, "minP");
                   check_range(s.repetition_penalty, 1e-3, 1e3, "repetitionPenalty");
                   check_range(s.num_logprobs, -1, vocab_size, "logprobs");
                   if (c.constraint && c.constraint->constraint) {
                     check_range(c.constraint->constraint->vocab_size(), vocab_size, vocab_size,
                                 "the constraint's vocabulary");
                   }
                   if (c.speculation) check_range(c.speculation->max_draft_tokens, 1, kMaxDraftTokens, "maxDraftTokens");
                   for (const auto& [token, bias] : s.logit_bias) {
                     check_tokens({&token, 1}, "logitBias");
                     if (std::isnan(bias) || bias == INFINITY) bad_argument("logitBias must be a number or -Infinity");
                   }
                 },
                 [](const auto&) {},
             },
             command);
}

}  // namespace deftree
