#include "binding/fields.h"

#include <cmath>
#include <limits>

namespace deftree::binding {
namespace {

std::string describe(const Napi::Value& value) {
  switch (value.Type()) {
    case napi_undefined: return "undefined";
    case napi_null: return "null";
    case napi_boolean: return "a boolean";
    case napi_number: {
      std::string text = std::to_string(value.As<Napi::Number>().DoubleValue());
      if (text.find('.') != std::string::npos) text.erase(text.find_last_not_of('0') + 1);
      if (text.ends_with('.')) text.pop_back();
      return text;
    }
    case napi_string: return "a string";
    case napi_function: return "a function";
    default: return value.IsArray() ? "an array" : value.IsTypedArray() ? "another typed array" : "an object";
  }
}

}  // namespace

void Field::fail(const std::string& wanted) const {
  throw Error(ErrorCode::kBadArgument, path_ + " must be " + wanted + ", got " + describe(value_));
}

Field Field::operator[](const char* name) const {
  if (!value_.IsObject()) fail("an object");
  return Field(value_.As<Napi::Object>().Get(name), path_.empty() ? name : path_ + "." + name);
}

Field Field::at(uint32_t index) const {
  if (!value_.IsArray()) fail("an array");
  return Field(value_.As<Napi::Array>().Get(index), path_ + "[" + std::to_string(index) + "]");
}

uint32_t Field::size() const {
  if (!value_.IsArray()) fail("an array");
  return value_.As<Napi::Array>().Length();
}

bool Field::boolean() const {
  if (!value_.IsBoolean()) fail("a boolean");
  return value_.As<Napi::Boolean>().Value();
}

double Field::number() const {
  if (!value_.IsNumber()) fail("a number");
  const double number = value_.As<Napi::Number>().DoubleValue();
  if (std::isnan(number)) fail("a number");
  return number;
}

int64_t Field::integer(int64_t low, int64_t high) const {
  const double number = value_.IsNumber() ? value_.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high)) || std::trunc(number) != number) {
    fail("an integer from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return static_cast<int64_t>(number);
}

std::string Field::string() const {
  if (!value_.IsString()) fail("a string");
  return value_.As<Napi::String>().Utf8Value();
}

template <class T>
std::vector<T> Field::typed_array(napi_typedarray_type type, const char* name) const {
  if (!value_.IsTypedArray() || value_.As<Napi::TypedArray>().TypedArrayType() != type) fail(name);
  const auto array = value_.As<Napi::TypedArrayOf<T>>();
  if (array.ElementLength() == 0) return {};  // also a detached one
  return std::vector<T>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<int32_t> Field::int32_array() const { return typed_array<int32_t>(napi_int32_array, "an Int32Array"); }

std::vector<uint32_t> Field::uint32_array() const { return typed_array<uint32_t>(napi_uint32_array, "a Uint32Array"); }

std::string Field::bytes() const {
  if (!value_.IsTypedArray() || value_.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) fail("a Uint8Array");
  const auto array = value_.As<Napi::Uint8Array>();
  if (array.ElementLength() == 0) return {};
  return std::string(reinterpret_cast<const char*>(array.Data()), array.ElementLength());
}

std::vector<int32_t> Field::integers() const {
  constexpr int64_t kLow = std::numeric_limits<int32_t>::min(), kHigh = std::numeric_limits<int32_t>::max();
  std::vector<int32_t> result(size());
  for (uint32_t i = 0; i < result.size(); ++i) result[i] = static_cast<int32_t>(at(i).integer(kLow, kHigh));
  return result;
}

}  // namespace deftree::binding
