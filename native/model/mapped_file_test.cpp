#include "model/mapped_file.h"

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <utility>

#include "common/error.h"
#include "common/test.h"

using namespace deftree;

namespace {

// A file of bytes 0, 1, 2, ... (mod 251), removed at the end.
struct TemporaryFile {
  std::string path;
  explicit TemporaryFile(int size)
      : path((std::filesystem::temp_directory_path() / ("deftree-test-" + std::to_string(std::random_device{}())))
                 .string()) {
    std::ofstream out(path, std::ios::binary);
    for (int i = 0; i < size; ++i) out.put(static_cast<char>(i % 251));
  }
  ~TemporaryFile() { std::remove(path.c_str()); }
};

}  // namespace

TEST(mapped_file_gives_the_bytes_and_gives_them_again_after_release) {
  const TemporaryFile file(20000);
  const MappedFile mapped(file.path);
  REQUIRE(mapped.size() == 20000);
  const auto range = mapped.bytes(5000, 9000);
  const auto all_equal = [&] {
    for (size_t i = 0; i < range.size(); ++i) {
      if (range[i] != (5000 + i) % 251) return false;
    }
    return true;
  };
  CHECK(all_equal());
  mapped.release(5000, 9000);
  CHECK(all_equal());
}

TEST(mapped_file_checks_each_range_without_overflow) {
  const TemporaryFile file(100);
  const MappedFile mapped(file.path);
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  CHECK_EQ(mapped.bytes(100, 0).size(), size_t{0});
  CHECK_EQ(mapped.bytes(0, 100).size(), size_t{100});
  CHECK_ERROR(mapped.bytes(0, 101), ErrorCode::kBadModel);
  CHECK_ERROR(mapped.bytes(101, 0), ErrorCode::kBadModel);
  CHECK_ERROR(mapped.bytes(50, kMax - 20), ErrorCode::kBadModel);
  CHECK_ERROR(mapped.bytes(kMax, 1), ErrorCode::kBadModel);
}

TEST(mapped_file_moves_and_takes_an_empty_file) {
  const TemporaryFile file(10);
  MappedFile first(file.path);
  const MappedFile second(std::move(first));
  CHECK_EQ(second.bytes(0, 10)[9], 9);
  CHECK_EQ(first.size(), uint64_t{0});
  const TemporaryFile empty(0);
  CHECK_EQ(MappedFile(empty.path).size(), uint64_t{0});
}

TEST(mapped_file_refuses_what_is_no_file) {
  CHECK_ERROR(MappedFile("/nonexistent/model.gguf"), ErrorCode::kBadModel);
  CHECK_ERROR(MappedFile(std::filesystem::temp_directory_path().string()), ErrorCode::kBadModel);
}
