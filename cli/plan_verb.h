// plan: what a job would do on a described cluster, by the planner that the coordinator uses. Needs
// no coordinator.
#ifndef FATHOM_CLI_PLAN_VERB_H_
#define FATHOM_CLI_PLAN_VERB_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/options.h"
#include "cli/session.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::cli {

struct PlanInput {
  v1::Job job;
  v1::ClusterDescription cluster;
};

// A cluster file; if it has processors and no profile of them, with what `fathomctl profile`
// measured here. Codes as LoadClusterFile's.
absl::StatusOr<v1::ClusterDescription> LoadPlannedCluster(const std::string& file,
                                                          const Session& session);

// The files and overrides that the command line names. Codes as LoadJobFile's, ApplyOverrides' and
// LoadPlannedCluster's.
absl::StatusOr<PlanInput> LoadPlanInput(const PlanOptions& options, const Session& session);

// What the planner refuses is no fault of the command line: FAILED_PRECONDITION, as from a
// coordinator. `asked`: what was being planned, such as the files' names.
absl::Status RefusedByPlanner(const absl::Status& status, const std::string& asked);

// Codes of LoadPlanInput; FAILED_PRECONDITION: the planner refuses, with the nearest that would do;
// else what kept a picture or a trace from being written.
absl::Status RunPlan(const PlanOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_PLAN_VERB_H_
