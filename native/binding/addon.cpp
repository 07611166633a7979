// The module's own functions: load, dequantize, plan, and what the CPU and GPUs offer.
#include <napi.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attention/plan.h"
#include "attention/tree_snapshot_builder.h"
#include "binding/bench.h"
#include "binding/constraint.h"
#include "binding/decode.h"
#include "binding/encode.h"
#include "binding/engine_host.h"
#include "binding/errors.h"
#include "binding/fields.h"
#include "common/cpu_features.h"
#include "cuda/cublas_library.h"
#include "cuda/device_list.h"
#include "engine/backend.h"
#include "model/dtype.h"

namespace deftree::binding {
namespace {

constexpr const char* kVersion = "0.1.0";
constexpr int64_t kMaxInt32 = 0x7fffffff;

// load(spec, onStep, signal?)
Napi::Value load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    return guarded(env, [&]() -> Napi::Value {
      LoadArguments arguments = decode_load_spec(Field(info[0], "spec"));
      if (!info[1].IsFunction()) Field(info[1], "onStep").fail("a function");
      const Field signal(info[2], "signal");
      if (!signal.is_absent() && signal["aborted"].boolean()) throw Error(ErrorCode::kAborted, "loading was aborted");
      return EngineHost::load(env, std::move(arguments), env.GetInstanceData<AddonData>()->engine_class.New({}),
                              info[1].As<Napi::Object>(),
                              signal.is_absent() ? Napi::Object() : signal.value().As<Napi::Object>());
    });
  } catch (const Napi::Error& error) {
    const Napi::Promise::Deferred failed(env);
    failed.Reject(error.Value());
    return failed.Promise();
  }
}

Napi::Value dequantize(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const DType type = parse_dtype(Field(info[0], "dtype").string());
    const std::string bytes = Field(info[1], "bytes").bytes();
    const DTypeInfo& layout = dtype_info(type);
    if (bytes.size() % layout.block_bytes != 0) {
      throw Error(ErrorCode::kBadArgument,
                  "bytes holds " + std::to_string(bytes.size()) + ", " + std::string(layout.name) + " has blocks of " +
                      std::to_string(layout.block_bytes));
    }
    Napi::Float32Array values = Napi::Float32Array::New(info.Env(), bytes.size() / layout.block_bytes * layout.block_len);
    if (values.ElementLength() > 0) {
      deftree::dequantize(type, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()},
                          {values.Data(), values.ElementLength()});
    }
    return values;
  });
}

// The query numbers of a plan are rows of the snapshot; `query_order` turns them into the caller's.
Napi::Object encode_plan(Napi::Env env, const attention::Plan& plan, const std::vector<int32_t>& query_order) {
  Napi::Array items = Napi::Array::New(env, plan.items.size());
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const attention::WorkItem& item = plan.items[i];
    Napi::Array queries = Napi::Array::New(env, item.query_end - item.query_begin);
    for (int32_t q = item.query_begin; q < item.query_end; ++q) {
      queries.Set(static_cast<uint32_t>(q - item.query_begin), query_order[plan.group_queries[q]]);
    }
    Napi::Object object = Napi::Object::New(env);
    object.Set("kvLen", item.kv_len);
    object.Set("queries", queries);
    object.Set("denseLen", item.dense_len);
    object.Set("writesPartial", item.partial_begin >= 0);
    items.Set(static_cast<uint32_t>(i), object);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("items", items);
  object.Set("kvTokensRead", static_cast<double>(plan.counters.kv_tokens_read));
  object.Set("kvTokensUnshared", static_cast<double>(plan.counters.kv_tokens_unshared));
  object.Set("maskBytes", static_cast<double>(plan.counters.mask_bytes));
  object.Set("partialStates", static_cast<double>(plan.counters.partial_states));
  return object;
}

Napi::Value plan(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    constexpr int kPageSize = 16, kMinChunkLen = 128, kMaxGroupRows = 64;  // those of the CPU backend
    const Field tree(info[0], "tree"), options(info[1], "options");
    const Field nodes = tree["nodes"], queries = tree["queries"];
    std::vector<attention::SnapshotNode> snapshot_nodes(nodes.size());
    for (uint32_t i = 0; i < nodes.size(); ++i) {
      snapshot_nodes[i].parent = static_cast<int32_t>(nodes.at(i)["parent"].integer(-1, kMaxInt32));
      snapshot_nodes[i].len = static_cast<int32_t>(nodes.at(i)["len"].integer(0, kMaxInt32));
    }
    std::vector<int32_t> query_order;
    const TreeSnapshot snapshot = attention::make_snapshot(snapshot_nodes, queries.integers(), kPageSize, &query_order);

    const auto count = [&](const char* name) { return static_cast<int>(options[name].integer(1, 1 << 20)); };
    const attention::AttentionShape shape{.num_qo_heads = count("numQoHeads"),
                                          .num_kv_heads = count("numKvHeads"),
                                          .head_dim = count("headDim"),
                                          .page_size = kPageSize};
    const attention::PlanDevice device{.num_processors = count("numProcessors"),
                                       .min_chunk_len = kMinChunkLen,
                                       .max_group_rows = kMaxGroupRows};
    attention::Plan plan;
    attention::make_plan(snapshot, attention::parse_policy(options["policy"].string()), shape, device, plan);
    return encode_plan(info.Env(), plan, query_order);
  });
}

Napi::Value cuda_status(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return encode_cuda_status(info.Env(), query_cuda()); });
}

Napi::Value find_cublas_lt(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return Napi::String::New(info.Env(), deftree::find_cublas_lt()); });
}

Napi::Value cuda_memory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    ModelSpec model;
    model.config = decode_config(Field(info[0], "config"));
    BackendOptions options{};
    options.max_step_tokens = static_cast<int32_t>(Field(info[1], "maxStepTokens").integer(1, kMaxInt32));
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("bytesWithoutKv", static_cast<double>(cuda_bytes_without_kv(model, options)));
    object.Set("kvBytesPerToken", static_cast<double>(cuda_kv_bytes_per_token(model.config)));
    return object;
  });
}

Napi::Object describe_cpu(Napi::Env env) {
  const CpuFeatures& f = cpu_features();
  Napi::Object features = Napi::Object::New(env);
  const std::pair<const char*, bool> names[] = {
      {"avx2", f.avx2},           {"fma", f.fma},           {"f16c", f.f16c},
      {"bmi2", f.bmi2},           {"avx512f", f.avx512f},   {"avx512bw", f.avx512bw},
      {"avx512vl", f.avx512vl},   {"avx512dq", f.avx512dq}, {"avx512vnni", f.avx512vnni},
      {"avx512bf16", f.avx512bf16}, {"amxInt8", f.amx_int8},  {"amxBf16", f.amx_bf16},
      {"neon", f.neon},           {"neonDotprod", f.neon_dotprod}};
  for (const auto& [name, present] : names) features.Set(name, present);
  Napi::Object cpu = Napi::Object::New(env);
  cpu.Set("level", std::string(cpu_level_name(cpu_level())));
  cpu.Set("features", features);
  return cpu;
}

// process.exit() ends the process with no environment cleanup on the main thread: engines stop on its "exit" event.
void stop_engines_on_exit(Napi::Env env) {
  const Napi::Object process = env.Global().Get("process").As<Napi::Object>();
  const Napi::Function stop = Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
    const auto hosts = info.Env().GetInstanceData<AddonData>()->hosts;
    for (EngineHost* host : hosts) host->shut_down();
  });
  process.Get("once").As<Napi::Function>().Call(process, {Napi::String::New(env, "exit"), stop});
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  return guarded(env, [&] {
    auto* data = new AddonData();
    env.SetInstanceData(data);
    data->engine_class = Napi::Persistent(NativeEngine::define(env));
    data->constraint_class = Napi::Persistent(NativeConstraint::define(env));
    stop_engines_on_exit(env);
    exports.Set("version", kVersion);
    exports.Set("cpu", describe_cpu(env));
    exports.Set("load", Napi::Function::New<load>(env, "load"));
    exports.Set("dequantize", Napi::Function::New<dequantize>(env, "dequantize"));
    exports.Set("plan", Napi::Function::New<plan>(env, "plan"));
    exports.Set("benchAttention", Napi::Function::New<bench_attention>(env, "benchAttention"));
    exports.Set("cudaStatus", Napi::Function::New<cuda_status>(env, "cudaStatus"));
    exports.Set("findCublasLt", Napi::Function::New<find_cublas_lt>(env, "findCublasLt"));
    exports.Set("cudaMemory", Napi::Function::New<cuda_memory>(env, "cudaMemory"));
    return exports;
  });
}

}  // namespace
}  // namespace deftree::binding

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return deftree::binding::init(env, exports); }
NODE_API_MODULE(deftree, init_addon)
