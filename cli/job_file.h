// A job file as the user meant it: loaded, overridden from the command line, its paths made
// absolute.
#ifndef FATHOM_CLI_JOB_FILE_H_
#define FATHOM_CLI_JOB_FILE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::cli {

// From a file, or standard input for "-". NOT_FOUND; INVALID_ARGUMENT with file, line and field:
// not YAML, an unknown field, a value of the wrong kind, no or another apiVersion or kind.
absl::StatusOr<v1::Job> LoadJobFile(const std::string& path);

// As LoadJobFile, of a text; `source_name` stands in errors.
absl::StatusOr<v1::Job> ParseJob(absl::string_view text, const std::string& source_name);

// Sets fields by dotted path: "spec.training.steps=50". INVALID_ARGUMENT quotes the one that is
// wrong.
absl::Status ApplyOverrides(const std::vector<std::string>& overrides, v1::Job& job);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_JOB_FILE_H_
