#include "binding/engine_host.h"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "binding/constraint.h"
#include "binding/encode.h"
#include "binding/errors.h"
#include "engine/draft_medusa.h"
#include "engine/draft_model.h"

namespace deftree::binding {
namespace {

// Where the object keeps its callback: a property, so that a callback that refers to the engine is no root and the two
// can be collected together.
constexpr const char* kOnStep = "onStep";

Error disposed_error() { return Error(ErrorCode::kDisposed, "the engine was disposed"); }

size_t num_requests(const std::vector<Command>& commands) {
  return static_cast<size_t>(std::ranges::count_if(commands, [](const Command& command) {
    return std::visit([](const auto& c) { return requires { c.request; } && requires { c.branch; }; }, command);
  }));
}

}  // namespace

EngineHost::EngineHost(Napi::Env env, NativeEngine* object) : env_(env), object_(object) {}

EngineHost::~EngineHost() { shut_down(); }

Napi::Promise EngineHost::load(Napi::Env env, LoadArguments arguments, Napi::Object object, Napi::Object on_step,
                               Napi::Object signal) {
  object.DefineProperty(Napi::PropertyDescriptor::Value(kOnStep, on_step, napi_default));
  NativeEngine* engine = NativeEngine::Unwrap(object);
  const std::shared_ptr<EngineHost> host(new EngineHost(env, engine));

  auto context = std::make_unique<std::shared_ptr<EngineHost>>(host);
  const napi_status status = napi_create_threadsafe_function(
      env, nullptr, nullptr, Napi::String::New(env, "deftree engine"), 0, 1, nullptr, finalize_function, context.get(),
      call_js, &host->function_);
  if (status != napi_ok) throw Error(ErrorCode::kInternal, "Node refused a thread-safe function");
  context.release();
  // Added after the function's own hook, so it runs before that one: the thread is joined while the function lives.
  napi_add_env_cleanup_hook(env, environment_ends, host.get());
  env.GetInstanceData<AddonData>()->hosts.insert(host.get());

  engine->attach(host);
  host->loading_ = std::make_unique<Napi::Promise::Deferred>(env);
  const Napi::Promise promise = host->loading_->Promise();
  engine->Ref();
  host->num_open_ = 1;  // the load; the function is born referenced
  try {
    if (!signal.IsEmpty()) host->watch(env, signal);
    host->start(std::move(arguments));
  } catch (...) {
    host->shut_down();
    engine->Unref();
    throw;
  }
  return promise;
}

void EngineHost::start(LoadArguments arguments) {
  options_ = arguments.backend;
  token_bytes_ = arguments.engine.token_bytes;
  token_offsets_ = arguments.engine.token_offsets;
  const auto make_backend = arguments.device == "cuda" ? make_cuda_backend : make_cpu_backend;
  auto load_backend = [make_backend, model = std::move(arguments.model),
                       backend = arguments.backend](const std::atomic<bool>& cancel) {
    return make_backend(model, backend, cancel);
  };
  auto load_sources = [make_backend, draft = std::move(arguments.draft), medusa = std::move(arguments.medusa),
                       num_threads = arguments.backend.num_threads](const std::atomic<bool>& cancel) {
    std::vector<std::unique_ptr<DraftSource>> sources;
    if (draft) {
      sources.push_back(std::make_unique<DraftModelSource>(draft->options(), make_backend(draft->model, draft->backend, cancel), cancel));
    }
    if (medusa) sources.push_back(std::make_unique<MedusaSource>(*medusa, num_threads));
    return sources;
  };
  try {
    thread_ = std::make_unique<EngineThread>(std::move(arguments.engine), std::move(load_backend), *this,
                                             std::move(load_sources));
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::kOutOfMemory, std::string("no thread for the engine: ") + error.what());
  }
}

Napi::Object EngineHost::info(Napi::Env env) const { return encode_info(env, info_, options_); }

void EngineHost::ensure_running() const {
  if (disposed_ || stopped_) throw disposed_error();
}

EngineStats EngineHost::stats() const {
  ensure_running();
  return thread_->stats();
}

void EngineHost::submit(std::vector<Command> commands) {
  ensure_running();
  const size_t num_new = num_requests(commands);
  thread_->submit(std::move(commands));
  hold(num_new);
}

std::shared_ptr<const constraint::TokenTrie> EngineHost::vocabulary() {
  ensure_running();
  if (!vocabulary_) {
    vocabulary_ = std::make_shared<const constraint::TokenTrie>(std::exchange(token_bytes_, {}),
                                                                std::exchange(token_offsets_, {}));
  }
  return vocabulary_;
}

Napi::Promise EngineHost::check_invariants(Napi::Env env) {
  Napi::Promise::Deferred deferred(env);
  try {
    ensure_running();
    const uint32_t ticket = next_ticket_++;
    thread_->submit({CheckCommand{ticket}});
    checks_.emplace(ticket, deferred);
    hold(1);
  } catch (const Error& error) {
    deferred.Reject(to_js_error(env, error).Value());
  }
  return deferred.Promise();
}

Napi::Promise EngineHost::dispose(Napi::Env env) {
  Napi::Promise::Deferred deferred(env);
  disposed_ = true;
  if (stopped_) {
    deferred.Resolve(env.Undefined());
  } else {
    disposals_.push_back(deferred);
    hold(1);
    thread_->request_stop();
  }
  return deferred.Promise();
}

void EngineHost::watch(Napi::Env env, Napi::Object signal) {
  const auto cancel = [this](const Napi::CallbackInfo&) {  // unwatch() takes it away before this host can end
    load_cancelled_ = true;
    if (thread_) thread_->request_stop();
  };
  const Napi::Function on_abort = Napi::Function::New(env, cancel);
  signal.Get("addEventListener").As<Napi::Function>().Call(signal, {Napi::String::New(env, "abort"), on_abort});
  signal_ = Napi::Persistent(signal);
  on_abort_ = Napi::Persistent(on_abort);
}

void EngineHost::unwatch(Napi::Env env) {
  if (signal_.IsEmpty()) return;
  const Napi::Object signal = signal_.Value();
  const Napi::Function on_abort = on_abort_.Value();
  signal_.Reset();
  on_abort_.Reset();
  signal.Get("removeEventListener").As<Napi::Function>().Call(signal, {Napi::String::New(env, "abort"), on_abort});
}

void EngineHost::shut_down() noexcept {
  if (stopped_) return;
  stopped_ = true;
  thread_.reset();  // stops and joins; events it posted before are freed by call_js
  napi_remove_env_cleanup_hook(env_, environment_ends, this);
  if (AddonData* data = env_.GetInstanceData<AddonData>()) data->hosts.erase(this);
  napi_release_threadsafe_function(std::exchange(function_, nullptr), napi_tsfn_abort);
}

void EngineHost::object_gone() noexcept {
  object_ = nullptr;
  shut_down();
}

void EngineHost::environment_ends(void* host) { static_cast<EngineHost*>(host)->shut_down(); }

void EngineHost::finalize_function(napi_env, void*, void* context) {
  delete static_cast<std::shared_ptr<EngineHost>*>(context);
}

void EngineHost::loaded(const Backend& backend) {
  const bool is_cpu = backend.info().device == "cpu";
  post(Loaded{backend.info(), is_cpu ? backend.plan_device().num_processors : 0});
}

void EngineHost::post(Event event) noexcept {
  auto data = std::make_unique<Event>(std::move(event));
  if (napi_call_threadsafe_function(function_, data.get(), napi_tsfn_nonblocking) == napi_ok) data.release();
}

void EngineHost::call_js(napi_env env, napi_value, void* context, void* data) {
  const std::unique_ptr<Event> event(static_cast<Event*>(data));
  if (env == nullptr) return;  // the environment ends; `context` is gone already
  const std::shared_ptr<EngineHost> host = *static_cast<std::shared_ptr<EngineHost>*>(context);
  if (host->object_ == nullptr || host->stopped_) return;
  try {
    host->receive(env, *event);
  } catch (const Napi::Error& error) {
    napi_fatal_exception(env, error.Value());  // of the callback: "uncaughtException", as in any event handler
  }
}

void EngineHost::publish(std::unique_ptr<StepMessage> message) {
  const std::chrono::duration<double, std::milli> now = std::chrono::steady_clock::now().time_since_epoch();
  post(Published{std::move(message), now.count()});
}

void EngineHost::receive(Napi::Env env, Event& event) {
  if (const auto* published = std::get_if<Published>(&event)) {
    return receive_message(env, *published->message, published->time_ms);
  }
  if (const auto* loaded = std::get_if<Loaded>(&event)) return receive_loaded(env, *loaded);
  if (const auto* error = std::get_if<Error>(&event)) return fail_load(env, *error);
  receive_stopped(env);
}

void EngineHost::receive_loaded(Napi::Env env, const Loaded& loaded) {
  if (load_cancelled_) return fail_load(env, Error(ErrorCode::kAborted, "loading was aborted"));
  info_ = loaded.info;
  options_.num_threads = loaded.num_threads;
  unwatch(env);
  std::exchange(loading_, nullptr)->Resolve(object_->Value());
  release(1);
}

void EngineHost::fail_load(Napi::Env env, const Error& error) {
  unwatch(env);
  std::exchange(loading_, nullptr)->Reject(to_js_error(env, error).Value());
  release(1);
}

void EngineHost::receive_message(Napi::Env env, const StepMessage& message, double time_ms) {
  for (const CheckResult& check : message.checks) {
    const auto node = checks_.extract(check.ticket);
    if (check.broken) node.mapped().Reject(to_js_error(env, *check.broken).Value());
    if (!check.broken) node.mapped().Resolve(env.Undefined());
  }
  const Napi::Object object = object_->Value();
  release(message.checks.size() + message.finished.size());
  const bool is_for_callback = !message.tokens.empty() || !message.finished.empty() || !message.draft_requests.empty();
  if (!is_for_callback && !message.fatal) return;
  object.Get(kOnStep).As<Napi::Function>().Call(object, {encode_message(env, message, time_ms)});
}

void EngineHost::receive_stopped(Napi::Env env) {
  [[maybe_unused]] const Napi::Object alive = object_->Value();  // release() must not let it go under our feet
  for (auto& [ticket, deferred] : checks_) deferred.Reject(to_js_error(env, disposed_error()).Value());
  for (const Napi::Promise::Deferred& deferred : disposals_) deferred.Resolve(env.Undefined());
  const size_t num_left = checks_.size() + disposals_.size();
  checks_.clear();
  disposals_.clear();
  release(num_left);
  shut_down();
}

void EngineHost::hold(size_t num_operations) {
  if (num_open_ == 0 && num_operations > 0) {
    object_->Ref();
    napi_ref_threadsafe_function(env_, function_);
  }
  num_open_ += num_operations;
}

void EngineHost::release(size_t num_operations) {
  num_open_ -= num_operations;
  if (num_open_ == 0 && num_operations > 0) {
    napi_unref_threadsafe_function(env_, function_);
    object_->Unref();
  }
}

Napi::Function NativeEngine::define(Napi::Env env) {
  return DefineClass(env, "NativeEngine",
                     {InstanceMethod<&NativeEngine::info>("info"), InstanceMethod<&NativeEngine::stats>("stats"),
                      InstanceMethod<&NativeEngine::submit>("submit"),
                      InstanceMethod<&NativeEngine::compile_constraint>("compileConstraint"),
                      InstanceMethod<&NativeEngine::check_invariants>("checkInvariants"),
                      InstanceMethod<&NativeEngine::dispose>("dispose")});
}

NativeEngine::NativeEngine(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeEngine>(info) {}

NativeEngine::~NativeEngine() {
  if (host_) host_->object_gone();
}

EngineHost& NativeEngine::host() const {
  if (!host_) throw Error(ErrorCode::kBadArgument, "an engine comes from load(), not from its constructor");
  return *host_;
}

Napi::Value NativeEngine::info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return host().info(info.Env()); });
}

Napi::Value NativeEngine::stats(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return encode_stats(info.Env(), host().stats()); });
}

Napi::Value NativeEngine::submit(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    host().submit(decode_commands(Field(info[0], "commands")));
    return info.Env().Undefined();
  });
}

Napi::Value NativeEngine::compile_constraint(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return NativeConstraint::make(info.Env(), Field(info[0], "grammar"), host().vocabulary());
  });
}

Napi::Value NativeEngine::check_invariants(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return host().check_invariants(info.Env()); });
}

Napi::Value NativeEngine::dispose(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return host().dispose(info.Env()); });
}

}  // namespace deftree::binding
