#include "coordinator/planner/calibration/machine_step.h"

#include <algorithm>

#include "common/base/status_util.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/plan/even_plan.h"
#include "common/schedule/dualpipe.h"

namespace fathom::planner {

absl::StatusOr<CpuStep> PredictOnOneMachine(const v1::JobSpec& spec, int ranks_per_node,
                                            const v1::OpTimes& times) {
  FATHOM_ASSIGN_OR_RETURN(const model::ModelConfig config, model::ResolveModel(spec.model()));
  FATHOM_ASSIGN_OR_RETURN(const model::PrecisionRecipe recipe, model::FindRecipe(spec.precision()));
  const v1::Parallelism& layout = spec.parallelism();
  CpuJob job;
  job.config = &config;
  job.recipe = &recipe;
  job.parallelism = layout;
  const v1::Plan plan = plan::EvenPlan(spec, ranks_per_node);
  for (const v1::Stage& stage : plan.stages()) job.stage_layers.push_back(stage.layer_count());
  job.micro_batch.sequences = spec.training().micro_batch_sequences();
  job.micro_batch.sequence_length = spec.data().sequence_length();
  job.micro_batch.expert_ranks = layout.expert();
  job.verify_weights = spec.recovery().verify_weights();
  const int micro_batches = static_cast<int>(spec.training().micro_batches());
  FATHOM_ASSIGN_OR_RETURN(const schedule::Schedule schedule,
                          layout.pipeline() == 1
                              ? schedule::Sequential(micro_batches)
                              : schedule::DualPipe(layout.pipeline(), micro_batches));
  CpuPlaces places;
  const int ranks = plan.ranks_size();
  for (int rank = 0; rank < ranks; ++rank) places.node_of_rank.push_back(rank / ranks_per_node);
  places.machine_of_node.assign((ranks - 1) / ranks_per_node + 1, 0);
  places.machines = {MachineOf(std::max(1, times.cores()), ranks, times)};
  return PredictCpuStep(job, schedule, places, times);
}

}  // namespace fathom::planner
