#include "coordinator/service/planning.h"

#include <string>
#include <vector>

#include "common/plan/job_resolve.h"
#include "common/plan/plan_check.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/replan.h"

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
                      .failure_domain = node.failure_domain},
         .spare = node.spare});
  }
  return request;
}

}  // namespace

PlanningFunctions RealPlanning() {
  PlanningFunctions planning;
  planning.resolve = [](const v1::Job& job) { return plan::ResolveJob(job); };
  planning.make_plan = [](const std::string& job, uint64_t epoch, const v1::JobSpec& spec,
                          const std::vector<FreeNode>& nodes) {
    std::vector<planner::NodeCapacity> capacities;
    capacities.reserve(nodes.size());
    for (const FreeNode& node : nodes) {
      capacities.push_back({.name = node.name,
                            .free_devices = {node.free_devices.begin(), node.free_devices.end()},
                            .failure_domain = node.failure_domain});
    }
    return planner::MakePlan(job, epoch, spec, capacities);
  };
  planning.check_plan = plan::CheckPlan;
  planning.replan = [](const ReplanInput& input) { return planner::Replan(RequestOf(input)); };
  planning.reshape = [](const ReplanInput& input) { return planner::Reshape(RequestOf(input)); };
  return planning;
}

}  // namespace fathom
