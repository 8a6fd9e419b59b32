// Who gets devices: jobs that recover first, then the queue.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

std::string DevicesAsText(const std::vector<FreeNode>& nodes) {
  std::string text;
  for (const FreeNode& node : nodes) {
    absl::StrAppend(&text, node.name, ":");
    for (const int32_t device : node.free_devices) absl::StrAppend(&text, device, ",");
    text += ';';
  }
  return text;
}

}  // namespace

// Recovering jobs come first, oldest first; then the queue, strictly in order.
void CoordinatorCore::PlaceWaitingJobs(Moment now) {
  std::vector<std::shared_ptr<const DurableJob>> recovering;
  std::vector<std::shared_ptr<const DurableJob>> pending;
  for (const auto& [number, job] : state_.jobs()) {
    if (job->state == v1::JOB_STATE_RECOVERING && !job->HasCurrentPlan()) recovering.push_back(job);
    if (job->state == v1::JOB_STATE_PENDING) pending.push_back(job);
  }
  waiting_.clear();
  std::string blocker;
  for (const auto& job : recovering) {
    std::string reason = TryToPlace(*job, blocker.empty(), now);
    if (reason.empty()) continue;
    waiting_[job->id] = std::move(reason);
    if (blocker.empty()) blocker = job->id.value();
  }
  int position = static_cast<int>(waiting_.size());
  for (const auto& job : pending) {
    std::string reason;
    if (!blocker.empty()) {
      reason = absl::StrCat("behind ", blocker, ", which waits for devices; place ", position + 1,
                            " in the queue");
    } else {
      reason = TryToPlace(*job, true, now);
      if (!reason.empty()) blocker = job->id.value();
    }
    if (reason.empty()) continue;
    waiting_[job->id] = std::move(reason);
    ++position;
  }
  for (auto it = hopeless_.begin(); it != hopeless_.end();) {
    it = waiting_.contains(it->first) ? std::next(it) : hopeless_.erase(it);
  }
}

std::string CoordinatorCore::TryToPlace(const DurableJob& job, bool first_in_line, Moment now) {
  const bool recovering = job.state == v1::JOB_STATE_RECOVERING;
  const uint64_t epoch = recovering ? job.epoch : 1;
  const DeviceMap devices(nodes_, state_.jobs(), job.id, first_in_line && recovering);
  const std::string free = DevicesAsText(devices.Free(DeviceMap::Use::kWithSpares));
  const auto tried = hopeless_.find(job.id);
  if (tried != hopeless_.end() && tried->second.devices == free) return tried->second.reason;
  absl::StatusOr<v1::Plan> plan = FindPlan(job, epoch, first_in_line);
  if (!plan.ok()) {
    std::string reason(plan.status().message());
    hopeless_[job.id] = {free, reason};
    return reason;
  }
  v1::JobChange change;
  if (!recovering) {
    change.set_state(v1::JOB_STATE_STARTING);
    change.set_epoch(epoch);
  }
  std::set<std::string> names;
  for (const v1::RankAssignment& rank : plan->ranks()) names.insert(rank.node());
  std::string message =
      absl::StrCat("epoch ", epoch, ": ", plan->ranks_size(), " ranks on ", names.size(), " nodes");
  if (plan->has_resume()) {
    absl::StrAppend(&message, ", from the checkpoint of step ", plan->resume().step());
  } else {
    absl::StrAppend(&message, ", from initial weights");
  }
  *change.mutable_plan() = *std::move(plan);
  ChangeJob(job, "PlanMade", message, std::move(change), now);
  return "";
}

// A new job goes on ready nodes. One that recovers stays on the nodes it had if it can, then takes
// spares, then whatever is free.
absl::StatusOr<v1::Plan> CoordinatorCore::FindPlan(const DurableJob& job, uint64_t epoch,
                                                   bool first_in_line) const {
  const int64_t needed = RanksOf(job.job->spec());
  const bool recovering = job.state == v1::JOB_STATE_RECOVERING;
  const auto use = recovering ? DeviceMap::Use::kWithSpares : DeviceMap::Use::kReadyOnly;
  const DeviceMap devices(nodes_, state_.jobs(), job.id, false);
  std::vector<std::vector<FreeNode>> choices;
  if (recovering && job.plan != nullptr) {
    std::set<std::string> former;
    for (const v1::RankAssignment& rank : job.plan->ranks()) former.insert(rank.node());
    choices.push_back(devices.Free(use, former));
    for (const auto& [name, entry] : nodes_.nodes()) {
      if (entry.state == v1::NODE_STATE_SPARE) former.insert(name.value());
    }
    choices.push_back(devices.Free(use, former));
  }
  choices.push_back(devices.Free(use));
  if (recovering && first_in_line) {
    choices.push_back(DeviceMap(nodes_, state_.jobs(), job.id, true).Free(use));
  }
  absl::Status why = absl::ResourceExhaustedError(ShortageReason(needed, devices, use));
  for (const std::vector<FreeNode>& nodes : choices) {
    int64_t free = 0;
    for (const FreeNode& node : nodes) free += static_cast<int64_t>(node.free_devices.size());
    if (free < needed) continue;
    absl::StatusOr<v1::Plan> plan = PlanOn(options_.planning, job, epoch, nodes);
    if (plan.ok()) return plan;
    why = WithContext(plan.status(), "cannot be planned on the free devices");
  }
  return why;
}

}  // namespace fathom
