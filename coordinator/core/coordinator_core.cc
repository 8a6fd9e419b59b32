#include "coordinator/core/coordinator_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr char kStateChanged[] = "JobStateChanged";
constexpr double kDefaultStartTimeoutS = 120;

double StartTimeoutS(const v1::JobSpec& spec) {
  const double given = spec.restart().start_timeout_s();
  return given > 0 ? given : kDefaultStartTimeoutS;
}
}  // namespace

CoordinatorCore::CoordinatorCore(CoreOptions options)
    : options_(std::move(options)), nodes_(options_.lease_ms) {
  FATHOM_CHECK(options_.planning.resolve && options_.planning.make_plan &&
               options_.planning.check_plan);
  for (const v1::Quota& quota : options_.quotas) {
    quotas_.devices_of[quota.user()] = quota.devices();
  }
}

absl::Status CoordinatorCore::Replay(const v1::Record& record) {
  FATHOM_CHECK(!started_) << "replay after the first event";
  const bool specs = record.has_submitted() || record.job_change().has_plan() ||
                     record.job_change().has_next_plan();
  if (!specs) return state_.Apply(record);
  v1::Record filled = record;
  FillSpecs(&filled);
  return state_.Apply(filled);
}

// An older version left fields out that this one knows. What can't be resolved any more stays as it
// was accepted.
void CoordinatorCore::FillSpecs(v1::Record* record) const {
  if (record->has_submitted()) {
    absl::StatusOr<v1::Job> job = options_.planning.resolve(record->submitted().job());
    if (job.ok()) *record->mutable_submitted()->mutable_job() = *std::move(job);
    return;
  }
  const auto known = state_.Find(JobId(record->job()));
  if (known == nullptr) return;
  v1::JobChange& change = *record->mutable_job_change();
  for (v1::Plan* plan : {change.has_plan() ? change.mutable_plan() : nullptr,
                         change.has_next_plan() ? change.mutable_next_plan() : nullptr}) {
    if (plan == nullptr) continue;
    v1::Job job = *known->job;
    *job.mutable_spec() = plan->spec();
    absl::StatusOr<v1::Job> resolved = options_.planning.resolve(job);
    if (resolved.ok()) *plan->mutable_spec() = resolved->spec();
  }
}

// --- Records ---

v1::Record CoordinatorCore::NewRecord(const std::string& kind, const std::string& message,
                                      Moment now) const {
  v1::Record record;
  record.set_sequence(state_.sequence() + 1);
  record.set_time_ms(now.wall_ms);
  record.set_kind(kind);
  record.set_message(CutText(message, limits::kMaxTextBytes));
  record.set_actor("coordinator");
  return record;
}

void CoordinatorCore::Put(v1::Record record) {
  if (!record.job().empty()) {
    gangs_due_.insert(JobId(record.job()));
    touched_.insert(JobId(record.job()));
    desire_dirty_.insert(JobId(record.job()));
  }
  placement_due_ = true;
  if (!marked_) state_.Mark();
  marked_ = true;
  const absl::Status applied = state_.Apply(record);
  FATHOM_CHECK(applied.ok()) << applied.ToString();
  records_.push_back(std::move(record));
}

void CoordinatorCore::ChangeJob(const DurableJob& job, const std::string& kind,
                                const std::string& message, v1::JobChange change, Moment now,
                                const std::string& actor) {
  v1::Record record = NewRecord(kind, message, now);
  record.set_job(job.id.value());
  record.set_actor(actor);
  *record.mutable_job_change() = std::move(change);
  Put(std::move(record));
}

void CoordinatorCore::ChangeNode(const NodeName& node, const std::string& kind,
                                 const std::string& message, v1::NodeChange change, Moment now,
                                 const std::string& actor) {
  v1::Record record = NewRecord(kind, message, now);
  record.set_node(node.value());
  record.set_actor(actor);
  *record.mutable_node_change() = std::move(change);
  Put(std::move(record));
}

void CoordinatorCore::FillLastWords(const Gang* gang, v1::JobChange* change) {
  if (gang == nullptr) return;
  if (gang->last_step().step() > 0) *change->mutable_last_step() = gang->last_step();
  if (gang->validation().step() > 0) *change->mutable_validation() = gang->validation();
  change->set_tokens_per_second(gang->TokensPerSecond());
}

void CoordinatorCore::EndJob(const DurableJob& job, v1::JobState state, const std::string& message,
                             Moment now) {
  v1::JobChange change;
  change.set_state(state);
  const Gang* gang = FindGang(job.id);
  FillLastWords(gang, &change);
  if (state == v1::JOB_STATE_COMPLETED) change.set_weights_sha256(gang->weights_sha256());
  ChangeJob(job, kStateChanged, message, std::move(change), now);
}

void CoordinatorCore::Commit() {
  if (marked_) state_.Commit();
  marked_ = false;
  records_.clear();
  MarkChangedDesires();
}

void CoordinatorCore::Rollback() {
  if (marked_) state_.Rollback();
  marked_ = false;
  for (const v1::Record& record : records_) {
    if (!record.job().empty()) gangs_due_.insert(JobId(record.job()));
  }
  touched_.insert(gangs_due_.begin(), gangs_due_.end());
  records_.clear();
  common_pieces_.clear();
  placement_due_ = true;
  device_use_.reset();  // the same numbers will come again
  // A gang of a plan that was not made after all must not speak for the one before.
  RefreshGangs(last_decided_);
}

// --- Observations ---

absl::Status CoordinatorCore::Report(const v1::NodeReport& report, Moment now) {
  const NodeName name(report.node().name());
  const NodeEntry* before = nodes_.Find(name);
  const std::string was = before == nullptr ? "" : NameOfState(before->state);
  const bool was_lost = before != nullptr && before->state == v1::NODE_STATE_LOST;
  NodeNews news;
  FATHOM_RETURN_IF_ERROR(nodes_.Report(report, now, &news));
  if (news.came_up) NoteNodeUp(report, was, now);
  if (was_lost) NodeReturned(name, now);
  if (report.has_preflight()) NotePreflight(report, now);
  if (news.came_up || news.ranks) placement_due_ = true;
  RefreshGangs(now);
  const auto here = jobs_on_.find(name);
  if (here != jobs_on_.end()) {
    for (const JobId& id : here->second) {
      bool changed = false;
      for (auto* gangs : {&gangs_, &next_gangs_}) {
        const auto gang = gangs->find(id);
        if (gang != gangs->end()) changed = gang->second.Report(report, now.steady_ms) || changed;
      }
      if (changed) touched_.insert(id);
    }
  }
  // Most reports say what is known: they cost no more than this.
  if (!touched_.empty() || placement_due_) Decide(now);
  return absl::OkStatus();
}

void CoordinatorCore::NoteNodeUp(const v1::NodeReport& report, const std::string& was, Moment now) {
  const NodeName name(report.node().name());
  v1::NodeChange change;
  change.set_state(nodes_.Find(name)->state);
  ChangeNode(name, "NodeUp",
             absl::StrCat(was.empty() ? "" : absl::StrCat("was ", was, "; "), "offers ",
                          report.node().devices_size(), " devices",
                          report.spare() ? ", held back as a spare" : ""),
             std::move(change), now);
}

void CoordinatorCore::NotePreflight(const v1::NodeReport& report, Moment now) {
  const NodeName name(report.node().name());
  const v1::PreflightReport& known = state_.FindNode(name)->preflight;
  const v1::PreflightReport& newest = report.preflight();
  const bool is_new = newest.finished_ms() > 0 &&
                      (newest.finished_ms() != known.finished_ms() || newest.id() != known.id());
  if (!is_new) return;
  v1::NodeChange change;
  *change.mutable_preflight() = newest;
  preflights_due_.insert(name);
  ChangeNode(name, newest.passed() ? "PreflightPassed" : "PreflightFailed", newest.verdict(),
             std::move(change), now);
}

void CoordinatorCore::StreamClosed(const NodeName& node, int64_t incarnation, Moment now) {
  nodes_.Disconnect(node, incarnation);
  const auto here = jobs_on_.find(node);
  if (here != jobs_on_.end()) touched_.insert(here->second.begin(), here->second.end());
  Decide(now);
}

void CoordinatorCore::Tick(Moment now) {
  RefreshGangs(now);
  for (const NodeName& name : nodes_.ExpireLeases(now)) LoseNode(name, now);
  for (const auto& [id, gang] : gangs_) touched_.insert(id);
  placement_due_ = true;
  ExpectOfRunning();
  RunDetectors(now);
  Decide(now);
}

void CoordinatorCore::LoseNode(const NodeName& name, Moment now) {
  const std::string reason = nodes_.Find(name)->reason;
  v1::NodeChange change;
  change.set_state(v1::NODE_STATE_LOST);
  ChangeNode(name, "NodeLost", reason, std::move(change), now);
  const auto here = jobs_on_.find(name);
  if (here == jobs_on_.end()) return;
  for (const JobId& id : here->second) {
    touched_.insert(id);
    for (auto* gangs : {&gangs_, &next_gangs_}) {
      const auto gang = gangs->find(id);
      if (gang != gangs->end()) gang->second.NodeLost(name, reason);
    }
  }
}

// --- Decisions ---

void CoordinatorCore::Decide(Moment now) {
  last_decided_ = now;
  RefreshGangs(now);
  AdvanceActiveJobs(now);
  if (!placement_due_ || in_batch_) return;
  placement_due_ = false;
  // While most nodes are silent nobody can tell what is free, or who must go.
  if (!nodes_.MostAreSilent()) {
    AdvanceDrains(now);
    RefreshGangs(now);
    PlaceWaitingJobs(now);
    RefreshGangs(now);
    PrepareChanges(now);
  }
  AdvanceActiveJobs(now);
  RefreshGangs(now);
  placement_due_ = false;
}

void CoordinatorCore::EndBatch(Moment now) {
  in_batch_ = false;
  if (placement_due_) Decide(now);
}

void CoordinatorCore::RefreshGangs(Moment now) {
  if (!started_) {
    for (const auto& [number, job] : state_.unfinished()) gangs_due_.insert(job->id);
    desire_dirty_ = gangs_due_;
    touched_ = gangs_due_;
  }
  started_ = true;
  for (const JobId& id : std::exchange(gangs_due_, {})) RefreshGang(id, now);
}

// One gang per active job that has a plan. A gang of an older epoch stays until the next plan: what
// its ranks still say may tell that another epoch is pointless.
void CoordinatorCore::RefreshGang(const JobId& id, Moment now) {
  const auto job = state_.Find(id);
  const bool active = job != nullptr && IsActive(job->state) && job->plan != nullptr;
  auto next = next_gangs_.find(id);
  const auto present = gangs_.find(id);
  if (!active) {
    gangs_.erase(id);
    last_steps_.erase(id);
    change_not_before_.erase(id);
  } else if (present == gangs_.end() || &present->second.plan() != job->plan.get()) {
    const bool promoted = next != next_gangs_.end() && &next->second.plan() == job->plan.get();
    const bool seen = job->state == v1::JOB_STATE_RUNNING || !job->HasCurrentPlan();
    gangs_.insert_or_assign(id, promoted ? next->second : MakeGang(job->plan, seen, now));
  }
  if (!active || job->next_plan == nullptr) {
    next_gangs_.erase(id);
  } else if (next == next_gangs_.end() || &next->second.plan() != job->next_plan.get()) {
    next_gangs_.insert_or_assign(id, MakeGang(job->next_plan, false, now));
  }
  std::set<NodeName> nodes;
  for (const Gang* gang : {FindGang(id), FindNextGang(id)}) {
    if (gang == nullptr) continue;
    for (const auto& [node, ranks] : gang->ranks_on()) nodes.insert(NodeName(node));
  }
  for (const NodeName& node : nodes_of_[id]) {
    const auto jobs = jobs_on_.find(node);
    jobs->second.erase(id);
    if (jobs->second.empty()) jobs_on_.erase(jobs);
  }
  for (const NodeName& node : nodes) jobs_on_[node].insert(id);
  if (nodes.empty()) {
    nodes_of_.erase(id);
  } else {
    nodes_of_[id] = std::move(nodes);
  }
}

Gang CoordinatorCore::MakeGang(const std::shared_ptr<const v1::Plan>& plan, bool seen, Moment now) {
  Gang gang(plan, seen, now.steady_ms);
  for (const auto& [name, ranks] : gang.ranks_on()) {
    nodes_.Expect(NodeName(name), now);
    const NodeEntry* entry = nodes_.Find(NodeName(name));
    if (entry->IsUp()) gang.Report(entry->report, now.steady_ms);
    if (entry->state == v1::NODE_STATE_LOST) gang.NodeLost(NodeName(name), entry->reason);
  }
  return gang;
}

void CoordinatorCore::AdvanceActiveJobs(Moment now) {
  // What one step of a job's way touches may open the next: a plan taken over, then its failure.
  constexpr int kRounds = 4;
  for (int round = 0; round < kRounds && !touched_.empty(); ++round) {
    for (const JobId& id : std::exchange(touched_, {})) {
      desire_dirty_.insert(id);
      if (FindGang(id) == nullptr) continue;
      // Held here, as a change replaces the job in the state.
      const std::shared_ptr<const DurableJob> job = state_.Find(id);
      AdvanceJob(*job, now);
    }
    RefreshGangs(now);
  }
  touched_.clear();  // what is left is found again at the next tick
}

void CoordinatorCore::AdvanceJob(const DurableJob& job, Moment now) {
  const Gang& gang = gangs_.at(job.id);
  if (!job.HasCurrentPlan()) {
    if (gang.failure() != nullptr && gang.failure()->incurable) {
      return EndJob(job, v1::JOB_STATE_FAILED, gang.failure()->message, now);
    }
    SettlePark(job, nullptr, now);
    return;
  }
  if (gang.checkpoint().step() > job.checkpoint.step()) {
    v1::JobChange change;
    *change.mutable_checkpoint() = gang.checkpoint();
    ChangeJob(job, "CheckpointDurable",
              absl::StrCat("checkpoint of step ", gang.checkpoint().step(), " at ",
                           gang.checkpoint().manifest()),
              std::move(change), now);
  }
  if (gang.AllFinished()) {
    return EndJob(job, v1::JOB_STATE_COMPLETED, "all steps are done", now);
  }
  // The checkpoint that was just recorded is in the state, not in `job`.
  if (job.park != nullptr && SettlePark(*state_.Find(job.id), &gang, now)) return;
  if (nodes_.MostAreSilent()) return;
  if (job.next_plan != nullptr && AdvanceNextPlan(job, now)) return;
  const std::optional<GangFailure> failure = JudgeFailure(job, gang, now);
  if (failure.has_value()) return FailEpoch(job, gang, *failure, now);
  FinishRecovery(job, gang, now);
  if (job.state == v1::JOB_STATE_RUNNING) return;
  if (gang.AllTrain()) {
    v1::JobChange change;
    change.set_state(v1::JOB_STATE_RUNNING);
    return ChangeJob(
        job, kStateChanged,
        absl::StrCat("all ", gang.ranks().size(), " ranks of epoch ", job.epoch, " train"),
        std::move(change), now);
  }
  const double timeout_s = StartTimeoutS(job.job->spec());
  const double waited_s = static_cast<double>(now.steady_ms - gang.since_steady_ms()) / 1000;
  if (waited_s > timeout_s) {
    const GangFailure late{absl::StrFormat("not all ranks were training within %g s "
                                           "(restart.start_timeout_s): %s",
                                           timeout_s, gang.Laggard()),
                           false, "start_timeout", ""};
    FailEpoch(job, gang, late, now);
  }
}

const Gang* CoordinatorCore::FindGang(const JobId& id) const {
  const auto found = gangs_.find(id);
  return found == gangs_.end() ? nullptr : &found->second;
}

const Gang* CoordinatorCore::FindNextGang(const JobId& id) const {
  const auto found = next_gangs_.find(id);
  return found == next_gangs_.end() ? nullptr : &found->second;
}

}  // namespace fathom
