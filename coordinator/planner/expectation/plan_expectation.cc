#include "coordinator/planner/expectation/plan_expectation.h"

#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/schedule/dualpipe.h"
#include "coordinator/planner/cost/step_fields.h"
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
  *prediction.mutable_layout() = ToProto(layout, schedule.kind);
  prediction.mutable_layout()->set_nodes(static_cast<int32_t>(used.size()));
  prediction.mutable_layout()->set_from_job(true);
  FillStep(layout, step, &prediction);
  return prediction;
}

}  // namespace fathom::planner
