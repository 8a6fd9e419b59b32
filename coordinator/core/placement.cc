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

int64_t NumberOf(const DurableState& state, const JobId& id) {
  const auto job = state.Find(id);
  return job == nullptr ? 0 : job->number;
}

bool OfAnother(const std::vector<int64_t>& jobs, int64_t viewer) {
  return std::any_of(jobs.begin(), jobs.end(), [&](int64_t job) { return job != viewer; });
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

// --- DeviceUse ---

DeviceUse::DeviceUse(const NodeTable& nodes, const DurableState& state,
                     const std::set<std::string>& closed) {
  for (const auto& [name, entry] : nodes.nodes()) {
    if (!entry.IsUp()) continue;
    place_of_[name.value()] = nodes_.size();
    Node& node = nodes_.emplace_back();
    node.name = name.value();
    node.failure_domain = entry.report.node().failure_domain();
    node.leaf = entry.report.node().leaf();
    node.spare = entry.state == v1::NODE_STATE_SPARE;
    node.closed = closed.contains(name.value());
    for (const v1::Device& device : entry.report.node().devices()) {
      node.devices.emplace_back().index = device.index();
    }
    std::sort(node.devices.begin(), node.devices.end(),
              [](const Device& a, const Device& b) { return a.index < b.index; });
    NoteBusy(entry, state, &node);
  }
  for (const auto& [number, job] : state.unfinished()) {
    if (!IsActive(job->state)) continue;
    Hold(job->plan.get(), {number, !job->HasCurrentPlan(), false});
    Hold(job->next_plan.get(), {number, !job->HasCurrentPlan(), true});
  }
}

void DeviceUse::Hold(const v1::Plan* plan, const Holder& holder) {
  if (plan == nullptr) return;
  for (const v1::RankAssignment& rank : plan->ranks()) {
    const auto place = place_of_.find(rank.node());
    if (place == place_of_.end()) continue;
    for (Device& device : nodes_[place->second].devices) {
      if (device.index == rank.device()) device.holders.push_back(holder);
    }
  }
}

void DeviceUse::NoteBusy(const NodeEntry& entry, const DurableState& state, Node* node) {
  for (const v1::RankStatus& rank : entry.report.ranks()) {
    if (!IsLive(rank.state())) continue;
    const auto job = state.Find(JobId(rank.job()));
    const v1::Plan* plan = job == nullptr ? nullptr : job->PlanOf(rank.epoch());
    if (plan == nullptr || rank.rank() < 0 || rank.rank() >= plan->ranks_size()) {
      node->unknown.push_back(job == nullptr ? -1 : job->number);
      continue;
    }
    for (Device& device : node->devices) {
      if (device.index == plan->ranks(rank.rank()).device()) device.busy.push_back(job->number);
    }
  }
}

// --- DeviceMap ---

DeviceMap::DeviceMap(const NodeTable& nodes, const DurableState& state, const JobId& viewer,
                     bool over_claims, const std::set<std::string>& closed)
    : DeviceMap(DeviceUse(nodes, state, closed), NumberOf(state, viewer), over_claims) {}

DeviceMap::DeviceMap(const DeviceUse& use, int64_t viewer, bool over_claims) {
  for (const DeviceUse::Node& node : use.nodes_) {
    Place& place = places_.emplace_hint(places_.end(), node.name, Place())->second;
    place.node.name = node.name;
    place.node.failure_domain = node.failure_domain;
    place.node.leaf = node.leaf;
    place.node.spare = node.spare;
    place.closed = node.closed;
    const bool all_busy = OfAnother(node.unknown, viewer);
    for (const DeviceUse::Device& device : node.devices) {
      ++place.devices;
      bool held = false;
      bool own = false;
      for (const DeviceUse::Holder& holder : device.holders) {
        held = held || (holder.job != viewer && !(holder.claim && over_claims));
        own = own || (holder.job == viewer && !holder.next);
      }
      if (held) {
        ++place.held;
      } else if (!all_busy && !OfAnother(device.busy, viewer) && (!node.closed || own)) {
        place.node.free_devices.push_back(device.index);
      }
    }
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
  for (const auto& [name, place] : places_) {
    if (place.node.spare && use == Use::kReadyOnly) continue;
    count += static_cast<int64_t>(place.node.free_devices.size());
  }
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

void DeviceMap::Hold(const v1::Plan& plan) {
  for (const v1::RankAssignment& rank : plan.ranks()) {
    const auto place = places_.find(rank.node());
    if (place == places_.end()) continue;
    ++place->second.held;
    std::erase(place->second.node.free_devices, rank.device());
  }
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
  std::map<absl::string_view, const std::vector<int32_t>*> free;
  for (const FreeNode& node : nodes) free.emplace(node.name, &node.free_devices);
  std::set<std::pair<absl::string_view, int32_t>> taken;
  for (int i = 0; i < plan.ranks_size(); ++i) {
    const v1::RankAssignment& rank = plan.ranks(i);
    const auto node = free.find(rank.node());
    const bool is_free =
        node != free.end() &&
        std::binary_search(node->second->begin(), node->second->end(), rank.device()) &&
        taken.emplace(rank.node(), rank.device()).second;
    if (rank.rank() != i || !is_free) {
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
