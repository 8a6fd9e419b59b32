#include "cli/exit_code.h"

#include "absl/strings/cord.h"

namespace fathom::cli {
namespace {

constexpr char kOriginUrl[] = "fathom/coordinator";

}  // namespace

std::string ExitCodeHelp() {
  return "Exit codes:\n"
         "  0    done\n"
         "  1    error; with --wait also a job that ended FAILED or CANCELLED, or\n"
         "       a preflight that was not passed\n"
         "  2    usage: the command line, or a job file that can't be read as one\n"
         "  3    not found: no such job, node, file or local cluster\n"
         "  4    refused: what was asked for contradicts itself or the state of things\n"
         "  5    the coordinator can't be reached\n"
         "  124  time-out\n";
}

absl::Status FromCoordinator(absl::Status status) {
  if (!status.ok()) status.SetPayload(kOriginUrl, absl::Cord("1"));
  return status;
}

bool IsFromCoordinator(const absl::Status& status) {
  return status.GetPayload(kOriginUrl).has_value();
}

int ExitCodeOf(const absl::Status& status) {
  const bool remote = IsFromCoordinator(status);
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kInvalidArgument:
      return remote ? kExitRefused : kExitUsage;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
      return kExitRefused;
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return remote ? kExitRefused : kExitError;
    case absl::StatusCode::kUnavailable:
      return remote ? kExitUnreachable : kExitError;
    case absl::StatusCode::kDeadlineExceeded:
      return remote ? kExitUnreachable : kExitTimeOut;
    default:
      return kExitError;
  }
}

}  // namespace fathom::cli
