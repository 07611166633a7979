// The engine's own thread: loads the model, then steps while there is work and sleeps while there is none. See
// docs/decisions/0002-engine-thread.md.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/engine.h"

namespace deftree {

// What the thread reports, on the thread itself; must not throw.
class EngineListener {
 public:
  virtual ~EngineListener() = default;
  virtual void publish(std::unique_ptr<StepMessage> message) = 0;
  virtual void loaded(const Backend& backend) = 0;
  virtual void load_failed(const Error& error) = 0;
  // The last call: everything of the engine is freed.
  virtual void stopped() = 0;
};

class EngineThread {
 public:
  using LoadBackend = std::function<std::unique_ptr<Backend>(const std::atomic<bool>& cancel)>;
  using LoadSources = std::function<std::vector<std::unique_ptr<DraftSource>>(const std::atomic<bool>& cancel)>;

  // [async] Starts the thread, which calls `load`, then `load_sources` for further draft sources. `listener` must outlive
  // this.
  EngineThread(EngineOptions options, LoadBackend load, EngineListener& listener, LoadSources load_sources = {});
  // Stops within one layer of a forward pass and joins.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  // [sync] Queues the commands, all or none. Throws kBadArgument for a malformed one, kDisposed after request_stop().
  void submit(std::vector<Command> commands);
  // [sync] As of the last step.
  EngineStats stats() const;
  // [sync] Ends loading or stepping soon; open requests fail with kDisposed.
  void request_stop();
  void join();

 private:
  void run(EngineOptions options, LoadBackend load, LoadSources load_sources);
  void serve(Engine& engine);

  const int32_t vocab_size_, context_len_;
  EngineListener& listener_;
  std::atomic<bool> cancel_{false};
  mutable std::mutex mutex_;  // guards queue_, stop_ and stats_
  std::condition_variable wake_;
  std::vector<Command> queue_;
  bool stop_ = false;
  EngineStats stats_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace deftree
