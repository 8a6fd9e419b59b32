// How long a step takes on CPU ranks, by the op times of the machine they run on: every rank's
// instructions, exchanges of tokens, sums and update, on the cores that they share.
//
// Lockstep of an expert group is kept layer by layer, as the engine does: each way of the tokens
// is posted, and waited for, where worker/model does so.
#ifndef FATHOM_COORDINATOR_PLANNER_CALIBRATION_CPU_STEP_H_
#define FATHOM_COORDINATOR_PLANNER_CALIBRATION_CPU_STEP_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/cluster/topology.h"
#include "common/model/layer_ops.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/schedule/event_simulator.h"
#include "common/schedule/instruction.h"
#include "coordinator/planner/calibration/shared_cores.h"
#include "coordinator/planner/rank_placement.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

struct CpuJob {
  const model::ModelConfig* config = nullptr;
  const model::PrecisionRecipe* recipe = nullptr;
  v1::Parallelism parallelism;
  std::vector<int64_t> stage_layers;
  model::MicroBatchShape micro_batch;  // expert_ranks as `parallelism` says
  model::Recomputation recomputation = model::Recomputation::kSelective;
  bool snapshots = true;       // each step's state goes to a buddy
  bool verify_weights = true;  // recovery.verify_weights
};

// Where the ranks run. Ranks of one node share memory, others meet over TCP; nodes of one machine
// share its cores.
struct CpuPlaces {
  std::vector<int> node_of_rank;  // by rank, as RankPlacement
  std::vector<int> machine_of_node;
  std::vector<SharedMachine> machines;
};
// Of so many cores, which `ranks` ranks share.
SharedMachine MachineOf(double cores, int ranks, const v1::OpTimes& times);

// A pool with shared_cores is one machine, in others every node is one.
CpuPlaces PlacesOn(const cluster::Topology& topology, const RankPlacement& placement,
                   const v1::OpTimes& times);

// Of one micro-batch through a stage, on a core of its own.
struct CpuStage {
  schedule::StageCosts costs;
  double message_s = 0;  // copying its output to the next stage
  std::vector<v1::PredictedOp> ops;
};

struct CpuStep {
  std::vector<CpuStage> stages;
  double seconds = 0;
  double core_seconds = 0;  // of all ranks together, slowed down as they are
  double reduce_s = 0;
  double optimizer_s = 0;
  double other_s = 0;
  v1::StepBreakdown breakdown;      // of the pipeline rank of the first lane that is busy longest
  schedule::Simulation simulation;  // of the first lane, up to the sum of gradients; ranks that
                                    // share cores take longer
  std::vector<v1::Assumption> assumptions;
};

// NOT_FOUND: op_times lack an entry. INVALID_ARGUMENT: job, schedule and places contradict each
// other.
absl::StatusOr<std::vector<CpuStage>> CpuTimesOfStages(const CpuJob& job, const v1::OpTimes& times);
absl::StatusOr<CpuStep> PredictCpuStep(const CpuJob& job, const schedule::Schedule& schedule,
                                       const CpuPlaces& places, const v1::OpTimes& times);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_CALIBRATION_CPU_STEP_H_
