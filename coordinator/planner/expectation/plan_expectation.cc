#include "coordinator/planner/expectation/plan_expectation.h"

#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/schedule/dualpipe.h"
#include "coordinator/planner/cost/step_model.h"
#include "coordinator/planner/expectation/nodes_as_cluster.h"

namespace fathom::planner {
namespace {

LayoutShape ShapeOf(const v1::Plan& plan) {
  const v1::JobSpec& spec = plan.spec();
  LayoutShape layout;
  layout.parallelism = spec.parallelism();
  layout.micro_batches = spec.training().micro_batches();
  layout.micro_batch_sequences = spec.training().micro_batch_sequences();
  layout.sequence_length = spec.data().sequence_length();
  for (const v1::Stage& stage : plan.stages()) layout.stage_layers.push_back(stage.layer_count());
  layout.imbalance = kBalancedImbalance;
  layout.snapshots_on_buddy = spec.recovery().snapshot_every_steps() > 0;
  return layout;
}

// As worker/engine makes it.
absl::StatusOr<schedule::Schedule> ScheduleOf(const LayoutShape& layout) {
  const int micro_batches = static_cast<int>(layout.micro_batches);
  const int pipeline = layout.parallelism.pipeline();
  return pipeline == 1 ? schedule::Sequential(micro_batches)
                       : schedule::DualPipe(pipeline, micro_batches);
}

absl::StatusOr<RankPlacement> PlacementOf(const v1::Plan& plan, const ReportedCluster& cluster) {
  RankPlacement placement;
  for (const v1::RankAssignment& rank : plan.ranks()) {
    const auto node = cluster.index_of.find(rank.node());
    if (node == cluster.index_of.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("node ", rank.node(), " of the plan has not reported yet"));
    }
    placement.places.push_back({.node = node->second, .device = rank.device()});
    const v1::DeviceProfile& profile = cluster.topology.profile_of(node->second);
    if (profile.kind() == "cpu" && profile.op_times().ops().empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("nobody has measured the processor of node ", rank.node(),
                       ": run `fathomctl profile` there and give its file to the coordinator "
                       "(--device-profiles)"));
    }
  }
  return placement;
}

void FillStages(const v1::Plan& plan, const StepTimes& step, v1::Prediction* prediction) {
  for (int i = 0; i < plan.stages_size(); ++i) {
    const StageTimes& times = step.stages.at(i);
    v1::PredictedStage& stage = *prediction->add_stages();
    stage.set_index(i);
    stage.set_first_layer(plan.stages(i).first_layer());
    stage.set_layer_count(plan.stages(i).layer_count());
    stage.set_has_embedding(plan.stages(i).has_embedding());
    stage.set_has_head(plan.stages(i).has_head());
    stage.set_forward_s(times.costs.forward);
    stage.set_backward_s(times.costs.backward);
    stage.set_backward_input_s(times.costs.backward_input);
    stage.set_weight_s(times.costs.weight);
    stage.set_overlapped_s(times.costs.overlapped);
    stage.set_compute_s(times.compute_s);
    stage.set_communication_s(times.communication_s);
  }
}

}  // namespace

absl::StatusOr<v1::Prediction> ExpectPlan(const v1::Plan& plan, const std::vector<v1::Node>& nodes,
                                          const std::vector<v1::DeviceProfile>& profiles) {
  std::set<std::string> of_plan;
  for (const v1::RankAssignment& rank : plan.ranks()) of_plan.insert(rank.node());
  std::vector<v1::Node> used;
  for (const v1::Node& node : nodes) {
    if (of_plan.contains(node.name())) used.push_back(node);
  }
  FATHOM_ASSIGN_OR_RETURN(const ReportedCluster cluster, ClusterOfNodes(used, profiles));
  FATHOM_ASSIGN_OR_RETURN(const RankPlacement placement, PlacementOf(plan, cluster));
  FATHOM_ASSIGN_OR_RETURN(const model::ModelConfig config,
                          model::ResolveModel(plan.spec().model()));
  FATHOM_ASSIGN_OR_RETURN(const model::PrecisionRecipe recipe,
                          model::FindRecipe(plan.spec().precision()));
  const LayoutShape layout = ShapeOf(plan);
  FATHOM_ASSIGN_OR_RETURN(const schedule::Schedule schedule, ScheduleOf(layout));
  FATHOM_ASSIGN_OR_RETURN(const StepTimes step, PredictStep(config, recipe, layout, schedule,
                                                            cluster.topology, placement));

  v1::Prediction prediction;
  prediction.set_job(plan.job());
  prediction.set_devices(plan.ranks_size());
  v1::PredictedLayout& told = *prediction.mutable_layout();
  *told.mutable_parallelism() = layout.parallelism;
  told.set_schedule(schedule.kind);
  told.set_micro_batches(layout.micro_batches);
  told.set_micro_batch_sequences(layout.micro_batch_sequences);
  for (const int64_t layers : layout.stage_layers) told.add_stage_layers(layers);
  told.set_nodes(static_cast<int32_t>(used.size()));
  told.set_from_job(true);
  prediction.mutable_step()->set_seconds(step.seconds);
  *prediction.mutable_step()->mutable_breakdown() = step.breakdown;
  FillStages(plan, step, &prediction);
  for (size_t i = 0; i < step.simulation.ranks.size(); ++i) {
    v1::PredictedRank& rank = *prediction.add_ranks();
    rank.set_pipeline_rank(static_cast<int32_t>(i));
    rank.set_busy_s(step.simulation.ranks[i].busy);
    rank.set_idle_s(step.simulation.ranks[i].idle);
    rank.set_peak_activations(step.simulation.ranks[i].peak_live);
  }
  for (const v1::Assumption& assumption : step.assumptions) {
    *prediction.add_assumptions() = assumption;
  }
  return prediction;
}

}  // namespace fathom::planner
