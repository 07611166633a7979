#include "model/mapped_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "common/error.h"

#if defined(__unix__) || defined(__APPLE__)
#define DEFTREE_POSIX 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace deftree {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kBadModel, "model file \"" + path + "\": " + what);
}

[[noreturn]] void fail_errno(const std::string& path, const char* what) {
  fail(path, std::string(what) + ": " + std::strerror(errno));
}

std::unique_ptr<uint8_t[]> allocate(const std::string& path, uint64_t size) {
  if (size <= std::numeric_limits<size_t>::max()) {
    if (auto* memory = new (std::nothrow) uint8_t[static_cast<size_t>(size)]) return std::unique_ptr<uint8_t[]>(memory);
  }
  throw Error(ErrorCode::kOutOfMemory, "no memory to read model file \"" + path + "\"",
              {{"wanted_bytes", static_cast<double>(size)}});
}

}  // namespace

#if DEFTREE_POSIX

MappedFile::MappedFile(const std::string& path) : path_(path) {
  struct Descriptor {
    int fd;
    ~Descriptor() {
      if (fd >= 0) close(fd);
    }
  } file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail_errno(path, "cannot open");
  struct stat info{};
  if (fstat(file.fd, &info) != 0) fail_errno(path, "cannot read its size");
  if (!S_ISREG(info.st_mode)) fail(path, "not a regular file");
  size_ = static_cast<uint64_t>(info.st_size);
  if (size_ == 0) return;
  if (size_ <= std::numeric_limits<size_t>::max()) {
    void* memory = mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (memory != MAP_FAILED) {
      data_ = static_cast<const uint8_t*>(memory);
      mapped_ = true;
      return;
    }
  }
  copy_ = allocate(path, size_);
  for (uint64_t done = 0; done < size_;) {
    const ssize_t got = read(file.fd, copy_.get() + done, static_cast<size_t>(size_ - done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(path, "cannot read");
    if (got == 0) fail(path, "became shorter while it was read");
    done += static_cast<uint64_t>(got);
  }
  data_ = copy_.get();
}

MappedFile::~MappedFile() {
  if (mapped_) munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_));
}

void MappedFile::release(uint64_t offset, uint64_t len) const {
  if (!mapped_ || !contains(offset, len)) return;
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page * page;  // a neighbour's bytes on the edge pages are read again at need
  madvise(const_cast<uint8_t*>(data_) + begin, static_cast<size_t>(offset + len - begin), MADV_DONTNEED);
}

#else

MappedFile::MappedFile(const std::string& path) : path_(path) {
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Closer> file(std::fopen(path.c_str(), "rb"));
  if (!file) fail_errno(path, "cannot open");
  if (std::fseek(file.get(), 0, SEEK_END) != 0) fail_errno(path, "cannot read its size");
  const long end = std::ftell(file.get());
  if (end < 0) fail_errno(path, "cannot read its size");
  size_ = static_cast<uint64_t>(end);
  std::rewind(file.get());
  copy_ = allocate(path, size_);
  if (std::fread(copy_.get(), 1, static_cast<size_t>(size_), file.get()) != size_) fail_errno(path, "cannot read");
  data_ = copy_.get();
}

MappedFile::~MappedFile() = default;

void MappedFile::release(uint64_t, uint64_t) const {}

#endif

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      size_(std::exchange(other.size_, 0)),
      data_(std::exchange(other.data_, nullptr)),
      mapped_(std::exchange(other.mapped_, false)),
      copy_(std::move(other.copy_)) {}

std::span<const uint8_t> MappedFile::bytes(uint64_t offset, uint64_t len) const {
  if (!contains(offset, len)) {
    throw Error(ErrorCode::kBadModel,
                "model file \"" + path_ + "\": bytes " + std::to_string(offset) + " + " + std::to_string(len) +
                    " reach past its end at " + std::to_string(size_) + "; the file may be truncated",
                {{"offset", static_cast<double>(offset)},
                 {"bytes", static_cast<double>(len)},
                 {"file_bytes", static_cast<double>(size_)}});
  }
  return {data_ + offset, static_cast<size_t>(len)};
}

}  // namespace deftree
