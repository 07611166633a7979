#include "binding/encode.h"

#include <algorithm>

#include "binding/errors.h"

namespace deftree::binding {
namespace {

const char* reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kDone: return "done";
    case FinishReason::kStop: return "stop";
    case FinishReason::kStopString: return "stop-string";
    case FinishReason::kLength: return "length";
    case FinishReason::kContext: return "context";
    case FinishReason::kPruned: return "pruned";
    case FinishReason::kAborted: return "aborted";
    case FinishReason::kError: return "error";
  }
  return "error";
}

// Copied: an external buffer may be refused, and these are small.
Napi::Float32Array encode_floats(Napi::Env env, const std::vector<float>& values) {
  Napi::Float32Array array = Napi::Float32Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

Napi::Object encode_finished(Napi::Env env, const FinishedRequest& finished) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("request", finished.request);
  object.Set("reason", reason_name(finished.reason));
  object.Set("branchLength", finished.branch_len);
  if (finished.reused_tokens >= 0) object.Set("reusedTokens", finished.reused_tokens);
  if (!finished.logprobs.empty()) object.Set("logprobs", encode_floats(env, finished.logprobs));
  if (!finished.logits.empty()) object.Set("logits", encode_floats(env, finished.logits));
  if (finished.stop_index >= 0) object.Set("stopIndex", finished.stop_index);
  if (finished.error) object.Set("error", to_error_info(env, *finished.error));
  return object;
}

// By source's name; only ranks that drafted anything.
Napi::Object encode_draft_sources(Napi::Env env, const SpeculationStats& stats) {
  Napi::Object sources = Napi::Object::New(env);
  for (size_t i = 0; i < kNumDraftSources; ++i) {
    const DraftSourceStats& of_source = stats.sources[i];
    DraftSourceStats::Rank sum;
    Napi::Array ranks = Napi::Array::New(env);
    for (uint32_t rank = 0; rank < kNumDraftRanks; ++rank) {
      const DraftSourceStats::Rank& of_rank = of_source.ranks[rank];
      if (of_rank.drafted_tokens == 0) continue;
      sum.drafted_tokens += of_rank.drafted_tokens;
      sum.accepted_tokens += of_rank.accepted_tokens;
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("rank", rank);
      entry.Set("draftedTokens", static_cast<double>(of_rank.drafted_tokens));
      entry.Set("acceptedTokens", static_cast<double>(of_rank.accepted_tokens));
      ranks.Set(ranks.Length(), entry);
    }
    Napi::Object source = Napi::Object::New(env);
    source.Set("draftedTokens", static_cast<double>(sum.drafted_tokens));
    source.Set("acceptedTokens", static_cast<double>(sum.accepted_tokens));
    source.Set("ns", static_cast<double>(of_source.ns));
    source.Set("ranks", ranks);
    sources.Set(draft_source_name(static_cast<DraftSourceId>(i)), source);
  }
  return sources;
}

Napi::Array encode_top(Napi::Env env, const std::vector<TokenLogprob>& top) {
  Napi::Array array = Napi::Array::New(env, top.size());
  for (size_t i = 0; i < top.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("token", top[i].token);
    entry.Set("logprob", top[i].logprob);
    array.Set(static_cast<uint32_t>(i), entry);
  }
  return array;
}

}  // namespace

Napi::Object encode_message(Napi::Env env, const StepMessage& message, double time_ms) {
  const size_t num_tokens = message.tokens.size();
  Napi::Uint32Array requests = Napi::Uint32Array::New(env, num_tokens);
  Napi::Int32Array tokens = Napi::Int32Array::New(env, num_tokens);
  Napi::Float32Array logprobs = Napi::Float32Array::New(env, num_tokens);
  for (size_t i = 0; i < num_tokens; ++i) {
    requests[i] = message.tokens[i].request;
    tokens[i] = message.tokens[i].token;
    logprobs[i] = message.tokens[i].logprob;
  }
  Napi::Array finished = Napi::Array::New(env, message.finished.size());
  for (size_t i = 0; i < message.finished.size(); ++i) {
    finished.Set(static_cast<uint32_t>(i), encode_finished(env, message.finished[i]));
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("step", static_cast<double>(message.step));
  object.Set("timeMs", time_ms);
  object.Set("requests", requests);
  object.Set("tokens", tokens);
  object.Set("logprobs", logprobs);
  if (!message.top.empty()) {
    Napi::Array top = Napi::Array::New(env, message.top.size());
    for (size_t i = 0; i < message.top.size(); ++i) top.Set(static_cast<uint32_t>(i), encode_top(env, message.top[i]));
    object.Set("topLogprobs", top);
  }
  object.Set("finished", finished);
  if (!message.draft_requests.empty()) {
    Napi::Array requests = Napi::Array::New(env, message.draft_requests.size());
    for (size_t i = 0; i < message.draft_requests.size(); ++i) {
      const DraftRequest& wanted = message.draft_requests[i];
      Napi::Int32Array text = Napi::Int32Array::New(env, wanted.tokens.size());
      std::ranges::copy(wanted.tokens, text.Data());
      Napi::Object request = Napi::Object::New(env);
      request.Set("branch", wanted.branch);
      request.Set("tokens", text);
      request.Set("maxTokens", wanted.max_depth);
      requests.Set(static_cast<uint32_t>(i), request);
    }
    object.Set("draftRequests", requests);
  }
  if (message.fatal) object.Set("fatal", to_error_info(env, *message.fatal));
  return object;
}

Napi::Object encode_stats(Napi::Env env, const EngineStats& stats) {
  Napi::Object object = Napi::Object::New(env);
  const auto set = [&](const char* name, auto value) { object.Set(name, static_cast<double>(value)); };
  set("steps", stats.steps);
  set("decodedTokens", stats.decoded_tokens);
  set("prefilledTokens", stats.prefilled_tokens);
  set("reusedTokens", stats.reused_tokens);
  set("kvBytesRead", stats.kv_bytes_read);
  set("kvBytesUnshared", stats.kv_bytes_unshared);
  set("maskBytes", stats.mask_bytes);
  set("partialBytes", stats.partial_bytes);
  set("workItems", stats.work_items);
  set("linearNs", stats.linear_ns);
  set("attentionNs", stats.attention_ns);
  set("samplingNs", stats.sampling_ns);
  set("otherForwardNs", stats.other_forward_ns);
  const SpeculationStats& speculation = stats.speculation;
  set("verifySteps", speculation.verify_steps);
  set("draftTrees", speculation.draft_trees);
  set("draftedTokens", speculation.drafted_tokens);
  set("acceptedDraftTokens", speculation.accepted_draft_tokens);
  set("droppedDrafts", speculation.dropped_drafts);
  set("refusedDrafts", speculation.refused_drafts);
  set("lateDrafts", speculation.late_drafts);
  object.Set("draftSources", encode_draft_sources(env, speculation));
  set("draftingNs", stats.drafting_ns);
  set("overheadNs", stats.overhead_ns);
  set("stepNs", stats.step_ns);
  set("numPages", stats.num_pages);
  set("freePages", stats.num_free_pages);
  set("cachedPages", stats.num_cached_pages);
  set("nodes", stats.num_nodes);
  set("branches", stats.num_branches);
  set("tokensInForest", stats.tokens_in_forest);
  set("pausedBranches", stats.num_paused_branches);
  return object;
}

Napi::Object encode_info(Napi::Env env, const BackendInfo& info, const BackendOptions& options) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("device", info.device);
  object.Set("description", info.description);
  object.Set("weightFormat", info.weight_format);
  object.Set("kvType", info.kv_type);
  object.Set("weightBytes", static_cast<double>(info.weight_bytes));
  object.Set("kvBytes", static_cast<double>(info.kv_bytes));
  object.Set("kvBytesPerToken", static_cast<double>(info.kv_bytes_per_token));
  object.Set("numPages", options.num_pages);
  object.Set("pageSize", options.page_size);
  object.Set("numThreads", options.num_threads);
  return object;
}

Napi::Object encode_cuda_status(Napi::Env env, const CudaStatus& status) {
  Napi::Array devices = Napi::Array::New(env, status.devices.size());
  for (size_t i = 0; i < status.devices.size(); ++i) {
    const CudaDeviceInfo& device = status.devices[i];
    Napi::Object object = Napi::Object::New(env);
    object.Set("index", device.index);
    object.Set("name", device.name);
    object.Set("computeCapability", device.compute_capability);
    object.Set("numProcessors", device.num_processors);
    object.Set("totalBytes", static_cast<double>(device.total_bytes));
    object.Set("freeBytes", static_cast<double>(device.free_bytes));
    devices.Set(static_cast<uint32_t>(i), object);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("isBuilt", status.is_built);
  object.Set("driverVersion", status.driver_version);
  object.Set("runtimeVersion", status.runtime_version);
  object.Set("devices", devices);
  object.Set("problem", status.problem);
  return object;
}

}  // namespace deftree::binding
