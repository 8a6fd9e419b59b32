// Epochs that fail: whose fault it was, what comes after, and what it cost.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/limits.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/flap_detector.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr char kStateChanged[] = "JobStateChanged";
constexpr int64_t kDefaultMaxStalledRestarts = 3;
constexpr int64_t kCulpritWaitMs = 300;
constexpr int kLinkFaultsMax = 2;  // of one pair of nodes within kFlapWindowMs
constexpr size_t kLinkFaultsRemembered = 1000;
constexpr size_t kCausesTold = 3;

int64_t MaxStalledRestarts(const v1::JobSpec& spec) {
  return spec.restart().has_max_restarts_without_progress()
             ? spec.restart().max_restarts_without_progress()
             : kDefaultMaxStalledRestarts;
}

double SecondsBetween(int64_t from_ms, int64_t to_ms) {
  return from_ms <= 0 || to_ms <= 0
             ? -1.0
             : static_cast<double>(std::max(to_ms - from_ms, int64_t{0})) / 1000;
}

std::set<std::string> NodesOf(const v1::Plan* plan) {
  std::set<std::string> nodes;
  if (plan == nullptr) return nodes;
  for (const v1::RankAssignment& rank : plan->ranks()) nodes.insert(rank.node());
  return nodes;
}

// The newest causes of restarts that brought nothing, for whoever must mend it.
std::string LastCauses(const DurableJob& job) {
  std::string text;
  size_t told = 0;
  for (auto it = job.recoveries.rbegin(); it != job.recoveries.rend() && told < kCausesTold; ++it) {
    if ((*it)->planned()) continue;
    absl::StrAppend(&text, told == 0 ? "; before that: " : "; ", (*it)->cause(), " (",
                    (*it)->message(), ")");
    ++told;
  }
  return text;
}

// The newest moment at which every rank had got there, of those that say.
struct Stamps {
  int64_t listening_ms = 0;
  int64_t connected_ms = 0;
  int64_t loaded_ms = 0;
  int64_t first_step_ms = 0;  // the earliest, as the step is committed by all together
};

Stamps StampsOf(const Gang& gang) {
  Stamps stamps;
  for (const v1::RankStatus& rank : gang.ranks()) {
    const v1::RankTimeline& timeline = rank.timeline();
    stamps.listening_ms = std::max(stamps.listening_ms, timeline.listening_ms());
    stamps.connected_ms = std::max(stamps.connected_ms, timeline.connected_ms());
    stamps.loaded_ms = std::max(stamps.loaded_ms, timeline.loaded_ms());
    const int64_t first = timeline.first_step_ms();
    if (first > 0 && (stamps.first_step_ms == 0 || first < stamps.first_step_ms)) {
      stamps.first_step_ms = first;
    }
  }
  return stamps;
}

}  // namespace

// --- Whose fault ---

std::optional<GangFailure> CoordinatorCore::JudgeFailure(const DurableJob& job, const Gang& gang,
                                                         Moment now) {
  if (gang.failure() != nullptr && !gang.failure_blames_peer()) {
    return JudgeCorruption(job, *gang.failure(), now);
  }
  if (job.next_plan == nullptr && gang.CountOf(v1::RANK_STATE_MOVED) > 0) {
    return GangFailure{"ranks had gone on to an epoch that could not be kept", false, "rank_failed",
                       ""};
  }
  if (gang.complaint() == nullptr) return std::nullopt;
  SuspectBlamed(gang, now);
  if (gang.failure() != nullptr && !gang.failure_blames_peer()) return *gang.failure();
  // Ranks that lost a peer often speak before the one that is to blame, or before its daemon.
  if (now.steady_ms - gang.complaint()->since_ms < kCulpritWaitMs) return std::nullopt;
  if (gang.failure() != nullptr) return *gang.failure();
  return BlameLink(job, gang, now);
}

// Two signs of different kinds make a node lost before its lease ends: peers can't reach its ranks,
// and its daemon's stream has closed or fallen silent.
void CoordinatorCore::SuspectBlamed(const Gang& gang, Moment now) {
  for (const auto& [name, sources] : gang.Blamed()) {
    const NodeEntry* entry = nodes_.Find(NodeName(name));
    if (entry == nullptr || !entry->IsUp()) continue;
    const int64_t silent_ms = now.steady_ms - entry->last_seen_steady_ms;
    const bool missed = 2 * silent_ms > 5 * options_.heartbeat_ms;
    if (entry->connected && !missed) continue;
    nodes_.Suspect(NodeName(name),
                   absl::StrFormat("its connection %s, and ranks on %d other nodes can't reach it",
                                   entry->connected ? "is silent" : "closed", sources.size()));
    LoseNode(NodeName(name), now);
  }
}

// Both ends live, so it is the way between them: the same placement once more. Where that happens
// again, the node that is blamed more often is given up.
GangFailure CoordinatorCore::BlameLink(const DurableJob& job, const Gang& gang, Moment now) {
  GangFailure failure;
  failure.cause = "link_lost";
  const Complaint& complaint = *gang.complaint();
  const std::string& from = gang.plan().ranks(complaint.rank).node();
  failure.message = absl::StrCat("rank ", complaint.rank, " on node ", from,
                                 " lost its peers: ", complaint.message);
  while (!link_faults_.empty() && (now.steady_ms - link_faults_.front().steady_ms > kFlapWindowMs ||
                                   link_faults_.size() > kLinkFaultsRemembered)) {
    link_faults_.pop_front();
  }
  std::set<std::pair<std::string, std::string>> pairs;
  for (const auto& [blamed, sources] : gang.Blamed()) {
    for (const std::string& source : sources) {
      const auto [a, b] = std::minmax(source, blamed);
      if (a == b || !pairs.emplace(a, b).second) continue;
      link_faults_.push_back({now.steady_ms, a, b, blamed});
    }
  }
  std::string victim;
  int64_t most = 0;
  for (const auto& [a, b] : pairs) {
    int64_t times = 0;
    std::map<std::string, int64_t> blame{{a, 0}, {b, 0}};
    for (const LinkFault& fault : link_faults_) {
      times += fault.a == a && fault.b == b;
      if (blame.contains(fault.blamed)) ++blame[fault.blamed];
    }
    const std::string& worse = blame[a] > blame[b] ? a : b;
    if (times < kLinkFaultsMax || blame[worse] <= most) continue;
    victim = worse;
    most = blame[worse];
  }
  if (victim.empty()) return failure;
  failure.node = victim;
  absl::StrAppend(&failure.message, "; again, so node ", victim, " is to be replaced");
  if (WhyClosed(NodeName(victim)).empty()) {
    v1::NodeAdmin admin;
    admin.set_draining(true);
    admin.set_actor("coordinator");
    admin.set_cause("link_lost");
    admin.set_reason(
        absl::StrCat("its links failed ", most, " times in 10 minutes, last for ", job.id.value()));
    StartDrain(NodeName(victim), std::move(admin), "", now);
  }
  return failure;
}

// --- What comes after ---

void CoordinatorCore::FailEpoch(const DurableJob& job, const Gang& gang, const GangFailure& failure,
                                Moment now) {
  if (failure.incurable) return EndJob(job, v1::JOB_STATE_FAILED, failure.message, now);
  const int64_t best = std::max(job.best_step, gang.best_step());
  const int64_t stalled = best > job.best_step ? 1 : job.stalled_restarts + 1;
  const int64_t allowed = MaxStalledRestarts(job.job->spec());
  if (stalled > allowed || job.epoch >= limits::kMaxJobEpochs) {
    return EndJob(job, v1::JOB_STATE_FAILED,
                  absl::StrCat("gave up after ", stalled - 1,
                               " restarts without progress: ", failure.message, LastCauses(job)),
                  now);
  }
  NoteLastStep(job, gang);
  v1::JobChange change;
  change.set_state(v1::JOB_STATE_RECOVERING);
  change.set_best_step(best);
  change.set_stalled_restarts(stalled);
  const bool has_next = job.next_plan != nullptr && FlawOfNextPlan(job).empty() &&
                        !NodesOf(job.next_plan.get()).contains(failure.node);
  std::string message = absl::StrCat("epoch ", job.epoch, " ended: ", failure.message);
  uint64_t epoch = job.last_epoch + 1;
  if (has_next) {
    epoch = job.next_plan->epoch();
    change.set_promote_next_plan(true);
    absl::StrAppend(&message, "; epoch ", epoch, ", which was prepared, is taken at once");
  } else {
    change.set_epoch(epoch);
    change.set_drop_next_plan(job.next_plan != nullptr);
  }
  v1::RecoveryRecord& recovery = *change.mutable_recovery();
  recovery = BeginRecovery(job, gang, epoch, failure, now);
  if (has_next) NotePlan(*job.next_plan, job.plan.get(), now, &recovery);
  ChangeJob(job, kStateChanged, message, std::move(change), now);
}

void CoordinatorCore::NoteLastStep(const DurableJob& job, const Gang& gang) {
  // An epoch without a step leaves what the one before it did.
  if (gang.newest_step().step > 0) last_steps_[job.id] = gang.newest_step();
}

v1::RecoveryRecord CoordinatorCore::BeginRecovery(const DurableJob& job, const Gang& gang,
                                                  uint64_t epoch, const GangFailure& failure,
                                                  Moment now) const {
  v1::RecoveryRecord recovery;
  recovery.set_epoch(epoch);
  recovery.set_cause(failure.cause.empty() ? "rank_failed" : failure.cause);
  recovery.set_node(failure.node);
  recovery.set_message(failure.message);
  recovery.set_detected_ms(now.wall_ms);
  recovery.set_replicas(job.plan->spec().parallelism().replicas());
  int64_t healthy_ms = gang.newest_step().finished_ms;
  const NodeEntry* culprit = nodes_.Find(NodeName(failure.node));
  if (culprit != nullptr && culprit->state == v1::NODE_STATE_LOST) {
    healthy_ms = std::max(healthy_ms, culprit->last_seen_ms);
  }
  recovery.set_detect(SecondsBetween(healthy_ms, now.wall_ms));
  recovery.set_pause_seconds(-1);
  recovery.set_decide(-1);
  recovery.set_fence(-1);
  recovery.set_rejoin(-1);
  recovery.set_load(-1);
  recovery.set_first_step(-1);
  return recovery;
}

void CoordinatorCore::NotePlan(const v1::Plan& plan, const v1::Plan* before, Moment now,
                               v1::RecoveryRecord* recovery) {
  recovery->set_decide(SecondsBetween(recovery->detected_ms(), now.wall_ms));
  recovery->set_replicas(plan.spec().parallelism().replicas());
  recovery->clear_lost_nodes();
  recovery->clear_joined_nodes();
  const std::set<std::string> old_nodes = NodesOf(before);
  const std::set<std::string> new_nodes = NodesOf(&plan);
  for (const std::string& node : old_nodes) {
    if (!new_nodes.contains(node)) recovery->add_lost_nodes(node);
  }
  for (const std::string& node : new_nodes) {
    if (!old_nodes.contains(node)) recovery->add_joined_nodes(node);
  }
}

void CoordinatorCore::FinishRecovery(const DurableJob& job, const Gang& gang, Moment now) {
  const v1::RecoveryRecord* begun = job.RecoveryOf(job.epoch);
  if (begun == nullptr || begun->finished() || !gang.AllTrain() || !gang.FirstStepDone()) return;
  v1::JobChange change;
  v1::RecoveryRecord& recovery = *change.mutable_recovery();
  recovery = *begun;
  recovery.set_finished(true);
  const v1::RankStatus& first = gang.ranks()[0];
  recovery.set_resumed_step(first.restored().step());
  recovery.set_source(first.restored().source());
  // After a restart of this program: what was durable when the epoch began.
  StepMark last{job.best_step, 0, 0};
  const auto known = last_steps_.find(job.id);
  if (known != last_steps_.end()) {
    last = known->second;
  } else if (begun->detect() >= 0 && !begun->planned()) {
    last.finished_ms = begun->detected_ms() - static_cast<int64_t>(begun->detect() * 1000);
  }
  recovery.set_steps_redone(std::max<int64_t>(last.step - first.restored().step(), 0));
  const Stamps stamps = StampsOf(gang);
  const double decide = std::max(begun->decide(), 0.0);
  const int64_t planned_ms = begun->detected_ms() + static_cast<int64_t>(decide * 1000);
  recovery.set_fence(SecondsBetween(planned_ms, stamps.listening_ms));
  recovery.set_rejoin(SecondsBetween(stamps.listening_ms, stamps.connected_ms));
  recovery.set_load(SecondsBetween(stamps.connected_ms, stamps.loaded_ms));
  recovery.set_first_step(SecondsBetween(stamps.loaded_ms, stamps.first_step_ms));
  const double step_s = last.seconds > 0 ? last.seconds : gang.SecondsPerStep();
  const double gap_s = SecondsBetween(last.finished_ms, stamps.first_step_ms);
  recovery.set_pause_seconds(gap_s < 0 ? -1 : std::max(gap_s - step_s, 0.0));
  last_steps_.erase(job.id);
  std::string message =
      absl::StrCat("epoch ", job.epoch, " (", recovery.cause(), ") goes on from step ",
                   recovery.resumed_step(), ", ", recovery.steps_redone(), " steps redone");
  if (recovery.pause_seconds() >= 0) {
    absl::StrAppendFormat(&message, ", after a pause of %.2f s", recovery.pause_seconds());
  }
  ChangeJob(job, "RecoveryFinished", message, std::move(change), now);
}

}  // namespace fathom
