#include "coordinator/service/planning.h"

#include <string>
#include <utility>
#include <vector>

#include "common/model/model_config.h"
#include "common/plan/job_resolve.h"
#include "common/plan/plan_check.h"
#include "common/plan/plan_layout.h"
#include "coordinator/planner/expectation/plan_expectation.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/replan.h"
#include "coordinator/planner/stage_split.h"

namespace fathom {
namespace {

planner::ReplanRequest RequestOf(const ReplanInput& input) {
  planner::ReplanRequest request;
  request.previous = input.previous;
  request.epoch = input.epoch;
  request.asked = input.asked;
  request.vacate = input.vacate;
  request.successor = input.successor;
  for (const FreeNode& node : input.free) {
    request.nodes.push_back(
        {.capacity = {.name = node.name,
                      .free_devices = {node.free_devices.begin(), node.free_devices.end()},
                      .failure_domain = node.failure_domain,
                      .leaf = node.leaf},
         .spare = node.spare});
  }
  return request;
}

// Of the stages that each rank holds; empty if the model can't be told from the plan.
std::vector<double> RankCosts(const v1::Plan& plan) {
  const auto config = model::ResolveModel(plan.spec().model());
  if (!config.ok()) return {};
  const planner::LayerCosts costs = planner::CostsOf(*config, plan.spec().data().sequence_length());
  std::vector<double> of_stage;
  for (const v1::Stage& stage : plan.stages()) {
    double cost =
        (stage.has_embedding() ? costs.embedding : 0) + (stage.has_head() ? costs.head : 0);
    for (int64_t i = 0; i < stage.layer_count(); ++i) {
      cost += costs.layers.at(static_cast<size_t>(stage.first_layer() + i));
    }
    of_stage.push_back(cost);
  }
  std::vector<double> of_rank;
  for (int rank = 0; rank < plan.ranks_size(); ++rank) {
    double cost = 0;
    for (const int stage : plan::StagesOfRank(plan, rank)) {
      cost += of_stage.at(static_cast<size_t>(stage));
    }
    of_rank.push_back(cost);
  }
  return of_rank;
}

}  // namespace

PlanningFunctions RealPlanning(std::vector<v1::DeviceProfile> profiles) {
  PlanningFunctions planning;
  planning.resolve = [](const v1::Job& job) { return plan::ResolveJob(job); };
  planning.make_plan = [](const std::string& job, uint64_t epoch, const v1::JobSpec& spec,
                          const std::vector<FreeNode>& nodes) {
    std::vector<planner::NodeCapacity> capacities;
    capacities.reserve(nodes.size());
    for (const FreeNode& node : nodes) {
      capacities.push_back({.name = node.name,
                            .free_devices = {node.free_devices.begin(), node.free_devices.end()},
                            .failure_domain = node.failure_domain,
                            .leaf = node.leaf});
    }
    return planner::MakePlan(job, epoch, spec, capacities);
  };
  planning.check_plan = plan::CheckPlan;
  planning.rank_costs = RankCosts;
  planning.predict = [profiles = std::move(profiles)](const v1::Plan& plan,
                                                      const std::vector<v1::Node>& nodes) {
    return planner::ExpectPlan(plan, nodes, profiles);
  };
  planning.replan = [](const ReplanInput& input) { return planner::Replan(RequestOf(input)); };
  planning.reshape = [](const ReplanInput& input) { return planner::Reshape(RequestOf(input)); };
  return planning;
}

}  // namespace fathom
