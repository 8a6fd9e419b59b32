// A job and a cluster as a prediction takes them: resolved, with what is left open for the search.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_JOB_SETTING_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_JOB_SETTING_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/cluster/topology.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "coordinator/planner/search/job_costs.h"
#include "coordinator/planner/search/suggestion.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::planner {

// Of a step, where the job names neither a layout nor micro-batches.
inline constexpr int64_t kDefaultSequencesPerDevice = 8;

// Where a layout may lie: one pool, or all of them.
struct DeviceSet {
  std::string pool;  // empty: all
  int nodes = 0;     // without spares
  int spares = 0;
  int devices_per_node = 0;  // 0: not the same on all
  int devices = 0;           // without spares
  std::unique_ptr<cluster::Topology> topology;
  std::unique_ptr<JobCosts> costs;
};

struct JobSetting {
  v1::Job job;
  bool named = false;  // the job names its layout
  bool default_sequences = false;
  int64_t sequences = 0;  // of a step
  model::ModelConfig config;
  model::PrecisionRecipe recipe;
  v1::ClusterDescription cluster;
  std::vector<DeviceSet> sets;  // each pool, and all where there are several
  // The job's own, where it names one.
  Shape shape;
  LayoutShape base;

  SpaceLimits LimitsOn(const DeviceSet& set) const;
  const DeviceSet& largest() const;
};

// Paths aren't looked at: a job may be planned before its data is there. INVALID_ARGUMENT and
// FAILED_PRECONDITION as Predict says; a layout that contradicts itself is refused with the nearest
// that doesn't and fits.
absl::StatusOr<JobSetting> ResolveSetting(const v1::Job& job,
                                          const v1::ClusterDescription& cluster);

// Nearest layouts on any set that it fits on, else on a larger cluster.
absl::StatusOr<std::vector<Suggestion>> SuggestFor(const JobSetting& setting, bool same_sequences);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_JOB_SETTING_H_
