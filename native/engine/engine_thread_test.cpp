#include "engine/engine_thread.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>

#include "engine/engine_driver.h"

namespace deftree {
namespace {

using test::expected_decode;
using test::FakeBackend;
using test::fake_options;
using test::some_tokens;

// Collects what the thread reports; wait() blocks until a condition on it holds.
class Collector : public EngineListener {
 public:
  void publish(std::unique_ptr<StepMessage> message) override {
    change([&] {
      for (const DecodedToken& token : message->tokens) tokens[token.request].push_back(token.token);
      for (FinishedRequest& result : message->finished) finished.emplace(result.request, std::move(result));
      num_checks += message->checks.size();
    });
  }
  void loaded(const Backend&) override { change([&] { is_loaded = true; }); }
  void load_failed(const Error& error) override { change([&] { load_error = error.code(); }); }
  void stopped() override { change([&] { is_stopped = true; }); }

  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(30), condition);
  }
  bool wait_for(RequestId request) {
    return wait([&] { return finished.contains(request); });
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::map<RequestId, std::vector<int32_t>> tokens;
  std::map<RequestId, FinishedRequest> finished;
  size_t num_checks = 0;
  bool is_loaded = false, is_stopped = false;
  std::optional<ErrorCode> load_error;

 private:
  template <class Change>
  void change(Change change) {
    {
      const std::lock_guard lock(mutex);
      change();
    }
    changed.notify_all();
  }
};

// A forward pass takes `step_time` and ends early when cancelled.
EngineThread::LoadBackend fake_loader(std::chrono::microseconds step_time = {}) {
  return [step_time](const std::atomic<bool>& cancel) {
    const EngineOptions options = fake_options();
    auto backend = std::make_unique<FakeBackend>(options.num_pages, options.page_size);
    backend->on_forward = [step_time, &cancel](const StepBatch&) {
      const auto end = std::chrono::steady_clock::now() + step_time;
      while (!cancel && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::microseconds(100));
    };
    return backend;
  };
}

std::vector<Command> one_decode(BranchKey branch, RequestId request, const std::vector<int32_t>& prompt, int32_t max_tokens) {
  return {CreateCommand{branch}, ExtendCommand{request, branch, prompt},
          DecodeCommand{request + 1, branch, max_tokens, {}, {}, {}}};
}

TEST(engine_thread_answers_commands_from_several_threads) {
  Collector collector;
  EngineThread thread(fake_options(), fake_loader(), collector);
  std::vector<std::thread> callers;
  for (uint32_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (uint32_t i = 0; i < 5; ++i) {
        const uint32_t id = 100 * caller + 2 * i;
        thread.submit(one_decode(id, id, some_tokens(5, id), 4));
        thread.stats();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (uint32_t caller = 0; caller < 4; ++caller) {
    for (uint32_t i = 0; i < 5; ++i) {
      const uint32_t id = 100 * caller + 2 * i;
      REQUIRE(collector.wait_for(id + 1));
      CHECK(collector.tokens[id + 1] == expected_decode(some_tokens(5, id), 4));
    }
  }
  CHECK_EQ(thread.stats().decoded_tokens, 80);
  thread.submit({CheckCommand{1}});
  CHECK(collector.wait([&] { return collector.num_checks == 1; }));
}

TEST(engine_thread_counts_a_token_before_it_publishes_it) {
  Collector collector;
  EngineThread thread(fake_options(), fake_loader(), collector);
  for (uint32_t i = 0; i < 50; ++i) {
    thread.submit(one_decode(i, 2 * i, some_tokens(3, i), 2));
    REQUIRE(collector.wait_for(2 * i + 1));
    CHECK_EQ(thread.stats().decoded_tokens, 2 * (i + 1));
  }
}

TEST(engine_thread_stop_ends_a_long_step_and_fails_what_is_open) {
  Collector collector;
  EngineThread thread(fake_options(), fake_loader(std::chrono::seconds(20)), collector);
  thread.submit(one_decode(1, 1, some_tokens(5, 1), 1000));
  CHECK(collector.wait([&] { return collector.is_loaded; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  thread.request_stop();
  CHECK(collector.wait([&] { return collector.is_stopped; }));
  for (RequestId request : {1, 2}) {
    REQUIRE(collector.finished.contains(request));
    CHECK(collector.finished.at(request).error->code() == ErrorCode::kDisposed);
  }
  CHECK_ERROR(thread.submit({CreateCommand{2}}), ErrorCode::kDisposed);
  thread.request_stop();
  thread.join();
  thread.join();
}

TEST(engine_thread_destroyed_in_mid_step_joins) {
  for (int i = 0; i < 20; ++i) {
    Collector collector;
    EngineThread thread(fake_options(), fake_loader(std::chrono::milliseconds(1)), collector);
    thread.submit(one_decode(1, 1, some_tokens(5, 1), 1000));
    std::this_thread::sleep_for(std::chrono::microseconds(300 * i));
  }
}

TEST(engine_thread_load_can_fail_and_can_be_cancelled) {
  Collector failing;
  EngineThread bad(fake_options(), [](const std::atomic<bool>&) -> std::unique_ptr<Backend> {
    throw Error(ErrorCode::kBadModel, "no such file");
  }, failing);
  CHECK(failing.wait([&] { return failing.is_stopped; }));
  CHECK(failing.load_error == ErrorCode::kBadModel);

  Collector cancelled;
  EngineThread slow(fake_options(), [](const std::atomic<bool>& cancel) -> std::unique_ptr<Backend> {
    while (!cancel) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    throw Error(ErrorCode::kAborted, "cancelled");
  }, cancelled);
  slow.request_stop();
  CHECK(cancelled.wait([&] { return cancelled.is_stopped; }));
  CHECK(cancelled.load_error == ErrorCode::kAborted);
}

TEST(engine_thread_malformed_commands_leave_the_queue_alone) {
  Collector collector;
  EngineThread thread(fake_options(), fake_loader(), collector);
  CHECK_ERROR(thread.submit({CreateCommand{1}, ExtendCommand{1, 1, {-4}}}), ErrorCode::kBadArgument);
  thread.submit({LogitsCommand{2, 1}});
  REQUIRE(collector.wait_for(2));
  CHECK(collector.finished.at(2).error->code() == ErrorCode::kDisposed);  // branch 1 was not created
}

}  // namespace
}  // namespace deftree
