// The one error type of the native code. It is thrown anywhere below the binding and turned into a JavaScript
// error in exactly one place (binding/). Nothing under native/ calls abort() or exit().
#pragma once

#include <exception>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

namespace deftree {

// The closed set of codes. JavaScript sees the text of error_code_name(); both are stable.
enum class ErrorCode {
  kBadArgument,   // E_BAD_ARGUMENT: a caller's value is out of range or of the wrong kind
  kBadModel,      // E_BAD_MODEL: a model file is missing, truncated, malformed or contradicts itself
  kKvFull,        // E_KV_FULL: no page is free and none can be evicted
  kContextFull,   // E_CONTEXT_FULL: a branch would grow past the model's context length
  kOutOfMemory,   // E_OOM: host or device memory is exhausted
  kAborted,       // E_ABORTED: the caller cancelled
  kDevice,        // E_DEVICE: the device is absent, unusable or failed
  kDisposed,      // E_DISPOSED: the engine or branch was disposed
  kInternal,      // E_INTERNAL: an invariant broke; a bug in deftree
};

const char* error_code_name(ErrorCode code) noexcept;

// A number that belongs to the error, by name: {"wanted_pages", 12}. JavaScript gets them as `error.figures`.
using ErrorFigures = std::vector<std::pair<std::string, double>>;

class Error : public std::exception {
 public:
  // `message` is one clear sentence with the figures and the way out, written for the user.
  Error(ErrorCode code, std::string message, ErrorFigures figures = {},
        std::source_location where = std::source_location::current());

  const char* what() const noexcept override { return message_.c_str(); }
  ErrorCode code() const noexcept { return code_; }
  const ErrorFigures& figures() const noexcept { return figures_; }
  const std::source_location& where() const noexcept { return where_; }

 private:
  ErrorCode code_;
  std::string message_;
  ErrorFigures figures_;
  std::source_location where_;
};

// Throws kInternal with the place when `condition` is false. For invariants, never for users' input.
void ensure(bool condition, const char* what, std::source_location where = std::source_location::current());

}  // namespace deftree
