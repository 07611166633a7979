// One engine of one JavaScript environment: its thread, the way back to JavaScript, and what is open.
//
// Everything here is called on the environment's own thread, but for the EngineListener methods, which the engine's
// thread calls. Lifetime: shared by the JavaScript object (NativeEngine) and the thread-safe function; whichever dies
// first, the engine's thread is joined before the other may be used up.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "binding/decode.h"
#include "constraint/token_trie.h"
#include "engine/engine_thread.h"

namespace deftree::binding {

class NativeEngine;
class EngineHost;

// Per environment (main thread or worker); never shared between them.
struct AddonData {
  Napi::FunctionReference engine_class, constraint_class;
  std::unordered_set<EngineHost*> hosts;  // engines whose thread may be running
};

class EngineHost final : public EngineListener, public std::enable_shared_from_this<EngineHost> {
 public:
  // Starts loading. `object` is the JavaScript object of the engine; the promise resolves with it.
  // `signal` may be empty.
  static Napi::Promise load(Napi::Env env, LoadArguments arguments, Napi::Object object, Napi::Object on_step,
                            Napi::Object signal);
  ~EngineHost() override;

  Napi::Object info(Napi::Env env) const;
  EngineStats stats() const;
  void submit(std::vector<Command> commands);
  // Made at the first call: for 128,000 tokens it takes some hundredths of a second.
  std::shared_ptr<const constraint::TokenTrie> vocabulary();
  Napi::Promise check_invariants(Napi::Env env);
  Napi::Promise dispose(Napi::Env env);
  // Stops and joins the engine's thread without another word to JavaScript. For the end of the environment, of the
  // process, or of the JavaScript object. Safe to call twice.
  void shut_down() noexcept;
  // The JavaScript object was collected.
  void object_gone() noexcept;

 private:
  struct Loaded {
    BackendInfo info;
    int num_threads;
  };
  struct Stopped {};
  struct Published {
    std::unique_ptr<StepMessage> message;
    double time_ms;  // when the step ended, whenever JavaScript gets to see it; of the steady clock
  };
  using Event = std::variant<Published, Loaded, Error, Stopped>;

  EngineHost(Napi::Env env, NativeEngine* object);
  void start(LoadArguments arguments);
  // Ends the load when `signal` (an AbortSignal) fires.
  void watch(Napi::Env env, Napi::Object signal);
  void unwatch(Napi::Env env);

  // EngineListener, on the engine's thread.
  void publish(std::unique_ptr<StepMessage> message) override;
  void loaded(const Backend& backend) override;
  void load_failed(const Error& error) override { post(error); }
  void stopped() override { post(Stopped{}); }
  void post(Event event) noexcept;

  static void call_js(napi_env env, napi_value callback, void* context, void* data);
  static void finalize_function(napi_env env, void* data, void* context);
  static void environment_ends(void* host);

  void receive(Napi::Env env, Event& event);
  void receive_loaded(Napi::Env env, const Loaded& loaded);
  void fail_load(Napi::Env env, const Error& error);
  void receive_message(Napi::Env env, const StepMessage& message, double time_ms);
  void receive_stopped(Napi::Env env);
  // Open operations keep the process and the JavaScript object alive; without any, both may go.
  void hold(size_t num_operations);
  void release(size_t num_operations);
  void ensure_running() const;

  Napi::Env env_;
  NativeEngine* object_;  // null when collected
  napi_threadsafe_function function_ = nullptr;
  std::unique_ptr<EngineThread> thread_;
  size_t num_open_ = 0;
  bool disposed_ = false;  // by the user; the thread may still be stopping
  bool stopped_ = false;
  std::unique_ptr<Napi::Promise::Deferred> loading_;
  bool load_cancelled_ = false;
  Napi::ObjectReference signal_;         // while loading
  Napi::FunctionReference on_abort_;
  std::unordered_map<uint32_t, Napi::Promise::Deferred> checks_;
  std::vector<Napi::Promise::Deferred> disposals_;
  uint32_t next_ticket_ = 0;

  BackendInfo info_;
  BackendOptions options_;
  std::string token_bytes_;  // until vocabulary_ has them
  std::vector<uint32_t> token_offsets_;
  std::shared_ptr<const constraint::TokenTrie> vocabulary_;
};

// The JavaScript object behind the NativeEngine interface.
class NativeEngine final : public Napi::ObjectWrap<NativeEngine> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit NativeEngine(const Napi::CallbackInfo& info);
  ~NativeEngine() override;
  void attach(std::shared_ptr<EngineHost> host) { host_ = std::move(host); }

 private:
  Napi::Value info(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value submit(const Napi::CallbackInfo& info);
  Napi::Value compile_constraint(const Napi::CallbackInfo& info);
  Napi::Value check_invariants(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  EngineHost& host() const;

  std::shared_ptr<EngineHost> host_;
};

}  // namespace deftree::binding
