// JavaScript arguments -> C++ structs. The shapes are those of packages/engine/src/native-addon.ts.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "binding/fields.h"
#include "engine/backend.h"
#include "engine/command.h"
#include "engine/draft_medusa.h"
#include "engine/draft_model.h"
#include "engine/engine.h"
#include "model/model_spec.h"

namespace deftree::binding {

// A model that drafts for another one, on the same device.
struct DraftModelArguments {
  ModelSpec model;
  BackendOptions backend;
  DraftModelOptions options() const {
    return {.num_pages = backend.num_pages,
            .page_size = backend.page_size,
            .vocab_size = model.config.vocab_size,
            .context_len = model.config.context_len,
            .max_step_tokens = backend.max_step_tokens};
  }
};

struct LoadArguments {
  ModelSpec model;
  BackendOptions backend;
  EngineOptions engine;
  std::string device;  // "cpu" | "cuda"
  std::optional<DraftModelArguments> draft;
  std::optional<MedusaSpec> medusa;
};

LoadArguments decode_load_spec(const Field& spec);
LlamaConfig decode_config(const Field& config);
// commands: an array of NativeCommand.
std::vector<Command> decode_commands(const Field& commands);

}  // namespace deftree::binding
