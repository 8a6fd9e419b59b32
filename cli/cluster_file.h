// A cluster file as the user wrote it: loaded, not yet resolved (common/cluster).
#ifndef FATHOM_CLI_CLUSTER_FILE_H_
#define FATHOM_CLI_CLUSTER_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::cli {

// NOT_FOUND; INVALID_ARGUMENT with file, line and field: not YAML, an unknown field, a value of the
// wrong kind, no or another apiVersion or kind.
absl::StatusOr<v1::ClusterDescription> LoadClusterFile(const std::string& path);

// As LoadClusterFile, of a text; `source_name` stands in errors.
absl::StatusOr<v1::ClusterDescription> ParseCluster(absl::string_view text,
                                                    const std::string& source_name);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_CLUSTER_FILE_H_
