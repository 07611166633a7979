#include "attention/tree_file.h"

#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "common/error.h"

namespace deftree::attention {
namespace {

// Just enough of JSON for this one form.
class Reader {
 public:
  explicit Reader(std::string text) : text_(std::move(text)) {}

  std::vector<NamedTree> trees() {
    std::vector<NamedTree> all;
    list([&] { all.push_back(tree()); });
    return all;
  }

 private:
  NamedTree tree() {
    NamedTree t;
    fields([&](const std::string& key) {
      if (key == "name") t.name = string();
      else if (key == "queries") list([&] { t.queries.push_back(integer()); });
      else if (key == "nodes") list([&] { t.nodes.push_back(node()); });
      else bad("unknown key " + key);
    });
    return t;
  }
  SnapshotNode node() {
    SnapshotNode n{-1, 0};
    fields([&](const std::string& key) {
      if (key == "parent") n.parent = integer();
      else if (key == "len") n.len = integer();
      else bad("unknown key " + key);
    });
    return n;
  }

  template <class Element>
  void list(Element element) {
    sequence('[', ']', element);
  }
  template <class Field>
  void fields(Field field) {
    sequence('{', '}', [&] {
      const std::string key = string();
      expect(':');
      field(key);
    });
  }
  template <class Element>
  void sequence(char open, char close, Element element) {
    expect(open);
    if (accept(close)) return;
    do element();
    while (accept(','));
    expect(close);
  }
  std::string string() {
    expect('"');
    const size_t end = text_.find('"', at_);
    if (end == std::string::npos) bad("unfinished text");
    const std::string value = text_.substr(at_, end - at_);
    at_ = end + 1;
    return value;
  }
  int32_t integer() {
    skip_space();
    char* end = nullptr;
    const long value = std::strtol(text_.c_str() + at_, &end, 10);
    if (end == text_.c_str() + at_) bad("expected a number");
    at_ = end - text_.c_str();
    return static_cast<int32_t>(value);
  }
  void skip_space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool accept(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) bad(std::string("expected ") + c);
  }
  [[noreturn]] void bad(const std::string& what) const {
    throw Error(ErrorCode::kBadArgument, "tree file: " + what + " at byte " + std::to_string(at_));
  }

  std::string text_;
  size_t at_ = 0;
};

}  // namespace

std::vector<NamedTree> read_tree_file(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw Error(ErrorCode::kBadArgument, "cannot read the tree file " + path);
  return Reader(std::string(std::istreambuf_iterator<char>(in), {})).trees();
}

}  // namespace deftree::attention
