#include "binding/bench.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "attention/bench_tree.h"
#include "attention/tree_snapshot_builder.h"
#include "binding/errors.h"
#include "binding/fields.h"
#include "common/thread_pool.h"
#include "cuda/device_list.h"
#if defined(DEFTREE_WITH_CUDA)
#include "attention/cuda/bench_tree_cuda.h"
#endif

namespace deftree::binding {
namespace {

constexpr int64_t kMaxInt32 = 0x7fffffff;

struct Request {
  TreeSnapshot tree;
  attention::TreeBenchOptions options;
  int num_threads = 1;
  bool on_cuda = false;
};

Request decode_request(const Field& field) {
  Request request;
  const Field nodes = field["nodes"];
  std::vector<attention::SnapshotNode> snapshot_nodes(nodes.size());
  for (uint32_t i = 0; i < nodes.size(); ++i) {
    snapshot_nodes[i].parent = static_cast<int32_t>(nodes.at(i)["parent"].integer(-1, kMaxInt32));
    snapshot_nodes[i].len = static_cast<int32_t>(nodes.at(i)["len"].integer(0, kMaxInt32));
  }
  request.tree = attention::make_snapshot(snapshot_nodes, field["queries"].integers(), attention::kBenchPageSize);
  attention::pack_small_nodes(request.tree);
  const auto count = [&](const char* name) { return static_cast<int>(field[name].integer(1, 1 << 16)); };
  request.options.num_qo_heads = count("numQoHeads");
  request.options.num_kv_heads = count("numKvHeads");
  request.options.head_dim = count("headDim");
  request.options.num_layers = count("numLayers");
  request.options.num_rounds = count("numRounds");
  request.num_threads = static_cast<int>(field["numThreads"].integer(0, 1024));
  if (request.num_threads == 0) request.num_threads = std::clamp<int>(std::thread::hardware_concurrency(), 1, 16);
  const Field policies = field["policies"];
  for (uint32_t i = 0; i < policies.size(); ++i)
    request.options.policies.push_back(attention::parse_policy(policies.at(i).string()));
  if (!field["copyBytesPerS"].is_absent()) request.options.copy_bytes_per_s = field["copyBytesPerS"].number();
  const std::string device = field["device"].string();
  if (device != "cpu" && device != "cuda") field["device"].fail("\"cpu\" or \"cuda\"");
  request.on_cuda = device == "cuda";
  attention::bench_shape(request.options);
  return request;
}

attention::TreeBench run(const Request& request, const std::atomic<bool>& cancel) {
  if (request.on_cuda) {
    const CudaStatus status = query_cuda();
    if (status.devices.empty()) throw Error(ErrorCode::kDevice, "device \"cuda\" cannot be used: " + status.problem);
#if defined(DEFTREE_WITH_CUDA)
    return attention::run_attention_bench_cuda(request.tree, request.options, cancel);
#endif
  }
  ThreadPool pool(request.num_threads);
  return attention::run_attention_bench(request.tree, request.options, pool, cancel);
}

Napi::Object encode_row(Napi::Env env, const attention::TreeBenchRow& row) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("policy", std::string(attention::policy_name(row.policy)));
  object.Set("ms", row.ms);
  object.Set("floorMs", row.floor.plain);
  object.Set("floorStarMs", row.floor.star);
  object.Set("kvBytesRead", static_cast<double>(row.kv_bytes_read));
  object.Set("kvBytesUnshared", static_cast<double>(row.kv_bytes_unshared));
  object.Set("maskBytes", static_cast<double>(row.mask_bytes));
  object.Set("partialBytes", static_cast<double>(row.partial_bytes));
  object.Set("workItems", row.num_items);
  object.Set("launches", row.num_launches);
  object.Set("maxError", row.max_error);
  if (!std::isnan(row.type_error)) object.Set("typeError", row.type_error);
  return object;
}

Napi::Object encode_bench(Napi::Env env, const attention::TreeBench& bench) {
  Napi::Array rows = Napi::Array::New(env, bench.rows.size());
  for (size_t i = 0; i < bench.rows.size(); ++i) rows.Set(static_cast<uint32_t>(i), encode_row(env, bench.rows[i]));
  Napi::Object object = Napi::Object::New(env);
  object.Set("device", bench.device);
  object.Set("kvType", bench.kv_type);
  object.Set("copyBytesPerS", bench.limits.copy_bytes_per_s);
  object.Set("numQueries", bench.num_queries);
  object.Set("kvBytesUnique", static_cast<double>(bench.kv_bytes_unique));
  object.Set("rows", rows);
  return object;
}

// One benchmark: its thread, and the way back to JavaScript. The thread-safe function owns it; what else refers to it
// (the cancel function) does so weakly.
class BenchTask {
 public:
  static Napi::Object start(Napi::Env env, Request request) {
    auto task = std::make_shared<BenchTask>(env, std::move(request));
    const Napi::Promise promise = task->deferred_.Promise();
    const Napi::Function cancel = Napi::Function::New(env, [weak = std::weak_ptr(task)](const Napi::CallbackInfo&) {
      if (const auto running = weak.lock()) running->cancel_ = true;
    });
    task->function_ = Napi::TypedThreadSafeFunction<BenchTask, void, settle>::New(
        env, "deftree benchmark", 1, 1, task.get(), [owner = task](Napi::Env finalized, void*, BenchTask*) {
          owner->stop();
          napi_remove_env_cleanup_hook(finalized, environment_ends, owner.get());
        },
        static_cast<void*>(nullptr));
    // Added after the function's own hook, so it runs before that one: the thread is joined while the function lives.
    napi_add_env_cleanup_hook(env, environment_ends, task.get());
    task->process_ends_ = Napi::Persistent(Napi::Function::New(env, [weak = std::weak_ptr(task)](const Napi::CallbackInfo&) {
      if (const auto running = weak.lock()) running->stop();
    }));
    process(env, "once", task->process_ends_.Value());
    try {
      task->thread_ = std::thread([raw = task.get()] { raw->work(); });
    } catch (...) {
      task->function_.Release();
      throw;
    }
    Napi::Object handle = Napi::Object::New(env);
    handle.Set("result", promise);
    handle.Set("cancel", cancel);
    return handle;
  }

  BenchTask(Napi::Env env, Request request) : request_(std::move(request)), deferred_(env) {}

 private:
  // process.exit() ends the process with no environment cleanup on the main thread.
  static void process(Napi::Env env, const char* method, Napi::Function listener) {
    const Napi::Object process = env.Global().Get("process").As<Napi::Object>();
    process.Get(method).As<Napi::Function>().Call(process, {Napi::String::New(env, "exit"), listener});
  }

  static void environment_ends(void* task) { static_cast<BenchTask*>(task)->stop(); }

  void stop() noexcept {
    cancel_ = true;
    if (thread_.joinable()) thread_.join();
  }

  void work() {
    try {
      bench_ = run(request_, cancel_);
    } catch (const Error& error) {
      error_ = error;
    } catch (const std::bad_alloc&) {
      error_ = Error(ErrorCode::kOutOfMemory, "no memory for K and V of all layers; measure fewer layers or smaller trees");
    } catch (const std::exception& error) {
      error_ = Error(ErrorCode::kInternal, std::string("unexpected failure of the benchmark: ") + error.what());
    }
    function_.NonBlockingCall();
    function_.Release();
  }

  // On the JavaScript thread, when the benchmark has ended. A null env: the environment is being torn down.
  static void settle(Napi::Env env, Napi::Function, BenchTask* task, void*) {
    if (env == nullptr) return;
    task->stop();
    process(env, "removeListener", task->process_ends_.Value());
    if (task->error_) task->deferred_.Reject(to_js_error(env, *task->error_).Value());
    else task->deferred_.Resolve(encode_bench(env, task->bench_));
  }

  Request request_;
  std::atomic<bool> cancel_{false};
  std::thread thread_;
  attention::TreeBench bench_;
  std::optional<Error> error_;
  Napi::Promise::Deferred deferred_;
  Napi::FunctionReference process_ends_;
  Napi::TypedThreadSafeFunction<BenchTask, void, settle> function_;
};

}  // namespace

Napi::Value bench_attention(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return BenchTask::start(info.Env(), decode_request(Field(info[0], "request")));
  });
}

}  // namespace deftree::binding
