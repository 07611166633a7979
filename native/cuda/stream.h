// Owners of streams, events and graphs.
#pragma once

#include <functional>
#include <utility>

#include "cuda/check.h"

namespace deftree::cuda {

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cannot create a CUDA stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  // Waits for all work of the stream and reports its errors.
  void synchronize() const { check(cudaStreamSynchronize(stream_), "work on the GPU failed"); }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cannot create a CUDA event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  cudaEvent_t get() const { return event_; }
  void record(const Stream& stream) { check(cudaEventRecord(event_, stream.get()), "cannot record a CUDA event"); }
  // As record(), and in a stream that is being captured: a node that records the event at each launch of the graph.
  void record_in_graph(const Stream& stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream.get(), &status), "cannot ask whether a stream is captured");
    const unsigned flags = status == cudaStreamCaptureStatusActive ? cudaEventRecordExternal : cudaEventRecordDefault;
    check(cudaEventRecordWithFlags(event_, stream.get(), flags), "cannot record a CUDA event");
  }
  // Waits until the event has happened; at once when it was never recorded.
  void synchronize() const { check(cudaEventSynchronize(event_), "work on the GPU failed"); }
  // Milliseconds from `begin` to this event, both of which have happened.
  float ms_since(const Event& begin) const {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin.event_, event_), "cannot read CUDA events");
    return ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// The launches that `body` makes on `stream`, recorded once and replayed with one call.
class Graph {
 public:
  Graph(const Stream& stream, const std::function<void()>& body) {
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "cannot begin a CUDA graph");
    try {
      body();
    } catch (...) {
      cudaGraph_t broken = nullptr;
      cudaStreamEndCapture(stream.get(), &broken);
      if (broken != nullptr) cudaGraphDestroy(broken);
      throw;
    }
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream.get(), &graph), "cannot record a CUDA graph");
    const cudaError_t status = cudaGraphInstantiate(&exec_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cannot instantiate a CUDA graph");
  }
  ~Graph() { cudaGraphExecDestroy(exec_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch(const Stream& stream) const { check(cudaGraphLaunch(exec_, stream.get()), "cannot launch a CUDA graph"); }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace deftree::cuda
