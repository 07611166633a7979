#include "binding/decode.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "binding/constraint.h"

namespace deftree::binding {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxMedusaHeads = 64;
constexpr int64_t kMaxSafeInteger = (int64_t{1} << 53) - 1;

int32_t count(const Field& field) { return static_cast<int32_t>(field.integer(1, kMaxInt32)); }

std::string one_of(const Field& field, std::initializer_list<const char*> names) {
  std::string wanted;
  for (const char* name : names) {
    if (field.value().IsString() && field.string() == name) return name;
    wanted += (wanted.empty() ? "one of " : ", ") + std::string("\"") + name + "\"";
  }
  field.fail(wanted);
}

attention::Policy decode_policy(const Field& field) { return attention::parse_policy(field.string()); }

TensorEntry decode_tensor(const Field& tensor, int32_t num_files) {
  TensorEntry entry{
      .name = tensor["name"].string(),
      .file = static_cast<int32_t>(tensor["file"].integer(0, num_files - 1)),
      .offset = static_cast<uint64_t>(tensor["offset"].integer(0, kMaxSafeInteger)),
      .bytes = static_cast<uint64_t>(tensor["bytes"].integer(0, kMaxSafeInteger)),
      .dtype = parse_dtype(tensor["dtype"].string()),
      .shape = {},
  };
  const Field shape = tensor["shape"];
  for (uint32_t i = 0; i < shape.size(); ++i) entry.shape.push_back(shape.at(i).integer(0, kMaxSafeInteger));
  return entry;
}

SamplingParams decode_sampling(const Field& sampling) {
  SamplingParams params;
  const auto optional = [&](const char* name, auto read) {
    const Field field = sampling[name];
    if (!field.is_absent()) read(field);
  };
  optional("temperature", [&](const Field& f) { params.temperature = static_cast<float>(f.number()); });
  optional("topK", [&](const Field& f) { params.top_k = static_cast<int32_t>(f.integer(0, kMaxInt32)); });
  optional("topP", [&](const Field& f) { params.top_p = static_cast<float>(f.number()); });
  optional("minP", [&](const Field& f) { params.min_p = static_cast<float>(f.number()); });
  optional("repetitionPenalty", [&](const Field& f) { params.repetition_penalty = static_cast<float>(f.number()); });
  optional("seed", [&](const Field& f) {
    params.seed = static_cast<uint64_t>(f.integer(-kMaxSafeInteger, kMaxSafeInteger));
  });
  optional("logprobs", [&](const Field& f) { params.num_logprobs = static_cast<int32_t>(f.integer(0, kMaxInt32)); });
  optional("logitBias", [&](const Field& list) {
    for (uint32_t i = 0; i < list.size(); ++i) {
      const Field pair = list.at(i);
      if (pair.size() != 2) pair.fail("a [token, bias] pair");
      params.logit_bias.emplace_back(static_cast<int32_t>(pair.at(0).integer(0, kMaxInt32)),
                                     static_cast<float>(pair.at(1).number()));
    }
  });
  return params;
}

DraftSourceId decode_draft_source(const Field& source) {
  const std::string name = one_of(source, {"suffix", "recycling", "model", "medusa", "custom"});
  return static_cast<DraftSourceId>(std::ranges::find(kDraftSourceNames, name) - kDraftSourceNames.begin());
}

SpeculationParams decode_speculation(const Field& speculation) {
  SpeculationParams params;
  const std::string mode = one_of(speculation["mode"], {"off", "auto", "always"});
  params.mode = mode == "off"    ? SpeculationMode::kOff
                : mode == "auto" ? SpeculationMode::kAuto
                                 : SpeculationMode::kAlways;
  params.max_draft_tokens = static_cast<int32_t>(speculation["maxDraftTokens"].integer(1, kMaxDraftTokens));
  const Field sources = speculation["sources"];
  if (sources.size() == 0) sources.fail("an array of at least one draft source");
  params.sources = 0;
  for (uint32_t i = 0; i < sources.size(); ++i) {
    params.sources |= 1u << static_cast<int>(decode_draft_source(sources.at(i)));
  }
  return params;
}

ConstraintParams decode_constraint(const Field& constraint) {
  const Field language = constraint["language"];
  return {.constraint = language.is_absent() ? nullptr : NativeConstraint::unwrap(language),
          .may_stay_open = constraint["mayStayOpen"].boolean()};
}

Command decode_command(const Field& command) {
  const std::string op = command["op"].string();
  const auto request = [&] { return command["request"].id(); };
  const auto branch = [&] { return command["branch"].id(); };
  if (op == "create") return CreateCommand{branch()};
  if (op == "extend") return ExtendCommand{request(), branch(), command["tokens"].int32_array()};
  if (op == "fork") {
    ForkCommand fork{request(), branch(), {}, command["firstOrdinal"].id()};
    const Field children = command["children"];
    for (uint32_t i = 0; i < children.size(); ++i) fork.children.push_back(children.at(i).id());
    return fork;
  }
  if (op == "decode") {
    DecodeCommand decode{request(),
                         branch(),
                         static_cast<int32_t>(command["maxTokens"].integer(0, kMaxInt32)),
                         command["stopTokens"].integers(),
                         {},
                         decode_sampling(command["sampling"])};
    const Field stops = command["stopStrings"];
    for (uint32_t i = 0; i < stops.size(); ++i) decode.stop_strings.push_back(stops.at(i).bytes());
    const Field speculation = command["speculation"];
    if (!speculation.is_absent()) decode.speculation = decode_speculation(speculation);
    const Field constraint = command["constraint"];
    if (!constraint.is_absent()) decode.constraint = decode_constraint(constraint);
    return decode;
  }
  if (op == "score") return ScoreCommand{request(), branch(), command["tokens"].int32_array()};
  if (op == "logits") return LogitsCommand{request(), branch()};
  if (op == "truncate") {
    return TruncateCommand{request(), branch(), static_cast<int32_t>(command["length"].integer(0, kMaxInt32))};
  }
  if (op == "prune") return PruneCommand{branch(), command["keepCached"].boolean()};
  if (op == "cancel") return CancelCommand{request()};
  if (op == "draft") {
    DraftCommand draft{branch(), static_cast<int32_t>(command["length"].integer(0, kMaxInt32)),
                       command["failed"].boolean(), {}, {}, {}};
    if (draft.has_failed) return draft;
    draft.tokens = command["tokens"].int32_array();
    draft.parents = command["parents"].int32_array();
    const Field probabilities = command["probabilities"];
    for (uint32_t i = 0; !probabilities.is_absent() && i < probabilities.size(); ++i) {
      draft.probabilities.push_back(static_cast<float>(probabilities.at(i).number()));
    }
    return draft;
  }
  if (op == "setAttention") return SetAttentionCommand{decode_policy(command["attention"])};
  throw Error(ErrorCode::kBadArgument, command.path() + ".op is \"" + op + "\", which is no command");
}

// Files and tensors; no config.
ModelSpec decode_tensors(const Field& spec) {
  ModelSpec model{};
  const Field files = spec["files"], tensors = spec["tensors"];
  for (uint32_t i = 0; i < files.size(); ++i) model.files.push_back(files.at(i).string());
  for (uint32_t i = 0; i < tensors.size(); ++i) {
    model.tensors.push_back(decode_tensor(tensors.at(i), static_cast<int32_t>(model.files.size())));
  }
  return model;
}

ModelSpec decode_model(const Field& spec) {
  ModelSpec model = decode_tensors(spec);
  model.config = decode_config(spec["config"]);
  model.weights = one_of(spec["weights"], {"auto", "f32", "bf16", "int8"});
  if (const Field seed = spec["randomSeed"]; !seed.is_absent()) {
    model.random_seed = static_cast<uint64_t>(seed.integer(0, kMaxSafeInteger));
  }
  return model;
}

BackendOptions decode_backend(const Field& spec) {
  return {.num_pages = count(spec["numPages"]),
                    .page_size = count(spec["pageSize"]),
                    .kv_type = one_of(spec["kvType"], {"auto", "f32", "f16", "bf16"}),
                    .num_threads = static_cast<int32_t>(spec["numThreads"].integer(0, 1024)),
                    .max_step_tokens = count(spec["maxStepTokens"]),
                    .device_index = static_cast<int32_t>(spec["deviceIndex"].integer(0, kMaxInt32)),
                    .profile = spec["profile"].boolean()};
}

}  // namespace

LlamaConfig decode_config(const Field& config) {
  LlamaConfig result{
      .num_layers = count(config["numLayers"]),
      .hidden_size = count(config["hiddenSize"]),
      .intermediate_size = count(config["intermediateSize"]),
      .num_qo_heads = count(config["numQoHeads"]),
      .num_kv_heads = count(config["numKvHeads"]),
      .head_dim = count(config["headDim"]),
      .vocab_size = count(config["vocabSize"]),
      .context_len = count(config["contextLen"]),
      .rope_theta = config["ropeTheta"].number(),
      .rms_norm_eps = config["rmsNormEps"].number(),
      .tie_word_embeddings = config["tieWordEmbeddings"].boolean(),
      .qk_permuted = config["qkPermuted"].boolean(),
      .rope_scaling = std::nullopt,
  };
  const Field scaling = config["ropeScaling"];
  if (!scaling.is_absent()) {
    result.rope_scaling = Llama3RopeScaling{
        .factor = scaling["factor"].number(),
        .low_freq_factor = scaling["lowFreqFactor"].number(),
        .high_freq_factor = scaling["highFreqFactor"].number(),
        .original_context_len = count(scaling["originalContextLen"]),
    };
  }
  return result;
}

LoadArguments decode_load_spec(const Field& spec) {
  LoadArguments result;
  result.device = one_of(spec["device"], {"cpu", "cuda"});

  result.model = decode_model(spec);
  result.backend = decode_backend(spec);
  const ModelSpec& model = result.model;
  if (const Field medusa = spec["medusa"]; !medusa.is_absent()) {
    result.medusa = MedusaSpec{.checkpoint = decode_tensors(medusa),
                               .num_heads = static_cast<int32_t>(medusa["numHeads"].integer(1, kMaxMedusaHeads)),
                               .num_blocks = static_cast<int32_t>(medusa["numBlocks"].integer(0, kMaxMedusaHeads)),
                               .hidden_size = model.config.hidden_size,
                               .vocab_size = model.config.vocab_size};
    if (result.device == "cuda") {
      throw Error(ErrorCode::kBadArgument, "Medusa heads run on the CPU only: load with device \"cpu\", or without them");
    }
  }
  if (const Field draft = spec["draftModel"]; !draft.is_absent()) {
    result.draft = DraftModelArguments{decode_model(draft), decode_backend(draft)};
    if (result.draft->model.config.vocab_size != model.config.vocab_size) {
      throw Error(ErrorCode::kBadArgument,
                  "the draft model has " + std::to_string(result.draft->model.config.vocab_size) +
                      " tokens, the model " + std::to_string(model.config.vocab_size) + "; they must be the same",
                  {{"draft_vocab_size", result.draft->model.config.vocab_size},
                   {"vocab_size", model.config.vocab_size}});
    }
  }

  EngineOptions& engine = result.engine;
  engine.num_pages = result.backend.num_pages;
  engine.page_size = result.backend.page_size;
  engine.num_layers = model.config.num_layers;
  engine.vocab_size = model.config.vocab_size;
  engine.context_len = model.config.context_len;
  engine.max_step_tokens = result.backend.max_step_tokens;
  engine.policy = decode_policy(spec["attention"]);
  engine.speculation = decode_speculation(spec["speculation"]);
  engine.token_bytes = spec["tokenBytes"].bytes();
  engine.token_offsets = spec["tokenByteOffsets"].uint32_array();
  for (size_t i = 1; i < engine.token_offsets.size(); ++i) {
    if (engine.token_offsets[i] < engine.token_offsets[i - 1] || engine.token_offsets[i] > engine.token_bytes.size()) {
      spec["tokenByteOffsets"].fail("ascending offsets into tokenBytes (entry " + std::to_string(i) + ")");
    }
  }
  return result;
}

std::vector<Command> decode_commands(const Field& commands) {
  std::vector<Command> result;
  const uint32_t size = commands.size();
  result.reserve(size);
  for (uint32_t i = 0; i < size; ++i) result.push_back(decode_command(commands.at(i)));
  return result;
}

}  // namespace deftree::binding
