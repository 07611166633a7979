// The native tests' harness: TEST(name) { CHECK(...); }. See docs/decisions/0003-native-test-harness.md for why no
// library is used. A failed CHECK is reported and the test goes on; REQUIRE ends the test.
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace deftree::test {

struct Case {
  const char* name;
  void (*body)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Register {
  Register(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

struct Stop {};  // thrown by REQUIRE

inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::printf("    %s:%d: %s\n", file, line, what.c_str());
}

template <class A, class B>
void check_equal(const A& a, const B& b, const char* text_a, const char* text_b, const char* file, int line) {
  if (a == b) return;
  std::ostringstream out;
  out << text_a << " == " << text_b << " failed: " << a << " vs " << b;
  fail(file, line, out.str());
}

inline void check_near(double a, double b, double tolerance, const char* text, const char* file, int line) {
  if (std::abs(a - b) <= tolerance) return;  // false for NaN, so NaN fails
  std::ostringstream out;
  out.precision(9);
  out << text << ": " << a << " vs " << b << ", more than " << tolerance << " apart";
  fail(file, line, out.str());
}

// Runs the cases whose name contains argv[1] (all without it); prints a line each and, last, "N passed, N failed".
inline int run_all(int argc, char** argv) {
  int passed = 0, failed = 0;
  for (const Case& c : cases()) {
    if (argc > 1 && std::string(c.name).find(argv[1]) == std::string::npos) continue;
    const int before = failures();
    try {
      c.body();
    } catch (const Stop&) {
    } catch (const std::exception& error) {
      fail(c.name, 0, std::string("threw: ") + error.what());
    }
    const bool ok = failures() == before;
    ok ? ++passed : ++failed;
    std::printf("%s %s\n", ok ? "ok  " : "FAIL", c.name);
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace deftree::test

#define TEST(name)                                                                  \
  static void test_##name();                                                        \
  static const ::deftree::test::Register register_##name(#name, &test_##name);      \
  static void test_##name()

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) ::deftree::test::fail(__FILE__, __LINE__, #condition);        \
  } while (0)

#define REQUIRE(condition)                                                          \
  do {                                                                              \
    if (!(condition)) {                                                             \
      ::deftree::test::fail(__FILE__, __LINE__, #condition);                        \
      throw ::deftree::test::Stop{};                                                \
    }                                                                               \
  } while (0)

#define CHECK_EQ(a, b) ::deftree::test::check_equal((a), (b), #a, #b, __FILE__, __LINE__)
#define CHECK_NEAR(a, b, tolerance) \
  ::deftree::test::check_near((a), (b), (tolerance), #a " ~ " #b, __FILE__, __LINE__)

// Passes when `statement` throws deftree::Error with this code.
#define CHECK_ERROR(statement, expected_code)                                                        \
  do {                                                                                               \
    bool thrown = false;                                                                             \
    try {                                                                                            \
      statement;                                                                                     \
    } catch (const ::deftree::Error& error) {                                                        \
      thrown = true;                                                                                 \
      if (error.code() != (expected_code))                                                           \
        ::deftree::test::fail(__FILE__, __LINE__, std::string("wrong code: ") + error.what());       \
    }                                                                                                \
    if (!thrown) ::deftree::test::fail(__FILE__, __LINE__, "did not throw: " #statement);            \
  } while (0)
