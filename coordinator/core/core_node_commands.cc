// Commands about nodes: drain, undrain, cordon, preflight. And what they change: which nodes take
// ranks.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/limits.h"
#include "common/base/planted.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr char kDrained[] = "NodeDraining";
constexpr char kUndrained[] = "NodeUndrained";
constexpr char kCordoned[] = "NodeCordoned";
constexpr char kPreflight[] = "PreflightRequested";
constexpr double kMaxDeadlineS = 30 * 86'400;

}  // namespace

// --- Which nodes take ranks ---

std::string CoordinatorCore::WhyClosed(const NodeName& name) const {
  const NodeEntry* entry = nodes_.Find(name);
  if (entry == nullptr) return "it has never reported";
  if (!entry->IsUp()) return absl::StrCat("it is ", NameOfState(entry->state));
  return WhyClosed(*entry, *state_.FindNode(name));
}

std::string CoordinatorCore::WhyClosed(const NodeEntry& entry, const DurableNode& node) const {
  const std::string because =
      node.admin.reason().empty() ? "" : absl::StrCat(" (", node.admin.reason(), ")");
  if (node.admin.draining()) return absl::StrCat("it is being drained", because);
  if (node.admin.cordoned()) return absl::StrCat("it is cordoned", because);
  if (!options_.require_preflight) return "";
  const bool reported = entry.report.has_preflight() && entry.report.preflight().finished_ms() > 0;
  const v1::PreflightReport& newest = reported ? entry.report.preflight() : node.preflight;
  if (newest.passed()) return "";
  return newest.finished_ms() == 0 ? "it has passed no preflight yet"
                                   : absl::StrCat("its preflight failed: ", newest.verdict());
}

bool CoordinatorCore::TakesRanks(const NodeName& node) const { return WhyClosed(node).empty(); }

std::set<std::string> CoordinatorCore::ClosedNodes() const {
  std::set<std::string> closed;
  if (!options_.require_preflight) {
    for (const auto& [name, node] : state_.nodes()) {
      if (FATHOM_PLANT(kDrainedNodeGetsRanks)) continue;
      if (node->admin.cordoned() || node->admin.draining()) closed.insert(name.value());
    }
    return closed;
  }
  for (const auto& [name, entry] : nodes_.nodes()) {
    if (!entry.IsUp()) continue;
    if (!WhyClosed(entry, *state_.FindNode(name)).empty()) closed.insert(name.value());
  }
  return closed;
}

bool CoordinatorCore::HasRanks(const NodeName& node) const { return jobs_on_.contains(node); }

absl::StatusOr<NodeName> CoordinatorCore::NodeNamed(const std::string& name) const {
  if (nodes_.Find(NodeName(name)) != nullptr || state_.nodes().contains(NodeName(name))) {
    return NodeName(name);
  }
  return absl::NotFoundError(absl::StrCat("there is no node '", CutText(name, 100), "'"));
}

// --- Drain ---

absl::StatusOr<v1::DrainNodeResponse> CoordinatorCore::Drain(const v1::DrainNodeRequest& request,
                                                             Moment now) {
  RefreshGangs(now);
  v1::DrainNodeResponse response;
  const NodeName node(request.node());
  FATHOM_ASSIGN_OR_RETURN(const AppliedCommand* applied,
                          FindApplied(request.dry_run() ? "" : request.request_id(), kDrained));
  if (applied != nullptr) {
    FillDrained(applied->node, state_.FindNode(applied->node)->admin.replacement(), &response);
    return response;
  }
  FATHOM_RETURN_IF_ERROR(NodeNamed(request.node()).status());
  FATHOM_RETURN_IF_ERROR(CheckDrain(request));
  if (request.dry_run()) {
    FillDrained(node, request.replacement(), &response);
    return response;
  }
  v1::NodeAdmin admin;
  admin.set_draining(true);
  admin.set_reason(CutText(request.reason(), limits::kMaxTextBytes));
  admin.set_actor(ActorOf(request.actor()));
  admin.set_replacement(request.replacement());
  if (request.deadline_s() > 0) {
    admin.set_deadline_ms(now.wall_ms + static_cast<int64_t>(request.deadline_s() * 1000));
  }
  StartDrain(node, std::move(admin), request.request_id(), now);
  FillDrained(node, request.replacement(), &response);
  Decide(now);
  return response;
}

absl::Status CoordinatorCore::CheckDrain(const v1::DrainNodeRequest& request) const {
  if (!(request.deadline_s() >= 0 && request.deadline_s() <= kMaxDeadlineS)) {
    return absl::InvalidArgumentError("deadline_s is negative or more than 30 days");
  }
  const NodeName node(request.node());
  if (state_.FindNode(node)->admin.draining()) {
    return absl::FailedPreconditionError(
        absl::StrCat("node ", node.value(),
                     " is being drained already; undrain it first to "
                     "change how"));
  }
  const std::string& named = request.replacement();
  if (named.empty()) return absl::OkStatus();
  const auto refuse = [&](const std::string& why) {
    return absl::FailedPreconditionError(absl::StrCat(
        "node ", CutText(named, 100), " can't take the ranks of ", node.value(), ": ", why));
  };
  if (named == node.value()) return refuse("it is the same node");
  const std::string closed = WhyClosed(NodeName(named));
  if (!closed.empty()) return refuse(closed);
  int64_t needed = 0;
  const auto here = jobs_on_.find(node);
  if (here == jobs_on_.end()) return absl::OkStatus();
  for (const JobId& id : here->second) {
    const Gang* gang = FindGang(id);
    if (gang == nullptr || !gang->ranks_on().contains(node.value())) continue;
    needed += static_cast<int64_t>(gang->ranks_on().at(node.value()).size());
  }
  int64_t free = 0;
  for (const FreeNode& other : DevicesFor(JobId(), false).Free(DeviceMap::Use::kWithSpares)) {
    if (other.name == named) free = static_cast<int64_t>(other.free_devices.size());
  }
  if (free >= needed) return absl::OkStatus();
  return refuse(absl::StrCat(needed, " devices are needed, ", free, " are free there"));
}

void CoordinatorCore::FillDrained(const NodeName& node, const std::string& replacement,
                                  v1::DrainNodeResponse* response) const {
  int without = 0;
  for (v1::DrainedJob& job : WhereTo(node, replacement)) {
    without += job.to().empty();
    *response->add_jobs() = std::move(job);
  }
  if (response->jobs().empty()) {
    response->set_note("it has no ranks");
  } else if (without > 0) {
    response->set_note(absl::StrCat("for ", without,
                                    " of its jobs no place is free; their ranks stay until there "
                                    "is one: add a node or a spare, or end another job"));
  }
}

std::vector<v1::DrainedJob> CoordinatorCore::WhereTo(const NodeName& node,
                                                     const std::string& replacement) const {
  std::vector<v1::DrainedJob> drained;
  const auto here = jobs_on_.find(node);
  if (here == jobs_on_.end()) return drained;
  for (const JobId& id : here->second) {
    const auto job = state_.Find(id);
    const Gang* gang = FindGang(id);
    if (gang == nullptr || !gang->ranks_on().contains(node.value())) continue;
    v1::DrainedJob& one = drained.emplace_back();
    one.set_job(id.value());
    one.set_ranks(static_cast<int64_t>(gang->ranks_on().at(node.value()).size()));
    const DeviceMap devices = DevicesFor(id, false);
    ReplanInput input = InputFor(*job, job->last_epoch + 1, devices);
    input.vacate = DrainingOf(*job, false);
    input.vacate.insert(node.value());
    if (!replacement.empty()) input.successor[node.value()] = replacement;
    const absl::StatusOr<v1::Plan> plan = options_.planning.replan(input);
    if (!plan.ok()) {
      one.set_note(std::string(plan.status().message()));
      continue;
    }
    std::set<std::string> to;
    for (const int32_t rank : gang->ranks_on().at(node.value()))
      to.insert(plan->ranks(rank).node());
    for (const std::string& name : to) one.add_to(name);
    if (job->state != v1::JOB_STATE_RUNNING) {
      one.set_note(absl::StrCat("once it runs; it is ", NameOfState(job->state)));
    } else if (job->next_plan != nullptr) {
      one.set_note("after the change that is under way");
    }
  }
  return drained;
}

void CoordinatorCore::StartDrain(const NodeName& node, v1::NodeAdmin admin,
                                 const std::string& request_id, Moment now) {
  admin.set_draining(true);
  admin.set_cordoned(true);
  admin.set_since_ms(now.wall_ms);
  const std::string actor = admin.actor();
  std::string message = absl::StrCat("its ranks are to leave, asked by ", actor);
  if (!admin.reason().empty()) absl::StrAppend(&message, ": ", admin.reason());
  if (!admin.replacement().empty()) {
    absl::StrAppend(&message, "; node ", admin.replacement(), " is to take them");
  }
  v1::NodeChange change;
  *change.mutable_admin() = std::move(admin);
  change.set_request_id(request_id);
  ChangeNode(node, kDrained, message, std::move(change), now, actor);
  TouchJobsOn(node);
}

absl::StatusOr<v1::UndrainNodeResponse> CoordinatorCore::Undrain(
    const v1::UndrainNodeRequest& request, Moment now) {
  RefreshGangs(now);
  v1::UndrainNodeResponse response;
  FATHOM_ASSIGN_OR_RETURN(const AppliedCommand* applied,
                          FindApplied(request.request_id(), kUndrained));
  if (applied != nullptr) return response;
  FATHOM_ASSIGN_OR_RETURN(const NodeName node, NodeNamed(request.node()));
  const v1::NodeAdmin admin = state_.FindNode(node)->admin;
  if (!admin.draining() && !admin.cordoned()) {
    return absl::FailedPreconditionError(
        absl::StrCat("node ", node.value(), " is neither drained nor cordoned"));
  }
  const std::string actor = ActorOf(request.actor());
  v1::NodeChange change;
  change.set_drop_admin(true);
  change.set_request_id(request.request_id());
  ChangeNode(node, kUndrained, absl::StrCat("takes ranks again, asked by ", actor),
             std::move(change), now, actor);
  TouchJobsOn(node);
  response.set_note(HasRanks(node) ? "ranks that have not left it stay"
                                   : "it has no ranks and may be given some");
  const NodeEntry* entry = nodes_.Find(node);
  if (entry == nullptr || !entry->IsUp()) response.set_note("it is not up");
  Decide(now);
  return response;
}

absl::StatusOr<v1::CordonNodeResponse> CoordinatorCore::Cordon(const v1::CordonNodeRequest& request,
                                                               Moment now) {
  RefreshGangs(now);
  v1::CordonNodeResponse response;
  FATHOM_ASSIGN_OR_RETURN(const AppliedCommand* applied,
                          FindApplied(request.request_id(), kCordoned));
  if (applied != nullptr) return response;
  FATHOM_ASSIGN_OR_RETURN(const NodeName node, NodeNamed(request.node()));
  const v1::NodeAdmin& admin = state_.FindNode(node)->admin;
  if (admin.draining() || admin.cordoned()) {
    response.set_note(admin.draining() ? "it is being drained, so it gets no ranks anyway"
                                       : "it was cordoned already");
    return response;
  }
  CordonNode(node, CutText(request.reason(), limits::kMaxTextBytes), ActorOf(request.actor()),
             request.request_id(), now);
  response.set_note(HasRanks(node) ? "the ranks it has stay; drain it to move them"
                                   : "it has no ranks");
  Decide(now);
  return response;
}

void CoordinatorCore::CordonNode(const NodeName& node, const std::string& reason,
                                 const std::string& actor, const std::string& request_id,
                                 Moment now) {
  v1::NodeChange change;
  change.mutable_admin()->set_cordoned(true);
  change.mutable_admin()->set_reason(reason);
  change.mutable_admin()->set_actor(actor);
  change.mutable_admin()->set_since_ms(now.wall_ms);
  change.set_request_id(request_id);
  ChangeNode(node, kCordoned,
             absl::StrCat("gets no new ranks, asked by ", actor,
                          reason.empty() ? "" : absl::StrCat(": ", reason)),
             std::move(change), now, actor);
  TouchJobsOn(node);
}

// A next plan may have to be chosen anew.
void CoordinatorCore::TouchJobsOn(const NodeName& node) {
  const auto here = jobs_on_.find(node);
  if (here != jobs_on_.end()) touched_.insert(here->second.begin(), here->second.end());
}

absl::StatusOr<v1::PreflightNodeResponse> CoordinatorCore::Preflight(
    const v1::PreflightNodeRequest& request, Moment now) {
  RefreshGangs(now);
  v1::PreflightNodeResponse response;
  FATHOM_ASSIGN_OR_RETURN(const AppliedCommand* applied,
                          FindApplied(request.request_id(), kPreflight));
  if (applied != nullptr) {
    response.set_id(state_.FindNode(applied->node)->preflight_request);
    return response;
  }
  FATHOM_ASSIGN_OR_RETURN(const NodeName node, NodeNamed(request.node()));
  const auto refuse = [&](const std::string& why) {
    return absl::FailedPreconditionError(absl::StrCat("node ", node.value(), " ", why));
  };
  if (!nodes_.IsUp(node)) return refuse("is not up");
  if (HasRanks(node) || HasLiveRank(nodes_.Find(node)->report)) {
    return refuse("has ranks, which a preflight would slow down; drain it first");
  }
  const std::string actor = ActorOf(request.actor());
  response.set_id(absl::StrCat("preflight-", state_.sequence() + 1));
  v1::NodeChange change;
  change.set_preflight_request(response.id());
  change.set_request_id(request.request_id());
  ChangeNode(node, kPreflight, absl::StrCat(response.id(), " asked by ", actor), std::move(change),
             now, actor);
  preflights_due_.insert(node);
  Decide(now);
  return response;
}

}  // namespace fathom
