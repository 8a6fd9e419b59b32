// What fathomctl's exit codes mean, and which one a failure gets.
//
//   0 done   1 error, or a job that ended FAILED or CANCELLED   2 usage: the command line or a job
//   file 3 not found   4 refused   5 coordinator unreachable   124 time-out
#ifndef FATHOM_CLI_EXIT_CODE_H_
#define FATHOM_CLI_EXIT_CODE_H_

#include <string>

#include "absl/status/status.h"

namespace fathom::cli {

enum ExitCode : int {
  kExitOk = 0,
  kExitError = 1,
  kExitUsage = 2,
  kExitNotFound = 3,
  kExitRefused = 4,
  kExitUnreachable = 5,
  kExitTimeOut = 124,
};

// The table above as text for --help.
std::string ExitCodeHelp();

// Marks a failure as the coordinator's answer: what it finds invalid is refused, not a usage error.
absl::Status FromCoordinator(absl::Status status);
bool IsFromCoordinator(const absl::Status& status);

// By code and origin.
//   here:            INVALID_ARGUMENT usage, NOT_FOUND not found, FAILED_PRECONDITION and
//   ALREADY_EXISTS
//                    refused, DEADLINE_EXCEEDED time-out
//   the coordinator: NOT_FOUND not found, UNAVAILABLE and DEADLINE_EXCEEDED unreachable,
//                    INVALID_ARGUMENT, FAILED_PRECONDITION, ALREADY_EXISTS, RESOURCE_EXHAUSTED,
//                    PERMISSION_DENIED and UNAUTHENTICATED refused
// Anything else is an error.
int ExitCodeOf(const absl::Status& status);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_EXIT_CODE_H_
