// Where a job that gets devices is placed.
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

std::string CoordinatorCore::TryToPlace(const DurableJob& job, bool first_in_line, DeviceMap* open,
                                        Moment now) {
  const bool recovering = job.state == v1::JOB_STATE_RECOVERING;
  const uint64_t epoch = recovering ? job.epoch : job.last_epoch + 1;
  // Of a job that ran before, processes may be left that are in nobody's way but others'.
  const bool never_ran = !recovering && job.last_epoch == 0;
  const auto free = [&] {
    if (never_ran) return TextOf(*open, job);
    return TextOf(DevicesFor(job.id, first_in_line && recovering), job);
  };
  const auto tried = hopeless_.find(job.id);
  if (tried != hopeless_.end() && tried->second.devices == free()) return tried->second.reason;
  absl::StatusOr<v1::Plan> plan = recovering  ? FindNextOf(job, first_in_line)
                                  : never_ran ? FindPlanIn(*open, job, epoch)
                                              : FindPlan(job, epoch);
  if (!plan.ok()) {
    std::string reason(plan.status().message());
    hopeless_[job.id] = {free(), reason};
    return reason;
  }
  if (open != nullptr) open->Hold(*plan);
  v1::JobChange change;
  if (!recovering) {
    change.set_state(v1::JOB_STATE_STARTING);
    change.set_epoch(epoch);
    change.set_best_step(job.best_step);
  } else if (const v1::RecoveryRecord* begun = job.RecoveryOf(epoch)) {
    *change.mutable_recovery() = *begun;
    // Of a wait the end can't be told from inside: the new plan is what it waited for.
    NotePlan(*plan, job.plan.get(), now, change.mutable_recovery());
  }
  std::set<std::string> names;
  for (const v1::RankAssignment& rank : plan->ranks()) names.insert(rank.node());
  std::string message =
      absl::StrCat("epoch ", epoch, ": ", plan->ranks_size(), " ranks on ", names.size(), " nodes");
  const int32_t replicas = plan->spec().parallelism().replicas();
  if (replicas < job.job->spec().parallelism().replicas()) {
    absl::StrAppend(&message, ", ", replicas, " of ", job.job->spec().parallelism().replicas(),
                    " replicas");
  }
  if (plan->has_resume()) {
    absl::StrAppend(&message, ", from ", recovering ? "memory or " : "", "the checkpoint of step ",
                    plan->resume().step());
  } else {
    absl::StrAppend(&message, ", from ", recovering ? "memory or " : "", "initial weights");
  }
  *change.mutable_plan() = *std::move(plan);
  ChangeJob(job, "PlanMade", message, std::move(change), now);
  return "";
}

DeviceMap CoordinatorCore::DevicesFor(const JobId& viewer, bool over_claims) const {
  const std::pair seen(state_.sequence(), nodes_.version());
  if (!device_use_.has_value() || device_use_seen_ != seen) {
    device_use_.emplace(nodes_, state_, ClosedNodes());
    device_use_seen_ = seen;
  }
  const auto job = state_.Find(viewer);
  return {*device_use_, job == nullptr ? 0 : job->number, over_claims};
}

std::string CoordinatorCore::TextOf(const DeviceMap& devices, const DurableJob& job) const {
  std::string text = DevicesAsText(devices.Free(DeviceMap::Use::kWithSpares));
  for (const std::string& node : DrainingOf(job, false)) {
    absl::StrAppend(&text, " drain ", node, " ",
                    state_.FindNode(NodeName(node))->admin.replacement());
  }
  for (const std::string& node : DrainingOf(job, true)) absl::StrAppend(&text, " overdue ", node);
  for (const auto& [node, until] : shunned_until_) absl::StrAppend(&text, " shun ", node.value());
  return text;
}

std::set<std::string> CoordinatorCore::DrainingOf(const DurableJob& job, bool only_overdue) const {
  std::set<std::string> draining;
  if (job.plan == nullptr) return draining;
  for (const auto& [name, node] : state_.nodes()) {
    if (!node->admin.draining()) continue;
    const int64_t deadline_ms = node->admin.deadline_ms();
    const bool overdue = deadline_ms != 0 && last_decided_.wall_ms >= deadline_ms;
    if (overdue || !only_overdue) draining.insert(name.value());
  }
  return draining;
}

ReplanInput CoordinatorCore::InputFor(const DurableJob& job, uint64_t epoch,
                                      const DeviceMap& devices) const {
  ReplanInput input;
  input.previous = job.plan.get();
  input.epoch = epoch;
  input.asked = &job.job->spec();
  input.free = devices.Free(DeviceMap::Use::kWithSpares);
  for (const auto& [name, node] : state_.nodes()) {
    const std::string& named = node->admin.replacement();
    if (!named.empty()) input.successor[name.value()] = named;
  }
  return input;
}

// One that recovers keeps what it can of its last plan.
absl::StatusOr<v1::Plan> CoordinatorCore::FindNextOf(const DurableJob& job,
                                                     bool first_in_line) const {
  if (job.plan == nullptr) return FindPlan(job, job.epoch);
  absl::StatusOr<v1::Plan> plan = FindRecoveryPlan(job, false);
  if (plan.ok() || !first_in_line) return plan;
  absl::StatusOr<v1::Plan> over_claims = FindRecoveryPlan(job, true);
  return over_claims.ok() ? over_claims : plan;
}

absl::StatusOr<v1::Plan> CoordinatorCore::FindPlan(const DurableJob& job, uint64_t epoch) const {
  return FindPlanIn(DevicesFor(job.id, false), job, epoch);
}

// A new job goes on ready nodes.
absl::StatusOr<v1::Plan> CoordinatorCore::FindPlanIn(const DeviceMap& devices,
                                                     const DurableJob& job, uint64_t epoch) const {
  constexpr auto kUse = DeviceMap::Use::kReadyOnly;
  const int64_t needed = RanksOf(job.job->spec());
  if (devices.CountFree(kUse) < needed) {
    return absl::ResourceExhaustedError(ShortageReason(needed, devices, kUse));
  }
  absl::StatusOr<v1::Plan> plan = PlanOn(options_.planning, job, epoch, devices.Free(kUse));
  if (plan.ok()) return plan;
  return WithContext(plan.status(), "cannot be planned on the free devices");
}

absl::StatusOr<v1::Plan> CoordinatorCore::FindRecoveryPlan(const DurableJob& job,
                                                           bool over_claims) const {
  const DeviceMap devices = DevicesFor(job.id, over_claims);
  ReplanInput input = InputFor(job, job.epoch, devices);
  const std::set<std::string> overdue = DrainingOf(job, true);
  const v1::JobSpec& asked = job.job->spec();
  const bool may_shed = asked.parallelism().replicas() > 1 &&
                        (!asked.recovery().has_shed_replicas() || asked.recovery().shed_replicas());
  absl::Status why;
  for (const auto& [vacate, shed] : {std::pair(DrainingOf(job, false), false),
                                     std::pair(overdue, false), std::pair(overdue, true)}) {
    if (shed && !may_shed) continue;
    input.vacate = vacate;
    absl::StatusOr<v1::Plan> plan =
        shed ? options_.planning.reshape(input) : options_.planning.replan(input);
    if (plan.ok()) {
      plan = Finished(options_.planning, job, job.epoch, input.free, *std::move(plan));
    }
    if (plan.ok()) return plan;
    if (why.ok() || shed) why = plan.status();
  }
  if (!absl::IsResourceExhausted(why)) {
    return WithContext(why, "cannot be planned on the free devices");
  }
  constexpr auto kUse = DeviceMap::Use::kWithSpares;
  const int64_t needed = job.plan->ranks_size();
  if (devices.CountFree(kUse) >= needed) return why;
  return absl::ResourceExhaustedError(ShortageReason(needed, devices, kUse));
}

}  // namespace fathom
