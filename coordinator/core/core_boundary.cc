// Changes at a step boundary: the present epoch goes on while the next one is prepared. For drains,
// replacements, and replicas that grow back.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/planted.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr char kStateChanged[] = "JobStateChanged";
constexpr double kDefaultStartTimeoutS = 120;
constexpr int64_t kRetryMs = 2'000;  // after a change that came to nothing
constexpr int64_t kShunMs = 60'000;  // a node on which a prepared rank failed

std::set<std::string> NodesOf(const v1::Plan& plan) {
  std::set<std::string> nodes;
  for (const v1::RankAssignment& rank : plan.ranks()) nodes.insert(rank.node());
  return nodes;
}

}  // namespace

// --- A next plan that is under way ---

bool CoordinatorCore::AdvanceNextPlan(const DurableJob& job, Moment now) {
  const Gang* next = FindNextGang(job.id);
  if (next == nullptr) return false;
  // Any of these says that every rank has left the present epoch, at one and the same step.
  const bool left = next->CountOf(v1::RANK_STATE_TRAINING) > 0 ||
                    next->CountOf(v1::RANK_STATE_FINISHED) > 0 ||
                    next->CountOf(v1::RANK_STATE_HELD) > 0 || next->AllLoad() ||
                    (FATHOM_PLANT(kPromotedTooEarly) && next->AllListen());
  if (left) {
    PromoteNextPlan(job, now);
    return true;
  }
  std::string flaw = FlawOfNextPlan(job);
  if (flaw.empty() && job.park != nullptr && !next->AllListen())
    flaw = "the job is to give its devices back";
  const double given_s = job.job->spec().restart().start_timeout_s();
  const double timeout_s = given_s > 0 ? given_s : kDefaultStartTimeoutS;
  const bool late = !next->AllListen() &&
                    static_cast<double>(now.steady_ms - next->since_steady_ms()) > 1000 * timeout_s;
  if (flaw.empty() && late) {
    flaw =
        absl::StrFormat("not all its ranks listened within %g s: %s", timeout_s, next->Laggard());
  }
  if (flaw.empty()) return false;
  // A lost node is no candidate any more; a rank that failed may fail again.
  const bool by_rank = next->failure() != nullptr && next->failure()->cause != "node_lost";
  if (by_rank || late) {
    change_not_before_[job.id] = now.steady_ms + kRetryMs;
    const std::string node = next->failure() == nullptr ? "" : next->failure()->node;
    const Gang* present = FindGang(job.id);
    if (!node.empty() && !present->ranks_on().contains(node)) {
      shunned_until_[NodeName(node)] = now.steady_ms + kShunMs;
    }
  }
  v1::JobChange change;
  change.set_drop_next_plan(true);
  ChangeJob(job, "NextPlanDropped",
            absl::StrCat("epoch ", job.next_plan->epoch(), " is not taken: ", flaw),
            std::move(change), now);
  // The present epoch may have failed as well; that is judged without the next plan.
  return true;
}

std::string CoordinatorCore::FlawOfNextPlan(const DurableJob& job) const {
  const Gang* next = FindNextGang(job.id);
  const Gang* present = FindGang(job.id);
  if (next == nullptr || present == nullptr) return "it is not known yet";
  for (const auto& [name, ranks] : next->ranks_on()) {
    const NodeEntry* entry = nodes_.Find(NodeName(name));
    if (entry != nullptr && entry->state == v1::NODE_STATE_EXPECTED) continue;
    if (entry == nullptr || !entry->IsUp()) return absl::StrCat("node ", name, " was lost");
    if (present->ranks_on().contains(name) || next->AllListen()) continue;
    const std::string closed = WhyClosed(NodeName(name));
    if (!closed.empty()) return absl::StrCat("node ", name, " can't take ranks: ", closed);
  }
  if (next->failure() != nullptr) return next->failure()->message;
  // Its ranks may know each other by now, and have left: a change of mind comes too late.
  if (next->AllListen()) return "";
  const v1::RecoveryRecord* recovery = job.RecoveryOf(job.next_plan->epoch());
  if (recovery == nullptr || recovery->cause() == "grow") return "";
  for (const std::string& node : recovery->lost_nodes()) {
    if (!state_.FindNode(NodeName(node))->admin.draining()) {
      return absl::StrCat("node ", node, " is not drained any more");
    }
  }
  return "";
}

void CoordinatorCore::PromoteNextPlan(const DurableJob& job, Moment now) {
  const Gang& gang = gangs_.at(job.id);
  NoteLastStep(job, gang);
  const int64_t best = std::max(job.best_step, gang.best_step());
  v1::JobChange change;
  change.set_state(v1::JOB_STATE_RECOVERING);
  change.set_promote_next_plan(true);
  change.set_best_step(best);
  change.set_stalled_restarts(best > job.best_step ? 0 : job.stalled_restarts);
  const v1::RecoveryRecord* begun = job.RecoveryOf(job.next_plan->epoch());
  std::string cause = "change";
  if (begun != nullptr) {
    *change.mutable_recovery() = *begun;
    cause = begun->cause();
  }
  ChangeJob(job, kStateChanged,
            absl::StrCat("epoch ", job.epoch, " left at a step boundary (", cause, ") for epoch ",
                         job.next_plan->epoch()),
            std::move(change), now);
}

// --- Preparing one ---

void CoordinatorCore::PrepareChanges(Moment now) {
  for (auto it = shunned_until_.begin(); it != shunned_until_.end();) {
    it = it->second <= now.steady_ms ? shunned_until_.erase(it) : std::next(it);
  }
  std::vector<std::shared_ptr<const DurableJob>> running;
  for (const auto& [number, job] : state_.unfinished()) {
    const bool ready = job->state == v1::JOB_STATE_RUNNING && job->HasCurrentPlan() &&
                       job->next_plan == nullptr && job->park == nullptr;
    if (ready) running.push_back(job);
  }
  for (const auto& job : running) {
    const auto not_before = change_not_before_.find(job->id);
    if (not_before != change_not_before_.end() && now.steady_ms < not_before->second) continue;
    PrepareChange(*job, now);
  }
}

void CoordinatorCore::PrepareChange(const DurableJob& job, Moment now) {
  const Gang* gang = FindGang(job.id);
  if (gang == nullptr || gang->failure() != nullptr || gang->complaint() != nullptr) return;
  std::vector<std::pair<int64_t, std::string>> draining;  // the oldest drain first
  for (const auto& [name, ranks] : gang->ranks_on()) {
    const v1::NodeAdmin& admin = state_.FindNode(NodeName(name))->admin;
    if (admin.draining()) draining.emplace_back(admin.since_ms(), name);
  }
  std::sort(draining.begin(), draining.end());
  const v1::JobSpec& asked = job.job->spec();
  const bool degraded = job.plan->spec().parallelism().replicas() < asked.parallelism().replicas();
  if (draining.empty() && !degraded) {
    hopeless_change_.erase(job.id);
    return;
  }
  const bool too_soon = now.steady_ms - gang->since_steady_ms() < options_.grow_after_ms;
  if (draining.empty() && (too_soon || WaitsBefore(job) != nullptr)) return;
  const DeviceMap devices = DevicesFor(job.id, false);
  const std::string seen = TextOf(devices, job);
  const auto tried = hopeless_change_.find(job.id);
  if (tried != hopeless_change_.end() && tried->second.devices == seen) return;
  const uint64_t epoch = (FATHOM_PLANT(kEpochUsedAgain) ? job.epoch : job.last_epoch) + 1;
  ReplanInput input = InputFor(job, epoch, devices);
  // All of them together, else one after the other.
  std::vector<std::set<std::string>> choices(1);
  for (const auto& [since, name] : draining) choices[0].insert(name);
  if (draining.size() > 1) {
    for (const auto& [since, name] : draining) choices.push_back({name});
  }
  std::string why;
  for (const std::set<std::string>& vacate : choices) {
    if (vacate.empty()) break;
    input.vacate = Unusable(vacate, *gang);
    absl::StatusOr<v1::Plan> plan = options_.planning.replan(input);
    if (plan.ok()) {
      plan = Finished(options_.planning, job, epoch, input.free, *std::move(plan));
    }
    if (plan.ok()) {
      const std::string cause = DrainCause(*plan, vacate);
      return PrepareNext(job, *std::move(plan), cause, now);
    }
    if (why.empty()) why = std::string(plan.status().message());
  }
  if (draining.empty()) {
    input.vacate = Unusable({}, *gang);
    absl::StatusOr<v1::Plan> plan = options_.planning.reshape(input);
    const bool more = plan.ok() && plan->spec().parallelism().replicas() >
                                       job.plan->spec().parallelism().replicas();
    if (more) {
      plan = Finished(options_.planning, job, epoch, input.free, *std::move(plan));
      if (plan.ok()) return PrepareNext(job, *std::move(plan), "grow", now);
    }
    const int64_t each = RanksOf(asked) / asked.parallelism().replicas();
    const int64_t beyond = devices.CountFree(DeviceMap::Use::kWithSpares) - gang->Size();
    why = plan.ok() ? absl::StrCat("a replica takes ", each, " devices, ",
                                   std::max<int64_t>(beyond, 0), " are free beside its own")
                    : std::string(plan.status().message());
  }
  hopeless_change_[job.id] = {seen, why};
}

// Nodes that a change must not use: those to leave, and those where a prepared rank failed lately,
// unless it has ranks there already.
std::set<std::string> CoordinatorCore::Unusable(const std::set<std::string>& vacate,
                                                const Gang& gang) const {
  std::set<std::string> unusable = vacate;
  for (const auto& [node, until] : shunned_until_) {
    if (!gang.ranks_on().contains(node.value())) unusable.insert(node.value());
  }
  return unusable;
}

std::string CoordinatorCore::DrainCause(const v1::Plan& plan,
                                        const std::set<std::string>& vacate) const {
  const std::set<std::string> nodes = NodesOf(plan);
  for (const std::string& node : vacate) {
    const std::string& cause = state_.FindNode(NodeName(node))->admin.cause();
    if (!cause.empty()) return cause;
  }
  for (const std::string& node : vacate) {
    const std::string& named = state_.FindNode(NodeName(node))->admin.replacement();
    if (!named.empty() && nodes.contains(named)) return "replace";
  }
  return "drain";
}

std::shared_ptr<const DurableJob> CoordinatorCore::WaitsBefore(const DurableJob& job) const {
  for (const auto& [id, reason] : waiting_) {
    auto other = state_.Find(id);
    if (other == nullptr || other->id == job.id) continue;
    if (other->state == v1::JOB_STATE_RECOVERING) return other;
    if (other->job->spec().scheduling().priority() > job.job->spec().scheduling().priority()) {
      return other;
    }
  }
  return nullptr;
}

void CoordinatorCore::PrepareNext(const DurableJob& job, v1::Plan plan, const std::string& cause,
                                  Moment now) {
  hopeless_change_.erase(job.id);
  GangFailure reason;
  reason.cause = cause;
  v1::JobChange change;
  v1::RecoveryRecord& recovery = *change.mutable_recovery();
  recovery = BeginRecovery(job, gangs_.at(job.id), plan.epoch(), reason, now);
  recovery.set_planned(true);
  recovery.set_detect(0);
  NotePlan(plan, job.plan.get(), now, &recovery);
  std::string message;
  if (cause == "grow") {
    message = absl::StrCat("devices are back: from ", job.plan->spec().parallelism().replicas(),
                           " to ", plan.spec().parallelism().replicas(), " replicas");
  } else {
    if (recovery.lost_nodes_size() > 0) recovery.set_node(recovery.lost_nodes(0));
    message = absl::StrCat(
        absl::StrJoin(recovery.lost_nodes(), ", "), " is drained; ",
        recovery.joined_nodes_size() == 0
            ? "its ranks go to free devices of the other nodes"
            : absl::StrCat("its ranks go to ", absl::StrJoin(recovery.joined_nodes(), ", ")));
  }
  recovery.set_message(message);
  message = absl::StrCat("epoch ", plan.epoch(), " is prepared: ", message);
  *change.mutable_next_plan() = std::move(plan);
  ChangeJob(job, "NextPlanMade", message, std::move(change), now);
}

// --- Drains ---

std::string CoordinatorCore::DrainObstacle(const NodeName& node) const {
  const std::shared_ptr<const DurableNode> known = state_.FindNode(node);
  if (!known->admin.draining() || known->drained) return "";
  const auto here = jobs_on_.find(node);
  if (here == jobs_on_.end()) return "";
  for (const JobId& id : here->second) {
    const auto job = state_.Find(id);
    if (job->state != v1::JOB_STATE_RUNNING) {
      return absl::StrCat("waits until ", id.value(), " runs; it is ", NameOfState(job->state));
    }
    const std::string why = WhyRanksStay(*job);
    if (!why.empty()) return absl::StrCat(id.value(), " stays: ", why);
  }
  return "";
}

std::string CoordinatorCore::WhyRanksStay(const DurableJob& job) const {
  if (job.next_plan != nullptr || job.park != nullptr) return "";
  if (job.state != v1::JOB_STATE_RUNNING) {
    return absl::StrCat("first it must run; it is ", NameOfState(job.state));
  }
  const auto tried = hopeless_change_.find(job.id);
  return tried == hopeless_change_.end() ? "" : tried->second.reason;
}

std::string CoordinatorCore::WhyNotGrown(const DurableJob& job) const {
  const Gang* gang = FindGang(job.id);
  if (job.state != v1::JOB_STATE_RUNNING || gang == nullptr) {
    return absl::StrCat("first it must run; it is ", NameOfState(job.state));
  }
  if (job.next_plan != nullptr || job.park != nullptr) return "";
  for (const auto& [name, ranks] : gang->ranks_on()) {
    if (!state_.FindNode(NodeName(name))->admin.draining()) continue;
    return absl::StrCat("first its ranks must leave node ", name, ", which is drained");
  }
  const int64_t left_ms =
      gang->since_steady_ms() + options_.grow_after_ms - last_decided_.steady_ms;
  if (left_ms > 0) {
    return absl::StrCat("its epoch has just begun; not before ",
                        TimeInWords(static_cast<double>(left_ms) / 1000), " from now");
  }
  if (const auto other = WaitsBefore(job)) {
    return absl::StrCat(other->id.value(), " waits for devices and comes first");
  }
  const auto tried = hopeless_change_.find(job.id);
  return tried == hopeless_change_.end() ? "" : tried->second.reason;
}

void CoordinatorCore::AdvanceDrains(Moment now) {
  std::vector<NodeName> draining;
  for (const auto& [name, node] : state_.nodes()) {
    if (node->admin.draining() && !node->drained) draining.push_back(name);
  }
  for (const NodeName& name : draining) {
    const v1::NodeAdmin admin = state_.FindNode(name)->admin;
    const auto here = jobs_on_.find(name);
    if (here == jobs_on_.end()) {
      const NodeEntry* entry = nodes_.Find(name);
      const bool known = entry != nullptr && entry->state != v1::NODE_STATE_EXPECTED;
      if (!known || (entry->IsUp() && HasLiveRank(entry->report))) continue;
      v1::NodeChange change;
      change.set_drained(true);
      ChangeNode(name, "NodeDrained", "no rank is left on it; it may be switched off",
                 std::move(change), now);
      continue;
    }
    if (admin.deadline_ms() == 0 || now.wall_ms < admin.deadline_ms()) continue;
    for (const JobId& id : std::set<JobId>(here->second)) {
      const auto job = state_.Find(id);
      const Gang* gang = FindGang(id);
      if (gang == nullptr || !job->HasCurrentPlan()) continue;
      if (!gang->ranks_on().contains(name.value())) continue;
      const GangFailure failure{
          absl::StrCat("the time to drain node ", name.value(), " is over: ", admin.reason()),
          false, admin.cause().empty() ? "drain" : admin.cause(), name.value()};
      FailEpoch(*job, *gang, failure, now);
    }
  }
}

}  // namespace fathom
