#include "cuda/cublas_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <vector>

#include "common/error.h"

namespace deftree {
namespace {

namespace fs = std::filesystem;

// The folders of a toolkit: an installed one has lib64, one of Python packages (nvidia/cu13) has lib.
void add_toolkit(std::vector<fs::path>& folders, const fs::path& root) {
  folders.push_back(root / "lib64");
  folders.push_back(root / "lib");
}

std::vector<fs::path> library_folders() {
  std::vector<fs::path> folders{""};  // the loader's own path
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) {
    const char* root = std::getenv(name);
    if (root != nullptr && *root != '\0') add_toolkit(folders, root);
  }
  if (const char* path = std::getenv("PATH")) {
    std::istringstream entries(path);
    for (std::string entry; std::getline(entries, entry, ':');) {
      std::error_code failed;
      const fs::path nvcc = fs::canonical(fs::path(entry) / "nvcc", failed);  // fails where there is none
      if (!failed) add_toolkit(folders, nvcc.parent_path().parent_path());
    }
  }
#ifdef DEFTREE_WITH_CUDA
  add_toolkit(folders, DEFTREE_CUDA_ROOT);
#endif
  add_toolkit(folders, "/usr/local/cuda");
  return folders;
}

}  // namespace

void* open_cublas_lt() {
  std::string tried;
  for (const fs::path& folder : library_folders()) {
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
      const std::string path = (folder / name).string();
      if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
      tried += (tried.empty() ? "" : ", ") + path;
    }
  }
  throw Error(ErrorCode::kDevice, "cuBLASLt was not found; install CUDA's cuBLAS 12 or 13 and set CUDA_HOME to the toolkit. "
                                  "Tried: " + tried);
}

std::string find_cublas_lt() {
  void* library = open_cublas_lt();
  Dl_info info{};
  const bool is_known = dladdr(dlsym(library, "cublasLtCreate"), &info) != 0 && info.dli_fname != nullptr;
  const std::string path = is_known ? info.dli_fname : "found, at an unknown place";
  dlclose(library);
  return path;
}

}  // namespace deftree
