#include "cli/find_program.h"

#include <unistd.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace fathom::cli {

absl::StatusOr<std::string> FindProgram(const Environment& environment, const std::string& name,
                                        const std::string& bazel_folder) {
  std::vector<std::string> candidates;
  const std::string named = environment.variable("FATHOM_BIN_DIR");
  if (!named.empty()) candidates.push_back(absl::StrCat(named, "/", name));
  candidates.push_back(absl::StrCat(environment.program_folder, "/", name));
  candidates.push_back(absl::StrCat(environment.program_folder, "/../", bazel_folder, "/", name));
  for (const std::string& candidate : candidates) {
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return absl::NotFoundError(absl::StrCat("no program ", name, " (looked for ",
                                          absl::StrJoin(candidates, ", "),
                                          "); build it, or name its folder in $FATHOM_BIN_DIR"));
}

}  // namespace fathom::cli
