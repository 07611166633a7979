#include "engine/engine_thread.h"

#include <chrono>
#include <new>
#include <string>
#include <utility>

namespace deftree {
namespace {

// After a request failed for want of pages, its owner gets this long to free some before the next one fails.
constexpr std::chrono::milliseconds kStarvedWait{20};

Error disposed() { return Error(ErrorCode::kDisposed, "the engine was disposed"); }

}  // namespace

EngineThread::EngineThread(EngineOptions options, LoadBackend load, EngineListener& listener, LoadSources load_sources)
    : vocab_size_(options.vocab_size), context_len_(options.context_len), listener_(listener) {
  thread_ = std::thread([this, options = std::move(options), load = std::move(load),
                         load_sources = std::move(load_sources)]() mutable {
    run(std::move(options), std::move(load), std::move(load_sources));
    listener_.stopped();
  });
}

EngineThread::~EngineThread() {
  request_stop();
  join();
}

void EngineThread::submit(std::vector<Command> commands) {
  for (const Command& command : commands) validate(command, vocab_size_, context_len_);
  {
    const std::lock_guard lock(mutex_);
    if (stop_) throw disposed();
    if (queue_.empty()) {
      queue_ = std::move(commands);
    } else {
      queue_.insert(queue_.end(), std::make_move_iterator(commands.begin()), std::make_move_iterator(commands.end()));
    }
  }
  wake_.notify_one();
}

EngineStats EngineThread::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void EngineThread::request_stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  cancel_ = true;
  wake_.notify_one();
}

void EngineThread::join() {
  if (thread_.joinable()) thread_.join();
}

void EngineThread::run(EngineOptions options, LoadBackend load, LoadSources load_sources) {
  std::unique_ptr<Engine> engine;
  try {
    std::unique_ptr<Backend> backend = load(cancel_);
    load = nullptr;
    std::vector<std::unique_ptr<DraftSource>> sources;
    if (load_sources) sources = load_sources(cancel_);
    load_sources = nullptr;
    engine = std::make_unique<Engine>(std::move(options), std::move(backend), cancel_);
    for (std::unique_ptr<DraftSource>& source : sources) engine->speculator().add_source(std::move(source));
    const EngineStats stats = engine->stats();
    const std::lock_guard lock(mutex_);
    stats_ = stats;
  } catch (const Error& error) {
    return listener_.load_failed(error);
  } catch (const std::bad_alloc&) {
    return listener_.load_failed(Error(ErrorCode::kOutOfMemory, "no memory to load the model"));
  } catch (const std::exception& error) {
    return listener_.load_failed(Error(ErrorCode::kInternal, std::string("loading failed: ") + error.what()));
  }
  listener_.loaded(engine->backend());
  serve(*engine);
}

void EngineThread::serve(Engine& engine) {
  std::vector<Command> commands;
  auto message = std::make_unique<StepMessage>();
  const auto publish = [&] {
    const EngineStats stats = engine.stats();
    {
      // Before the message goes out: whoever reads the figures after an answer finds it counted.
      const std::lock_guard lock(mutex_);
      stats_ = stats;
    }
    if (!message->empty()) listener_.publish(std::exchange(message, std::make_unique<StepMessage>()));
  };
  StepOutcome outcome = StepOutcome::kIdle;
  for (;;) {
    commands.clear();
    {
      std::unique_lock lock(mutex_);
      const auto woken = [this] { return stop_ || !queue_.empty(); };
      if (outcome == StepOutcome::kIdle) wake_.wait(lock, woken);
      if (outcome == StepOutcome::kStarved) wake_.wait_for(lock, kStarvedWait, woken);
      std::swap(commands, queue_);
      if (stop_) break;
    }
    outcome = engine.step(commands, *message);
    publish();
  }
  engine.shut_down(commands, disposed(), *message);
  publish();
}

}  // namespace deftree
