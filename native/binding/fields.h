// Checked reading of JavaScript arguments. A value of the wrong kind throws kBadArgument that names the field:
// "commands[2].maxTokens must be an integer from 0 to 2147483647, got a string".
#pragma once

#include <napi.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/error.h"

namespace deftree::binding {

// A value and how the caller would write it.
class Field {
 public:
  Field(Napi::Value value, std::string path) : value_(value), path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  Napi::Value value() const { return value_; }
  bool is_absent() const { return value_.IsUndefined() || value_.IsNull(); }

  // Member of an object, element of an array. Both throw when this is not one.
  Field operator[](const char* name) const;
  Field at(uint32_t index) const;
  uint32_t size() const;  // of an array

  bool boolean() const;
  double number() const;  // finite or infinite, never NaN
  int64_t integer(int64_t low, int64_t high) const;
  uint32_t id() const { return static_cast<uint32_t>(integer(0, UINT32_MAX)); }
  std::string string() const;
  std::vector<int32_t> int32_array() const;    // an Int32Array
  std::vector<uint32_t> uint32_array() const;  // a Uint32Array
  std::string bytes() const;                   // a Uint8Array
  std::vector<int32_t> integers() const;       // an array of int32 numbers

  [[noreturn]] void fail(const std::string& wanted) const;

 private:
  template <class T>
  std::vector<T> typed_array(napi_typedarray_type type, const char* name) const;

  Napi::Value value_;
  std::string path_;
};

}  // namespace deftree::binding
