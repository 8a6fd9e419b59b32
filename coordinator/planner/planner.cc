#include "coordinator/planner/planner.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/model/model_config.h"
#include "common/plan/job_resolve.h"
#include "common/plan/plan_check.h"
#include "coordinator/planner/stage_split.h"

namespace fathom::planner {
namespace {

absl::StatusOr<v1::Plan> Build(const std::string& job_id, uint64_t epoch,
                               const v1::JobSpec& resolved,
                               const std::vector<NodeCapacity>& nodes) {
  FATHOM_RETURN_IF_ERROR(plan::CheckResolvedSpec(resolved));
  FATHOM_ASSIGN_OR_RETURN(const model::ModelConfig config, model::ResolveModel(resolved.model()));
  const v1::Parallelism& shape = resolved.parallelism();
  FATHOM_ASSIGN_OR_RETURN(const std::vector<v1::Stage> stages,
                          SplitStages(config, resolved.data().sequence_length(), shape.pipeline()));
  FATHOM_ASSIGN_OR_RETURN(const std::vector<v1::RankAssignment> ranks, AssignRanks(shape, nodes));

  v1::Plan plan;
  plan.set_job(job_id);
  plan.set_epoch(epoch);
  *plan.mutable_spec() = resolved;
  for (const v1::Stage& stage : stages) *plan.add_stages() = stage;
  for (const v1::RankAssignment& rank : ranks) *plan.add_ranks() = rank;
  SetPlannedNodes(nodes, &plan);
  const int64_t per_rank = config.n_routed_experts / shape.expert();
  for (int64_t expert = 0; expert < config.n_routed_experts; ++expert) {
    plan.add_expert_owner(static_cast<int32_t>(expert / per_rank));
  }
  FATHOM_RETURN_IF_ERROR(plan::CheckPlan(plan));
  return plan;
}

}  // namespace

absl::StatusOr<v1::Plan> MakePlan(const std::string& job_id, uint64_t epoch,
                                  const v1::JobSpec& resolved,
                                  const std::vector<NodeCapacity>& nodes) {
  absl::StatusOr<v1::Plan> plan = Build(job_id, epoch, resolved, nodes);
  if (!plan.ok()) return WithContext(plan.status(), absl::StrCat("planning job ", job_id));
  return plan;
}

}  // namespace fathom::planner
