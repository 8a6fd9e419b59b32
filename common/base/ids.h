// Names that the compiler keeps apart: a job's id is not a node's name, though both are text.
#ifndef FATHOM_COMMON_BASE_IDS_H_
#define FATHOM_COMMON_BASE_IDS_H_

#include <ostream>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace fathom {

// Text that may only meet text of its own kind. Ordered and hashable; .value() is the text.
template <typename Tag>
class NameOf {
 public:
  NameOf() = default;
  explicit NameOf(std::string value) : value_(std::move(value)) {}
  explicit NameOf(const char* value) : value_(value) {}
  explicit NameOf(absl::string_view value) : value_(value) {}

  const std::string& value() const { return value_; }
  bool empty() const { return value_.empty(); }

  friend bool operator==(const NameOf&, const NameOf&) = default;
  friend auto operator<=>(const NameOf&, const NameOf&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const NameOf& name) {
    return H::combine(std::move(h), name.value_);
  }
  friend std::ostream& operator<<(std::ostream& out, const NameOf& name) {
    return out << name.value_;
  }

 private:
  std::string value_;
};

using JobId = NameOf<struct JobIdTag>;      // unique for ever, such as "tiny-7"
using JobName = NameOf<struct JobNameTag>;  // unique among unfinished jobs
using NodeName = NameOf<struct NodeNameTag>;

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_IDS_H_
