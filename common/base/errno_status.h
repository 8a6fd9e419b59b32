// A failed system call as a Status: what was tried, on which path, why it failed and what to do.
#ifndef FATHOM_COMMON_BASE_ERRNO_STATUS_H_
#define FATHOM_COMMON_BASE_ERRNO_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace fathom {

// "cannot <attempt> <target>: <strerror>; <remedy>". The code follows absl::ErrnoToStatus, such as
// NOT_FOUND for ENOENT, PERMISSION_DENIED for EACCES, RESOURCE_EXHAUSTED for ENOSPC.
absl::Status ErrnoStatus(int error, absl::string_view attempt, absl::string_view target);

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_ERRNO_STATUS_H_
