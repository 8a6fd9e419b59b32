#include "common/base/errno_status.h"

#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace fathom {
namespace {

absl::string_view Remedy(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "; free space there, or choose another folder";
    case EACCES:
    case EPERM:
      return "; check its owner and permissions";
    case EROFS:
      return "; the file system is read-only: choose another folder";
    case ENOENT:
      return "; check the path";
    case EMFILE:
    case ENFILE:
      return "; raise the limit of open files (ulimit -n)";
    case EADDRINUSE:
      return "; another program listens there: stop it or choose another port";
    default:
      return "";
  }
}

}  // namespace

absl::Status ErrnoStatus(int error, absl::string_view attempt, absl::string_view target) {
  absl::Status mapped = absl::ErrnoToStatus(error, "");
  return absl::Status(mapped.code(),
                      absl::StrCat("cannot ", attempt, " ", target, ": ",
                                   std::generic_category().message(error), Remedy(error)));
}

}  // namespace fathom
