#include "engine/cuda/sampler_jobs.h"

#include <algorithm>
#include <limits>
#include <string>

#include "common/error.h"

namespace deftree::sampler {
namespace {

constexpr float kMinTemperature = 1e-6f;  // of sampler.cpp

bool penalizes(const SampleRequest& request) {
  return request.params->repetition_penalty != 1.0f && !request.seen.empty();
}

template <class T>
bool is_same(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() && (a.data() == b.data() || std::ranges::equal(a, b));
}

// Whether two requests of a row draw from one distribution.
bool is_same_distribution(const SampleRequest& a, const SampleRequest& b) {
  const SamplingParams &x = *a.params, &y = *b.params;
  return x.temperature == y.temperature && x.top_k == y.top_k && x.top_p == y.top_p && x.min_p == y.min_p &&
         x.repetition_penalty == y.repetition_penalty && x.logit_bias == y.logit_bias &&
         (!penalizes(a) || is_same(a.seen, b.seen)) && penalizes(a) == penalizes(b) && is_same(a.allowed, b.allowed);
}

}  // namespace

void JobList::set_samples(std::span<const SampleRequest> requests, int num_rows) {
  clear(num_rows);
  for (const SampleRequest& request : requests) {
    check_row(request.logit_row, num_rows);
    int& last = last_job_of_row_[request.logit_row];
    if (last < 0 || !is_same_distribution(requests[request_of_[last]], request)) {
      request_of_.push_back(static_cast<int>(job_of_.size()));
      last = add_job(request);
    }
    job_of_.push_back(last);
    SampleJob& job = jobs_[last];
    ++job.draws_end;
    const int32_t num_logprobs = request.num_successors > 0
                                     ? std::max(request.params->num_logprobs, request.num_successors)
                                     : request.params->num_logprobs;
    if (num_logprobs < 0) continue;
    if (num_logprobs > kListLen && vocab_size_ > kListLen) {
      throw Error(ErrorCode::kBadArgument,
                  "logprobs asks for the " + std::to_string(num_logprobs) + " likeliest tokens; on a GPU at most " +
                      std::to_string(kListLen) + " can be had",
                  {{"logprobs", static_cast<double>(num_logprobs)}, {"max_logprobs", kListLen}});
    }
    job.wants_sum = 1;
    job.num_top = std::max(job.num_top, std::min(num_logprobs, vocab_size_));
  }
  place_draws();
  for (size_t i = 0; i < requests.size(); ++i) {
    const SampleRequest& request = requests[i];
    draws_[draw_of_[i]] = {uniform_random(request.params->seed, request.path_hash, request.position), -1};
  }
}

void JobList::set_scores(std::span<const int32_t> rows, std::span<const int32_t> tokens, int num_rows) {
  clear(num_rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    check_row(rows[i], num_rows);
    check_token(tokens[i], "a log-probability");
    int& last = last_job_of_row_[rows[i]];
    if (last < 0) {
      last = static_cast<int>(jobs_.size());
      SampleJob& job = jobs_.emplace_back();
      job.kind = JobKind::kScore;
      job.row = rows[i];
      job.wants_sum = 1;
    }
    job_of_.push_back(last);
    ++jobs_[last].draws_end;
  }
  place_draws();
  for (size_t i = 0; i < rows.size(); ++i) draws_[draw_of_[i]] = {0, tokens[i]};
}

bool JobList::is_greedy() const {
  return std::ranges::all_of(jobs_, [](const SampleJob& job) {
    return job.kind == JobKind::kGreedy && job.edits_begin == job.edits_end && job.mask_words == 0 &&
           job.wants_sum == 0;
  });
}

void JobList::clear(int num_rows) {
  jobs_.clear();
  edits_.clear();
  masks_.clear();
  job_of_.clear();
  request_of_.clear();
  last_job_of_row_.assign(num_rows, -1);
}

int JobList::add_job(const SampleRequest& request) {
  const SamplingParams& params = *request.params;
  SampleJob job{};
  job.kind = params.temperature == 0.0f ? JobKind::kGreedy : JobKind::kDraw;
  job.row = request.logit_row;
  job.scale = 1.0f / std::max(params.temperature, kMinTemperature);
  job.top_k = params.top_k > 0 && params.top_k < vocab_size_ ? params.top_k : vocab_size_;
  job.top_p = params.top_p;
  job.weight_floor = std::clamp(params.min_p, std::numeric_limits<float>::min(), 1.0f);
  job.penalty = params.repetition_penalty;
  add_edits(job, request);
  job.mask_begin = static_cast<int32_t>(masks_.size());
  job.mask_words = static_cast<int32_t>(request.allowed.size());
  masks_.insert(masks_.end(), request.allowed.begin(), request.allowed.end());
  jobs_.push_back(job);
  return static_cast<int>(jobs_.size()) - 1;
}

void JobList::add_edits(SampleJob& job, const SampleRequest& request) {
  job.edits_begin = static_cast<int32_t>(edits_.size());
  if (penalizes(request)) {
    for (const int32_t token : request.seen) edit_of(job, token, "the repetition penalty").is_penalized = 1;
  }
  for (const auto& [token, bias] : request.params->logit_bias) edit_of(job, token, "logitBias").bias += bias;
  job.edits_end = static_cast<int32_t>(edits_.size());
}

// A sparse set: what a token's entry in edit_of_token_ points to is its edit if that says so itself, so that nothing
// has to be cleared between jobs.
TokenEdit& JobList::edit_of(const SampleJob& job, int32_t token, const char* what) {
  check_token(token, what);
  int32_t& at = edit_of_token_[token];
  if (at < job.edits_begin || at >= static_cast<int32_t>(edits_.size()) || edits_[at].token != token) {
    at = static_cast<int32_t>(edits_.size());
    edits_.push_back({token, 0, 0.0f});
  }
  return edits_[at];
}

void JobList::check_row(int32_t row, int num_rows) const {
  if (row >= 0 && row < num_rows) return;
  throw Error(ErrorCode::kBadArgument,
              "logits row " + std::to_string(row) + " does not exist; there are " + std::to_string(num_rows),
              {{"row", static_cast<double>(row)}, {"num_rows", static_cast<double>(num_rows)}});
}

void JobList::check_token(int32_t token, const char* what) const {
  if (token >= 0 && token < vocab_size_) return;
  throw Error(ErrorCode::kBadArgument,
              std::string(what) + " names token " + std::to_string(token) + "; the vocabulary has " +
                  std::to_string(vocab_size_),
              {{"token", static_cast<double>(token)}, {"vocab_size", static_cast<double>(vocab_size_)}});
}

// A job's draws become neighbours, and so do the places of its likeliest tokens.
void JobList::place_draws() {
  int num_draws = 0;
  num_top_ = 0;
  for (SampleJob& job : jobs_) {
    const int len = job.draws_end;
    job.draws_begin = job.draws_end = num_draws;
    num_draws += len;
    job.top_begin = num_top_;
    num_top_ += job.num_top;
  }
  draws_.resize(num_draws);
  draw_of_.clear();
  for (const int job : job_of_) draw_of_.push_back(jobs_[job].draws_end++);
}

}  // namespace deftree::sampler
