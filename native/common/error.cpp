#include "common/error.h"

namespace deftree {

const char* error_code_name(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kBadArgument: return "E_BAD_ARGUMENT";
    case ErrorCode::kBadModel: return "E_BAD_MODEL";
    case ErrorCode::kKvFull: return "E_KV_FULL";
    case ErrorCode::kContextFull: return "E_CONTEXT_FULL";
    case ErrorCode::kOutOfMemory: return "E_OOM";
    case ErrorCode::kAborted: return "E_ABORTED";
    case ErrorCode::kDevice: return "E_DEVICE";
    case ErrorCode::kDisposed: return "E_DISPOSED";
    case ErrorCode::kInternal: return "E_INTERNAL";
  }
  return "E_INTERNAL";
}

Error::Error(ErrorCode code, std::string message, ErrorFigures figures, std::source_location where)
    : code_(code), message_(std::move(message)), figures_(std::move(figures)), where_(where) {}

void ensure(bool condition, const char* what, std::source_location where) {
  if (condition) return;
  throw Error(ErrorCode::kInternal,
              std::string("internal invariant broken: ") + what + " (" + where.file_name() + ":" +
                  std::to_string(where.line()) + "); please report this",
              {}, where);
}

}  // namespace deftree
