// JavaScript arguments -> C++ structs. The shapes are those of packages/engine/src/native-addon.ts.
#pragma once

#include <string>
#include <vector>

#include "binding/fields.h"
#include "engine/backend.h"
#include "engine/command.h"
#include "engine/engine.h"
#include "model/model_spec.h"

namespace deftree::binding {

struct LoadArguments {
  ModelSpec model;
  BackendOptions backend;
  EngineOptions engine;
  std::string device;  // "cpu" | "cuda"
};

LoadArguments decode_load_spec(const Field& spec);
LlamaConfig decode_config(const Field& config);
// commands: an array of NativeCommand.
std::vector<Command> decode_commands(const Field& commands);

}  // namespace deftree::binding
