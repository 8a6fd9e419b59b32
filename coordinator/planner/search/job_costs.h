// What a job's layouts cost on a cluster: the memory and step models, bound to one model, recipe
// and topology, as the search asks for them. Placements are kept, as many layouts share one.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_JOB_COSTS_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_JOB_COSTS_H_

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "common/cluster/topology.h"
#include "common/model/model_config.h"
#include "common/model/parameter_layout.h"
#include "common/model/precision_recipe.h"
#include "coordinator/planner/cost/memory_model.h"
#include "coordinator/planner/cost/step_model.h"
#include "coordinator/planner/rank_placement.h"
#include "coordinator/planner/search/costed_layout.h"

namespace fathom::planner {

// Of a device's memory, what no layout may count on: the driver's context, the libraries' own
// buffers, what allocators lose between blocks. These don't grow with the device: at most so many
// bytes, and no more than this part of a small one. Assumed.
inline constexpr int64_t kReservedMemoryBytes = int64_t{2} << 30;
inline constexpr double kReservedMemoryPart = 0.05;

class JobCosts {
 public:
  // `topology` must outlive it, and all that CostFunctions gives.
  JobCosts(model::ModelConfig config, model::PrecisionRecipe recipe,
           const cluster::Topology* topology);

  const model::ModelConfig& config() const { return config_; }

  // Of the device with least, without the reserve.
  int64_t capacity_bytes() const;
  int64_t usable_bytes() const;

  absl::StatusOr<const RankPlacement*> PlacementOf(const v1::Parallelism& parallelism);

  // `with_assumptions`: also what each adds, which takes several times as long.
  absl::StatusOr<StepTimes> StepOf(const LayoutShape& layout, const schedule::Schedule& schedule,
                                   bool with_assumptions = false);
  absl::StatusOr<std::vector<v1::PredictedMemory>> MemoryOf(
      const LayoutShape& layout, const schedule::Schedule& schedule) const;
  absl::StatusOr<CostsByLayer> LayerCostsOf(const LayoutShape& layout);
  // Of weights, gradients and optimizer state on the average rank of a pipeline.
  int64_t LeastBytes(const LayoutShape& layout, const ScheduleForm& form) const;

  CostFunctions Functions(int64_t sequence_length);

  // Its devices are processors, whose memory is the host's.
  bool device_is_host() const;

 private:
  const model::ModelConfig config_;
  const model::PrecisionRecipe recipe_;
  const cluster::Topology* const topology_;
  int64_t dense_parameters_ = 0;
  int64_t expert_parameters_ = 0;
  std::map<std::tuple<int, int, int>, RankPlacement> placements_;
};

// Of the pipeline rank that needs most.
const v1::PredictedMemory& Largest(const std::vector<v1::PredictedMemory>& memory);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_JOB_COSTS_H_
