// Early return on a failed Status, and adding what was being tried to one that passes by.
#ifndef FATHOM_COMMON_BASE_STATUS_UTIL_H_
#define FATHOM_COMMON_BASE_STATUS_UTIL_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace fathom {

// The same code with "context: " before the message; OK stays OK.
inline absl::Status WithContext(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace fathom

#define FATHOM_RETURN_IF_ERROR(expression)           \
  do {                                               \
    absl::Status fathom_status_ = (expression);      \
    if (!fathom_status_.ok()) return fathom_status_; \
  } while (false)

#define FATHOM_STATUS_CONCAT_INNER_(a, b) a##b
#define FATHOM_STATUS_CONCAT_(a, b) FATHOM_STATUS_CONCAT_INNER_(a, b)

// FATHOM_ASSIGN_OR_RETURN(auto x, F()): x = *F(), or returns F's status.
#define FATHOM_ASSIGN_OR_RETURN(target, expression) \
  FATHOM_ASSIGN_OR_RETURN_IMPL_(FATHOM_STATUS_CONCAT_(fathom_or_, __LINE__), target, expression)
#define FATHOM_ASSIGN_OR_RETURN_IMPL_(holder, target, expression) \
  auto holder = (expression);                                     \
  if (!holder.ok()) return holder.status();                       \
  target = *std::move(holder)

#endif  // FATHOM_COMMON_BASE_STATUS_UTIL_H_
