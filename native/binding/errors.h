// The one place where a deftree::Error becomes a JavaScript error.
#pragma once

#include <napi.h>

#include <new>
#include <string>
#include <utility>

#include "common/error.h"

namespace deftree::binding {

// {code, message, figures}
inline Napi::Object to_error_info(Napi::Env env, const Error& error) {
  Napi::Object figures = Napi::Object::New(env);
  for (const auto& [name, value] : error.figures()) figures.Set(name, value);
  Napi::Object info = Napi::Object::New(env);
  info.Set("code", error_code_name(error.code()));
  info.Set("message", error.what());
  info.Set("figures", figures);
  return info;
}

// An Error with `code` and `figures`.
inline Napi::Error to_js_error(Napi::Env env, const Error& error) {
  Napi::Error js_error = Napi::Error::New(env, error.what());
  const Napi::Object info = to_error_info(env, error);
  js_error.Set("code", info.Get("code"));
  js_error.Set("figures", info.Get("figures"));
  return js_error;
}

// Runs `body` and turns what C++ throws into a JavaScript exception.
template <class Body>
auto guarded(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const Error& error) {
    throw to_js_error(env, error);
  } catch (const std::bad_alloc&) {
    throw to_js_error(env, Error(ErrorCode::kOutOfMemory, "out of memory"));
  } catch (const std::exception& error) {
    throw to_js_error(env, Error(ErrorCode::kInternal, std::string("unexpected failure: ") + error.what()));
  }
}

}  // namespace deftree::binding
