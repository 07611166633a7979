// A model file, read-only, with every range checked against the file's size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace deftree {

// Mapped where the system can map files, read into memory where it cannot. The size is taken once, at open: a file that
// another process shortens while it is being read ends this process with SIGBUS, as it does for every reader of mapped
// files; so the loader drops the mapping as soon as the weights are packed.
class MappedFile {
 public:
  // Throws kBadModel with the path and the system's reason; kBadModel too for what is not a regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }
  // True when [offset, offset + len) lies in the file; never overflows.
  bool contains(uint64_t offset, uint64_t len) const { return offset <= size_ && len <= size_ - offset; }
  // Throws kBadModel when the range leaves the file.
  std::span<const uint8_t> bytes(uint64_t offset, uint64_t len) const;
  // Says that the range will not be read again soon: its pages leave this process's memory (and come back if it is).
  void release(uint64_t offset, uint64_t len) const;

 private:
  std::string path_;
  uint64_t size_ = 0;
  const uint8_t* data_ = nullptr;
  bool mapped_ = false;
  std::unique_ptr<uint8_t[]> copy_;  // when not mapped
};

}  // namespace deftree
