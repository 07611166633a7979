// The compute threads of one engine. One parallel region runs at a time; the calling thread takes part.
//
// Waiting threads spin for a few microseconds, then sleep on a futex: on a machine that gives two virtual cores the
// time of one, a pure spin barrier costs a whole scheduler slice (4-8 ms) each time a thread is descheduled.
#pragma once

#include <memory>

#include "common/function_ref.h"

namespace deftree {

class ThreadPool {
 public:
  // `num_threads` >= 1 counts the caller: num_threads - 1 threads are started.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const noexcept;

  // Calls body(task, thread) once for each task in [0, num_tasks), tasks handed out in order to whichever thread is
  // free; returns when all are done. thread is in [0, num_threads()). `body` must not throw.
  void run(int num_tasks, FunctionRef<void(int task, int thread)> body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace deftree
