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
}

absl::Status CoordinatorCore::Replay(const v1::Record& record) {
  FATHOM_CHECK(!started_) << "replay after the first event";
  return state_.Apply(record);
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
  records_.clear();
  // A gang of a plan that was not made after all must not speak for the one before.
  RefreshGangs(last_decided_);
}

// --- Observations ---

absl::Status CoordinatorCore::Report(const v1::NodeReport& report, Moment now) {
  const NodeName name(report.node().name());
  const NodeEntry* before = nodes_.Find(name);
  const bool known = before != nullptr;
  const std::string was = known ? NameOfState(before->state) : "";
  bool came_up = false;
  FATHOM_RETURN_IF_ERROR(nodes_.Report(report, now, &came_up));
  if (came_up) {
    v1::Record record = NewRecord("NodeUp",
                                  absl::StrCat(known ? absl::StrCat("was ", was, "; ") : "",
                                               "offers ", report.node().devices_size(), " devices",
                                               report.spare() ? ", held back as a spare" : ""),
                                  now);
    record.set_node(name.value());
    record.mutable_node_change()->set_state(nodes_.Find(name)->state);
    Put(std::move(record));
  }
  RefreshGangs(now);
  for (auto& [job, gang] : gangs_) gang.Report(report);
  Decide(now);
  return absl::OkStatus();
}

void CoordinatorCore::StreamClosed(const NodeName& node, int64_t incarnation, Moment now) {
  nodes_.Disconnect(node, incarnation);
  Decide(now);
}

void CoordinatorCore::Tick(Moment now) { Decide(now); }

// --- Decisions ---

void CoordinatorCore::Decide(Moment now) {
  last_decided_ = now;
  RefreshGangs(now);
  for (const NodeName& name : nodes_.ExpireLeases(now)) {
    v1::Record record = NewRecord("NodeLost", nodes_.Find(name)->reason, now);
    record.set_node(name.value());
    record.mutable_node_change()->set_state(v1::NODE_STATE_LOST);
    Put(std::move(record));
  }
  AdvanceActiveJobs(now);
  PlaceWaitingJobs(now);
  RefreshGangs(now);
}

// One gang per active job that has a plan. A gang of an older epoch stays until the next plan: what
// its ranks still say may tell that another epoch is pointless.
void CoordinatorCore::RefreshGangs(Moment now) {
  for (const auto& [number, job] : state_.jobs()) {
    if (!IsActive(job->state) || job->plan == nullptr) {
      gangs_.erase(job->id);
      continue;
    }
    const auto found = gangs_.find(job->id);
    if (found != gangs_.end() && &found->second.plan() == job->plan.get()) continue;
    if (found != gangs_.end()) gangs_.erase(found);
    const bool seen = job->state == v1::JOB_STATE_RUNNING || !job->HasCurrentPlan();
    Gang& gang = gangs_.try_emplace(job->id, job->plan, seen, now.steady_ms).first->second;
    std::set<std::string> names;
    for (const v1::RankAssignment& rank : job->plan->ranks()) names.insert(rank.node());
    for (const std::string& name : names) {
      nodes_.Expect(NodeName(name), now);
      const NodeEntry* entry = nodes_.Find(NodeName(name));
      if (entry->IsUp()) gang.Report(entry->report);
    }
  }
  started_ = true;
  // A job that was rolled back or forgotten.
  for (auto it = gangs_.begin(); it != gangs_.end();) {
    it = state_.Find(it->first) == nullptr ? gangs_.erase(it) : std::next(it);
  }
}

void CoordinatorCore::AdvanceActiveJobs(Moment now) {
  for (auto& [name, entry] : nodes_.nodes()) {
    if (entry.state != v1::NODE_STATE_LOST) continue;
    for (auto& [job, gang] : gangs_) gang.NodeLost(name, entry.reason);
  }
  std::vector<JobId> active;
  for (const auto& [job, gang] : gangs_) active.push_back(job);
  for (const JobId& id : active) {
    // Held here, as a change replaces the job in the state.
    const std::shared_ptr<const DurableJob> job = state_.Find(id);
    AdvanceJob(*job, now);
  }
}

void CoordinatorCore::AdvanceJob(const DurableJob& job, Moment now) {
  const Gang& gang = gangs_.at(job.id);
  const GangFailure* failure = gang.failure();
  if (!job.HasCurrentPlan()) {
    if (failure != nullptr && failure->incurable) {
      EndJob(job, v1::JOB_STATE_FAILED, failure->message, now);
    }
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
  if (failure != nullptr) return FailEpoch(job, gang, *failure, now);
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
                           false};
    FailEpoch(job, gang, late, now);
  }
}

const Gang* CoordinatorCore::FindGang(const JobId& id) const {
  const auto found = gangs_.find(id);
  return found == gangs_.end() ? nullptr : &found->second;
}

}  // namespace fathom
