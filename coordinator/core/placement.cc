#include "coordinator/core/placement.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

bool IsLive(v1::RankState state) {
  return state == v1::RANK_STATE_STARTING || state == v1::RANK_STATE_LISTENING ||
         state == v1::RANK_STATE_TRAINING;
}

using DeviceSet = std::set<std::pair<std::string, int32_t>>;

// What active jobs hold by plan, or claim by their last one.
DeviceSet HeldByPlans(const DurableState::Jobs& jobs, const JobId& viewer, bool over_claims) {
  DeviceSet held;
  for (const auto& [number, job] : jobs) {
    if (!IsActive(job->state) || job->plan == nullptr) continue;
    if (!job->HasCurrentPlan() && (over_claims || job->id == viewer)) continue;
    for (const v1::RankAssignment& rank : job->plan->ranks())
      held.emplace(rank.node(), rank.device());
  }
  return held;
}

}  // namespace

int64_t RanksOf(const v1::JobSpec& spec) {
  const v1::Parallelism& p = spec.parallelism();
  // Cut off far above any limit, so that no product overflows.
  constexpr int64_t kMost = int64_t{1} << 31;
  int64_t ranks = 1;
  for (const int32_t factor : {p.pipeline(), p.expert(), p.replicas()}) {
    ranks = std::min(ranks * std::max<int64_t>(factor, 1), kMost);
  }
  return ranks;
}

DeviceMap::DeviceMap(const NodeTable& nodes, const DurableState::Jobs& jobs, const JobId& viewer,
                     bool over_claims) {
  const DeviceSet held = HeldByPlans(jobs, viewer, over_claims);
  std::map<std::string, const DurableJob*> by_id;
  for (const auto& [number, job] : jobs) by_id[job->id.value()] = job.get();
  for (const auto& [name, entry] : nodes.nodes()) {
    if (!entry.IsUp()) continue;
    std::set<int32_t> busy;
    bool all_busy = false;
    for (const v1::RankStatus& rank : entry.report.ranks()) {
      if (!IsLive(rank.state())) continue;
      const auto job = by_id.find(rank.job());
      const bool known = job != by_id.end() && job->second->plan != nullptr &&
                         job->second->plan->epoch() == rank.epoch() && rank.rank() >= 0 &&
                         rank.rank() < job->second->plan->ranks_size();
      if (known) {
        busy.insert(job->second->plan->ranks(rank.rank()).device());
      } else {
        all_busy = true;  // it sits on one of them, unknown which
      }
    }
    Place& place = places_[name.value()];
    place.node.name = name.value();
    place.node.failure_domain = entry.report.node().failure_domain();
    place.spare = entry.state == v1::NODE_STATE_SPARE;
    for (const v1::Device& device : entry.report.node().devices()) {
      ++place.devices;
      if (held.contains({name.value(), device.index()})) {
        ++place.held;
      } else if (!all_busy && !busy.contains(device.index())) {
        place.node.free_devices.push_back(device.index());
      }
    }
    std::sort(place.node.free_devices.begin(), place.node.free_devices.end());
  }
}

std::vector<FreeNode> DeviceMap::Free(Use use, const std::set<std::string>& only) const {
  std::vector<FreeNode> free;
  for (const auto& [name, place] : places_) {
    if (place.spare && use == Use::kReadyOnly) continue;
    if (!only.empty() && !only.contains(name)) continue;
    if (!place.node.free_devices.empty()) free.push_back(place.node);
  }
  return free;
}

int64_t DeviceMap::CountFree(Use use) const {
  int64_t count = 0;
  for (const FreeNode& node : Free(use)) count += static_cast<int64_t>(node.free_devices.size());
  return count;
}

int64_t DeviceMap::CountAll(Use use) const {
  int64_t count = 0;
  for (const auto& [name, place] : places_) {
    if (!place.spare || use == Use::kWithSpares) count += place.devices;
  }
  return count;
}

int64_t DeviceMap::CountHeld(const std::string& node) const {
  const auto place = places_.find(node);
  return place == places_.end() ? 0 : place->second.held;
}

std::string ShortageReason(int64_t needed, const DeviceMap& devices, DeviceMap::Use use) {
  const int64_t all = devices.CountAll(use);
  if (needed > all) {
    return absl::StrCat("needs ", needed, " devices, the cluster has ", all, ": ", needed - all,
                        " missing; start more worker daemons");
  }
  const int64_t free = devices.CountFree(use);
  return absl::StrCat("needs ", needed, " devices, ", free, " of ", all,
                      " are free: ", needed - free, " missing until others are done");
}

absl::StatusOr<v1::Plan> PlanOn(const PlanningFunctions& planning, const DurableJob& job,
                                uint64_t epoch, const std::vector<FreeNode>& nodes) {
  FATHOM_ASSIGN_OR_RETURN(v1::Plan plan,
                          planning.make_plan(job.id.value(), epoch, job.job->spec(), nodes));
  const bool resumes_own = job.checkpoint.step() > 0 && !job.checkpoint.manifest().empty();
  if (resumes_own) {
    plan.mutable_resume()->set_step(job.checkpoint.step());
    plan.mutable_resume()->set_manifest(job.checkpoint.manifest());
  } else if (!job.resume_from.manifest().empty()) {
    *plan.mutable_resume() = job.resume_from;
  }
  FATHOM_RETURN_IF_ERROR(planning.check_plan(plan));
  if (plan.job() != job.id.value() || plan.epoch() != epoch || plan.ranks_size() == 0) {
    return absl::InternalError("the planner's plan is of another job or epoch, or has no ranks");
  }
  DeviceSet free;
  for (const FreeNode& node : nodes) {
    for (const int32_t device : node.free_devices) free.emplace(node.name, device);
  }
  for (int i = 0; i < plan.ranks_size(); ++i) {
    const v1::RankAssignment& rank = plan.ranks(i);
    if (rank.rank() != i || free.erase({rank.node(), rank.device()}) == 0) {
      return absl::InternalError(absl::StrCat("the planner placed rank ", rank.rank(),
                                              " on device ", rank.device(), " of node ",
                                              rank.node(), ", which is not free"));
    }
  }
  return plan;
}

}  // namespace fathom
