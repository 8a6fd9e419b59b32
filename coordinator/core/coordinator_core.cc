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

constexpr char kSubmitted[] = "JobSubmitted";
constexpr char kCancelled[] = "JobCancelled";
constexpr char kStateChanged[] = "JobStateChanged";
constexpr int64_t kDefaultMaxStalledRestarts = 3;
constexpr double kDefaultStartTimeoutS = 120;
constexpr int32_t kIdealDevicesPerNode = 8;
constexpr size_t kActorBytesMax = 100;

absl::Status CheckName(const std::string& name) {
  const bool good = !name.empty() && name.size() <= limits::kMaxNameBytes &&
                    absl::ascii_islower(name.front()) &&
                    std::all_of(name.begin(), name.end(), [](char c) {
                      return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-';
                    });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("metadata.name '",
                                                 CutText(name, limits::kMaxNameBytes),
                                                 "': use lower-case letters, digits "
                                                 "and '-', starting with a letter, at most ",
                                                 limits::kMaxNameBytes, " of them"));
}

absl::Status CheckRequestId(const std::string& request_id) {
  if (request_id.size() <= limits::kMaxRequestIdBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("request_id is longer than ", limits::kMaxRequestIdBytes, " bytes"));
}

int64_t MaxStalledRestarts(const v1::JobSpec& spec) {
  return spec.restart().has_max_restarts_without_progress()
             ? spec.restart().max_restarts_without_progress()
             : kDefaultMaxStalledRestarts;
}

double StartTimeoutS(const v1::JobSpec& spec) {
  const double given = spec.restart().start_timeout_s();
  return given > 0 ? given : kDefaultStartTimeoutS;
}

// What is known at the end of a job, or of an epoch.
void FillLastWords(const Gang* gang, v1::JobChange* change) {
  if (gang == nullptr) return;
  if (gang->last_step().step() > 0) *change->mutable_last_step() = gang->last_step();
  if (gang->validation().step() > 0) *change->mutable_validation() = gang->validation();
  change->set_tokens_per_second(gang->TokensPerSecond());
}

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

// --- Commands ---

absl::StatusOr<v1::Job> CoordinatorCore::ResolveSubmitted(
    const v1::SubmitJobRequest& request) const {
  if (request.job().ByteSizeLong() > limits::kMaxJobBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the job is larger than the ", limits::kMaxJobBytes, " bytes allowed"));
  }
  if (request.job().metadata().labels_size() > limits::kMaxLabels) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata.labels has more than ", limits::kMaxLabels, " entries"));
  }
  if (!request.job().metadata().name().empty()) {
    FATHOM_RETURN_IF_ERROR(CheckName(request.job().metadata().name()));
  }
  FATHOM_ASSIGN_OR_RETURN(v1::Job job, options_.planning.resolve(request.job()));
  if (RanksOf(job.spec()) > limits::kMaxRanksPerJob) {
    return absl::InvalidArgumentError(absl::StrCat("spec.parallelism asks for ",
                                                   RanksOf(job.spec()), " ranks; at most ",
                                                   limits::kMaxRanksPerJob, " are allowed"));
  }
  return job;
}

// What no cluster could ever run is refused, not queued: planned here on as many ideal nodes as it
// needs.
absl::Status CoordinatorCore::CheckCanRun(const v1::Job& resolved,
                                          const v1::ResumePoint& resume_from) const {
  const int64_t steps = resolved.spec().training().steps();
  if (resume_from.step() > steps) {
    return absl::InvalidArgumentError(
        absl::StrCat("spec.checkpoint.resume_from: the checkpoint is of step ", resume_from.step(),
                     ", but the job ends at step ", steps, "; raise spec.training.steps"));
  }
  std::vector<FreeNode> ideal;
  for (int64_t left = RanksOf(resolved.spec()); left > 0; left -= kIdealDevicesPerNode) {
    FreeNode& node = ideal.emplace_back();
    node.name = absl::StrCat("ideal-", ideal.size());
    for (int32_t device = 0; device < kIdealDevicesPerNode; ++device) {
      node.free_devices.push_back(device);
    }
  }
  const auto plan = options_.planning.make_plan("job", 1, resolved.spec(), ideal);
  if (plan.ok()) return options_.planning.check_plan(*plan);
  return absl::IsInvalidArgument(plan.status()) ? plan.status() : absl::OkStatus();
}

// "<name>-<number>", or for a job without a name "<preset>-<number>", which is its name too.
void CoordinatorCore::NameJob(const v1::Job& resolved, DurableJob* job) const {
  job->number = state_.next_number();
  const std::string& given = resolved.metadata().name();
  if (!given.empty()) {
    job->name = JobName(given);
    job->id = JobId(absl::StrCat(given, "-", job->number));
    return;
  }
  const std::string& preset = resolved.spec().model().preset();
  do {
    job->name = JobName(absl::StrCat(preset.empty() ? "job" : preset, "-", job->number));
  } while (state_.FindUnfinished(job->name) != nullptr && ++job->number > 0);
  job->id = JobId(job->name.value());
}

absl::StatusOr<v1::SubmitJobResponse> CoordinatorCore::Submit(const v1::SubmitJobRequest& request,
                                                              const v1::ResumePoint& resume_from,
                                                              Moment now) {
  FATHOM_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  if (!request.request_id().empty() && !request.dry_run()) {
    if (const AppliedCommand* command = state_.FindCommand(request.request_id())) {
      if (command->kind != kSubmitted) {
        return absl::InvalidArgumentError("request_id was used for another command");
      }
      if (const auto job = state_.Find(command->job)) return ResponseOf(*job);
    }
  }
  FATHOM_ASSIGN_OR_RETURN(v1::Job resolved, ResolveSubmitted(request));
  FATHOM_RETURN_IF_ERROR(CheckCanRun(resolved, resume_from));
  DurableJob job;
  NameJob(resolved, &job);
  FATHOM_RETURN_IF_ERROR(CheckName(job.name.value()));
  if (const auto other = state_.FindUnfinished(job.name)) {
    return absl::AlreadyExistsError(
        absl::StrCat("job '", job.name.value(), "' is ", NameOfState(other->state), " (",
                     other->id.value(), "); choose another metadata.name, or cancel it first"));
  }
  if (state_.UnfinishedCount() >= limits::kMaxUnfinishedJobs) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", limits::kMaxUnfinishedJobs,
                     " jobs are not finished; wait, or cancel some"));
  }
  resolved.mutable_metadata()->set_name(job.name.value());
  if (resolved.spec().checkpoint().directory().empty()) {
    resolved.mutable_spec()->mutable_checkpoint()->set_directory(
        absl::StrCat(options_.checkpoint_root, "/", job.id.value()));
  }
  job.job = std::make_shared<v1::Job>(resolved);
  job.resume_from = resume_from;
  if (request.dry_run()) return DryRun(request, std::move(job));

  const std::string& user = resolved.metadata().user();
  const std::string actor = user.empty() ? "unknown" : CutText(user, kActorBytesMax);
  v1::Record record = NewRecord(kSubmitted, absl::StrCat("submitted by ", actor), now);
  record.set_job(job.id.value());
  record.set_actor(actor);
  v1::JobSubmitted& submitted = *record.mutable_submitted();
  *submitted.mutable_job() = std::move(resolved);
  submitted.set_number(job.number);
  submitted.set_name(job.name.value());
  submitted.set_request_id(request.request_id());
  if (!resume_from.manifest().empty()) *submitted.mutable_resume_from() = resume_from;
  Put(std::move(record));
  Decide(now);
  return ResponseOf(job);
}

v1::SubmitJobResponse CoordinatorCore::ResponseOf(const DurableJob& job) {
  v1::SubmitJobResponse response;
  response.set_name(job.name.value());
  response.set_id(job.id.value());
  *response.mutable_job() = *job.job;
  return response;
}

v1::SubmitJobResponse CoordinatorCore::DryRun(const v1::SubmitJobRequest& request,
                                              DurableJob job) const {
  v1::SubmitJobResponse response = ResponseOf(job);
  if (request.job().metadata().name().empty()) {
    response.clear_name();
    response.clear_id();
  }
  const auto blocker = waiting_.begin();
  const bool queue_is_empty = waiting_.empty();
  absl::StatusOr<v1::Plan> plan = FindPlan(job, 1, false);
  if (plan.ok()) *response.mutable_plan() = *std::move(plan);
  if (!queue_is_empty) {
    response.set_note(absl::StrCat("waits behind ", waiting_.size(),
                                   " other(s) in the queue, such as ", blocker->first.value()));
  } else if (!plan.ok()) {
    response.set_note(std::string(plan.status().message()));
  }
  return response;
}

absl::StatusOr<v1::CancelJobResponse> CoordinatorCore::Cancel(const v1::CancelJobRequest& request,
                                                              Moment now) {
  FATHOM_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  v1::CancelJobResponse response;
  response.set_state(v1::JOB_STATE_CANCELLED);
  if (!request.request_id().empty()) {
    if (const AppliedCommand* command = state_.FindCommand(request.request_id())) {
      if (command->kind == kCancelled) return response;
      return absl::InvalidArgumentError("request_id was used for another command");
    }
  }
  const auto job = state_.FindByNameOrId(request.name());
  if (job == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("there is no job '", CutText(request.name(), 100), "'"));
  }
  if (IsFinal(job->state)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", job->id.value(), " has already ended: it is ", NameOfState(job->state)));
  }
  const std::string actor =
      request.actor().empty() ? "unknown" : CutText(request.actor(), kActorBytesMax);
  std::string message = absl::StrCat("cancelled by ", actor);
  if (!request.reason().empty()) absl::StrAppend(&message, ": ", request.reason());
  v1::JobChange change;
  change.set_state(v1::JOB_STATE_CANCELLED);
  change.set_request_id(request.request_id());
  FillLastWords(FindGang(job->id), &change);
  ChangeJob(*job, kCancelled, message, std::move(change), now, actor);
  Decide(now);
  return response;
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

void CoordinatorCore::FailEpoch(const DurableJob& job, const Gang& gang, const GangFailure& failure,
                                Moment now) {
  if (failure.incurable) return EndJob(job, v1::JOB_STATE_FAILED, failure.message, now);
  const int64_t best = std::max(job.best_step, gang.best_step());
  const int64_t stalled = best > job.best_step ? 1 : job.stalled_restarts + 1;
  const int64_t allowed = MaxStalledRestarts(job.job->spec());
  if (stalled > allowed || job.epoch >= limits::kMaxJobEpochs) {
    return EndJob(job, v1::JOB_STATE_FAILED,
                  absl::StrCat("gave up after ", stalled - 1,
                               " restarts without progress: ", failure.message),
                  now);
  }
  v1::JobChange change;
  change.set_state(v1::JOB_STATE_RECOVERING);
  change.set_epoch(job.epoch + 1);
  change.set_best_step(best);
  change.set_stalled_restarts(stalled);
  ChangeJob(job, kStateChanged, absl::StrCat("epoch ", job.epoch, " ended: ", failure.message),
            std::move(change), now);
}

// Recovering jobs come first, oldest first; then the queue, strictly in order.
void CoordinatorCore::PlaceWaitingJobs(Moment now) {
  std::vector<std::shared_ptr<const DurableJob>> recovering;
  std::vector<std::shared_ptr<const DurableJob>> pending;
  for (const auto& [number, job] : state_.jobs()) {
    if (job->state == v1::JOB_STATE_RECOVERING && !job->HasCurrentPlan()) recovering.push_back(job);
    if (job->state == v1::JOB_STATE_PENDING) pending.push_back(job);
  }
  waiting_.clear();
  std::map<JobId, int64_t> since;
  std::string blocker;
  for (const auto& job : recovering) {
    const auto known = recovering_since_.find(job->id);
    since[job->id] = known == recovering_since_.end() ? now.steady_ms : known->second;
  }
  recovering_since_ = std::move(since);
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

std::string CoordinatorCore::OldRankStillThere(const DurableJob& job) const {
  for (const auto& [name, entry] : nodes_.nodes()) {
    if (!entry.IsUp()) continue;
    for (const v1::RankStatus& rank : entry.report.ranks()) {
      const bool old = rank.job() == job.id.value() && rank.epoch() < job.epoch;
      const bool live = rank.state() == v1::RANK_STATE_STARTING ||
                        rank.state() == v1::RANK_STATE_LISTENING ||
                        rank.state() == v1::RANK_STATE_TRAINING;
      if (old && live) return absl::StrCat("rank ", rank.rank(), " on node ", name.value());
    }
  }
  return "";
}

std::string CoordinatorCore::TryToPlace(const DurableJob& job, bool first_in_line, Moment now) {
  const bool recovering = job.state == v1::JOB_STATE_RECOVERING;
  const uint64_t epoch = recovering ? job.epoch : 1;
  if (recovering && now.steady_ms - recovering_since_.at(job.id) < limits::kStopWaitMs) {
    const std::string left = OldRankStillThere(job);
    if (!left.empty()) {
      return absl::StrCat("waits for the ranks of epoch ", job.epoch - 1, " to stop: ", left);
    }
  }
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

// --- Desired states ---

// What a job wishes of its nodes, as text that changes exactly when the wish does.
std::string CoordinatorCore::DesireOf(const DurableJob& job) const {
  const Gang* gang = FindGang(job.id);
  if (!IsActive(job.state) || !job.HasCurrentPlan() || gang == nullptr) return "";
  return absl::StrCat(job.epoch, gang->AllListen() ? " peers" : "", " ", gang->DoneBeforeCount());
}

void CoordinatorCore::MarkChangedDesires() {
  std::map<JobId, Desire> next;
  for (const auto& [number, job] : state_.jobs()) {
    std::string signature = DesireOf(*job);
    if (signature.empty()) continue;
    const auto known = desires_.find(job->id);
    if (known != desires_.end() && known->second.signature == signature) {
      next.insert(desires_.extract(known));
      continue;
    }
    Desire& desire = next[job->id];
    desire.signature = std::move(signature);
    for (const v1::RankAssignment& rank : job->plan->ranks()) desire.nodes.insert(rank.node());
    for (const std::string& name : desire.nodes) changed_nodes_.insert(NodeName(name));
  }
  // What is left was wished before, and is not or differently now.
  for (const auto& [job, desire] : desires_) {
    for (const std::string& name : desire.nodes) changed_nodes_.insert(NodeName(name));
  }
  desires_ = std::move(next);
}

std::vector<NodeName> CoordinatorCore::TakeChangedNodes() {
  std::vector<NodeName> changed(changed_nodes_.begin(), changed_nodes_.end());
  if (!changed.empty()) ++desired_version_;
  for (const NodeName& name : changed) version_of_[name] = desired_version_;
  changed_nodes_.clear();
  return changed;
}

v1::DesiredState CoordinatorCore::DesiredFor(const NodeName& node) const {
  v1::DesiredState desired;
  const auto version = version_of_.find(node);
  desired.set_version(version == version_of_.end() ? 1 : version->second);
  desired.set_heartbeat_ms(options_.heartbeat_ms);
  desired.set_lease_ms(options_.lease_ms);
  for (const auto& [id, desire] : desires_) {
    if (!desire.nodes.contains(node.value())) continue;
    const auto job = state_.Find(id);
    const Gang* gang = FindGang(id);
    if (job == nullptr || gang == nullptr) continue;
    v1::DesiredJob& wanted = *desired.add_jobs();
    *wanted.mutable_plan() = *job->plan;
    wanted.set_checkpoint_directory(job->job->spec().checkpoint().directory());
    for (const int32_t rank : gang->WantedOn(node)) wanted.add_ranks(rank);
    if (!gang->AllListen()) continue;
    for (const v1::RankStatus& rank : gang->ranks()) {
      v1::RankEndpoint& peer = *wanted.add_peers();
      peer.set_rank(rank.rank());
      peer.set_node(job->plan->ranks(rank.rank()).node());
      peer.set_endpoint(rank.endpoint());
    }
  }
  return desired;
}

const Gang* CoordinatorCore::FindGang(const JobId& id) const {
  const auto found = gangs_.find(id);
  return found == gangs_.end() ? nullptr : &found->second;
}

}  // namespace fathom
