// C++ results -> the objects of packages/engine/src/native-addon.ts.
#pragma once

#include <napi.h>

#include "cuda/device_list.h"
#include "engine/backend.h"
#include "engine/command.h"

namespace deftree::binding {

Napi::Object encode_message(Napi::Env env, const StepMessage& message, double time_ms);
Napi::Object encode_stats(Napi::Env env, const EngineStats& stats);
Napi::Object encode_info(Napi::Env env, const BackendInfo& info, const BackendOptions& options);
Napi::Object encode_cuda_status(Napi::Env env, const CudaStatus& status);

}  // namespace deftree::binding
