// Benchmarks that need no engine.
#pragma once

#include <napi.h>

namespace deftree::binding {

// benchAttention(request): {result: Promise, cancel(): void}. Runs on a thread of its own, which the end of the environment
// and of the process cancels and joins. Refuses a malformed request at once.
Napi::Value bench_attention(const Napi::CallbackInfo& info);

}  // namespace deftree::binding
