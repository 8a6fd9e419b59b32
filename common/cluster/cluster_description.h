// A cluster file's message, made whole: defaults filled in, profiles looked up, contradictions
// named.
#ifndef FATHOM_COMMON_CLUSTER_CLUSTER_DESCRIPTION_H_
#define FATHOM_COMMON_CLUSTER_CLUSTER_DESCRIPTION_H_

#include "absl/status/statusor.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::cluster {

// Every default filled in; `profiles` holds those that the pools use, built-in or given.
// INVALID_ARGUMENT names the field, its value and the nearest thing that would do: no pool, a pool
// without nodes or of an unknown device, switches that form a cycle, a node under no leaf or under
// two, a leaf that reaches no top switch the others reach, a rate that is not positive.
absl::StatusOr<v1::ClusterDescription> ResolveCluster(const v1::ClusterDescription& given);

}  // namespace fathom::cluster

#endif  // FATHOM_COMMON_CLUSTER_CLUSTER_DESCRIPTION_H_
