// experts traffic: what a recorded routing puts on a cluster's links. Needs no coordinator.
#ifndef FATHOM_CLI_EXPERTS_TRAFFIC_VERB_H_
#define FATHOM_CLI_EXPERTS_TRAFFIC_VERB_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// LoadRoutingTrace's, LoadClusterFile's, ResolveCluster's, LoadPlacementFile's and
// PredictRoutingTraffic's codes; RESOURCE_EXHAUSTED: the cluster has too few devices.
absl::Status RunExpertsTraffic(const ExpertsTrafficOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_EXPERTS_TRAFFIC_VERB_H_
