#include "cli/cluster_file.h"

#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/config_loader.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

constexpr char kApiVersion[] = "fathom/v1";
constexpr char kKind[] = "Cluster";

}  // namespace

absl::StatusOr<v1::ClusterDescription> ParseCluster(absl::string_view text,
                                                    const std::string& source_name) {
  v1::ClusterDescription cluster;
  FATHOM_RETURN_IF_ERROR(LoadYaml(text, source_name, &cluster));
  if (cluster.api_version() != kApiVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat(source_name, ": apiVersion is '", cluster.api_version(),
                     "'; a cluster file begins with apiVersion: ", kApiVersion));
  }
  if (cluster.kind() != kKind) {
    return absl::InvalidArgumentError(absl::StrCat(source_name, ": kind is '", cluster.kind(),
                                                   "'; a cluster file says kind: ", kKind));
  }
  return cluster;
}

absl::StatusOr<v1::ClusterDescription> LoadClusterFile(const std::string& path) {
  FATHOM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, limits::kMaxConfigBytes));
  return ParseCluster(text, path);
}

}  // namespace fathom::cli
