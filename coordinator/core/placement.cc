#include "coordinator/core/placement.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/planted.h"
#include "common/base/status_util.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

bool IsLive(v1::RankState state) {
  switch (state) {
    case v1::RANK_STATE_STARTING:
    case v1::RANK_STATE_LISTENING:
    case v1::RANK_STATE_LOADING:
    case v1::RANK_STATE_TRAINING:
    case v1::RANK_STATE_HELD:
      return true;
    default:
      return false;
  }
}

using DeviceSet = std::set<std::pair<std::string, int32_t>>;

void AddDevices(const v1::Plan* plan, DeviceSet* devices) {
  if (plan == nullptr) return;
  for (const v1::RankAssignment& rank : plan->ranks()) {
    devices->emplace(rank.node(), rank.device());
  }
}

// What other active jobs hold by plan, or claim by their last one.
DeviceSet HeldByOthers(const DurableState& state, const JobId& viewer, bool over_claims) {
  DeviceSet held;
  for (const auto& [number, job] : state.unfinished()) {
    if (job->id == viewer || !IsActive(job->state)) continue;
    if (!job->HasCurrentPlan() && over_claims) continue;
    AddDevices(job->plan.get(), &held);
    AddDevices(job->next_plan.get(), &held);
  }
  return held;
}

// Devices on which the node reports live processes of other jobs; false: one can't be located.
bool FindBusy(const NodeEntry& entry, const DurableState& state, const JobId& viewer,
              std::set<int32_t>* busy) {
  for (const v1::RankStatus& rank : entry.report.ranks()) {
    if (!IsLive(rank.state()) || rank.job() == viewer.value()) continue;
    const auto job = state.Find(JobId(rank.job()));
    const v1::Plan* plan = job == nullptr ? nullptr : job->PlanOf(rank.epoch());
    if (plan == nullptr || rank.rank() < 0 || rank.rank() >= plan->ranks_size()) return false;
    busy->insert(plan->ranks(rank.rank()).device());
  }
  return true;
}

}  // namespace

bool HasLiveRank(const v1::NodeReport& report) {
  return std::any_of(report.ranks().begin(), report.ranks().end(),
                     [](const v1::RankStatus& rank) { return IsLive(rank.state()); });
}

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

DeviceMap::DeviceMap(const NodeTable& nodes, const DurableState& state, const JobId& viewer,
                     bool over_claims, const std::set<std::string>& closed) {
  const DeviceSet held = HeldByOthers(state, viewer, over_claims);
  DeviceSet own;
  if (const auto job = state.Find(viewer)) {
    if (IsActive(job->state)) AddDevices(job->plan.get(), &own);
  }
  for (const auto& [name, entry] : nodes.nodes()) {
    if (!entry.IsUp()) continue;
    std::set<int32_t> busy;
    const bool all_busy = !FindBusy(entry, state, viewer, &busy);  // one of them, unknown which
    Place& place = places_[name.value()];
    place.node.name = name.value();
    place.node.failure_domain = entry.report.node().failure_domain();
    place.node.spare = entry.state == v1::NODE_STATE_SPARE;
    place.closed = closed.contains(name.value());
    for (const v1::Device& device : entry.report.node().devices()) {
      const std::pair key(name.value(), device.index());
      ++place.devices;
      if (held.contains(key)) {
        ++place.held;
      } else if (!all_busy && !busy.contains(device.index()) &&
                 (!place.closed || own.contains(key))) {
        place.node.free_devices.push_back(device.index());
      }
    }
    std::sort(place.node.free_devices.begin(), place.node.free_devices.end());
  }
}

std::vector<FreeNode> DeviceMap::Free(Use use, const std::set<std::string>& only) const {
  std::vector<FreeNode> free;
  for (const auto& [name, place] : places_) {
    if (place.node.spare && use == Use::kReadyOnly) continue;
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
    if (place.closed) continue;
    if (!place.node.spare || use == Use::kWithSpares) count += place.devices;
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

void SetResume(const DurableJob& job, v1::Plan* plan) {
  plan->clear_resume();
  if (job.checkpoint.step() > 0 && !job.checkpoint.manifest().empty()) {
    plan->mutable_resume()->set_step(job.checkpoint.step());
    plan->mutable_resume()->set_manifest(job.checkpoint.manifest());
    if (FATHOM_PLANT(kResumeNotDurable)) plan->mutable_resume()->mutable_manifest()->append("~");
  } else if (!job.resume_from.manifest().empty()) {
    *plan->mutable_resume() = job.resume_from;
  }
}

absl::StatusOr<v1::Plan> Finished(const PlanningFunctions& planning, const DurableJob& job,
                                  uint64_t epoch, const std::vector<FreeNode>& nodes,
                                  v1::Plan plan) {
  SetResume(job, &plan);
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

absl::StatusOr<v1::Plan> PlanOn(const PlanningFunctions& planning, const DurableJob& job,
                                uint64_t epoch, const std::vector<FreeNode>& nodes) {
  FATHOM_ASSIGN_OR_RETURN(v1::Plan plan,
                          planning.make_plan(job.id.value(), epoch, job.job->spec(), nodes));
  return Finished(planning, job, epoch, nodes, std::move(plan));
}

}  // namespace fathom
