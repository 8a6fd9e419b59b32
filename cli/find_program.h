// Where the other programs of Fathom lie.
#ifndef FATHOM_CLI_FIND_PROGRAM_H_
#define FATHOM_CLI_FIND_PROGRAM_H_

#include <string>

#include "absl/status/statusor.h"
#include "cli/session.h"

namespace fathom::cli {

// The path of a program: in $FATHOM_BIN_DIR, beside fathomctl, or in the folder where Bazel builds
// it. NOT_FOUND names the places that were looked at.
absl::StatusOr<std::string> FindProgram(const Environment& environment, const std::string& name,
                                        const std::string& bazel_folder);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_FIND_PROGRAM_H_
