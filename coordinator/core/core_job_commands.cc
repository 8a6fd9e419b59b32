// Commands about jobs: submit, cancel, suspend, resume.
#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr char kSubmitted[] = "JobSubmitted";
constexpr char kCancelled[] = "JobCancelled";
constexpr char kSuspending[] = "JobSuspending";
constexpr char kResumed[] = "JobResumed";
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

}  // namespace

absl::Status CoordinatorCore::CheckRequestId(const std::string& request_id) {
  if (request_id.size() <= limits::kMaxRequestIdBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("request_id is longer than ", limits::kMaxRequestIdBytes, " bytes"));
}

std::string CoordinatorCore::ActorOf(const std::string& actor) {
  return actor.empty() ? "unknown" : CutText(actor, kActorBytesMax);
}

absl::StatusOr<const AppliedCommand*> CoordinatorCore::FindApplied(const std::string& request_id,
                                                                   const std::string& kind) const {
  FATHOM_RETURN_IF_ERROR(CheckRequestId(request_id));
  if (request_id.empty()) return nullptr;
  const AppliedCommand* command = state_.FindCommand(request_id);
  if (command == nullptr || command->kind == kind) return command;
  return absl::InvalidArgumentError("request_id was used for another command");
}

absl::StatusOr<std::shared_ptr<const DurableJob>> CoordinatorCore::JobNamed(
    const std::string& name) const {
  auto job = state_.FindByNameOrId(name);
  if (job != nullptr) return job;
  return absl::NotFoundError(absl::StrCat("there is no job '", CutText(name, 100), "'"));
}

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
  const std::string& user = resolved.metadata().user();
  const int64_t quota = quotas_.Of(user);
  if (quota >= 0 && RanksOf(resolved.spec()) > quota) {
    return absl::InvalidArgumentError(absl::StrCat(
        "spec.parallelism asks for ", RanksOf(resolved.spec()), " devices, and the quota of user ",
        user, " is ", quota, ": it could never start; ask for fewer, or have the quota raised"));
  }
  const auto plan = options_.planning.make_plan("job", 1, resolved.spec(), ideal);
  if (plan.ok()) return options_.planning.check_plan(*plan);
  return absl::IsInvalidArgument(plan.status()) ? plan.status() : absl::OkStatus();
}

// Two jobs in one folder would overwrite each other's checkpoints, and delete them as too old.
absl::Status CoordinatorCore::CheckCheckpointFolder(const v1::Job& resolved) const {
  const auto folder_of = [](const v1::Job& job) {
    absl::string_view folder = job.spec().checkpoint().directory();
    while (folder.size() > 1 && absl::EndsWith(folder, "/")) folder.remove_suffix(1);
    return folder;
  };
  for (const auto& [number, other] : state_.unfinished()) {
    if (folder_of(*other->job) != folder_of(resolved)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "spec.checkpoint.directory: ", folder_of(resolved), " is in use by job ", other->id.value(),
        ", which is ", NameOfState(other->state), "; choose another folder"));
  }
  return absl::OkStatus();
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
  if (!request.dry_run()) {
    FATHOM_ASSIGN_OR_RETURN(const AppliedCommand* applied,
                            FindApplied(request.request_id(), kSubmitted));
    if (applied != nullptr) {
      if (const auto job = state_.Find(applied->job)) return ResponseOf(*job);
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
  FATHOM_RETURN_IF_ERROR(CheckCheckpointFolder(resolved));
  job.job = std::make_shared<v1::Job>(resolved);
  job.resume_from = resume_from;
  if (request.dry_run()) return DryRun(request, std::move(job));

  const std::string& user = resolved.metadata().user();
  const std::string actor = ActorOf(user);
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
  absl::StatusOr<v1::Plan> plan = FindPlan(job, 1);
  if (plan.ok()) {
    *response.mutable_plan() = *plan;
    const Expectation expectation = Expect(std::make_shared<const v1::Plan>(*plan));
    if (expectation.prediction != nullptr) *response.mutable_expected() = *expectation.prediction;
    response.set_expected_note(expectation.note);
  }
  job.queued_ms = last_decided_.wall_ms;
  const QueueDecision decision =
      DecideQueue(QueueNow(DevicesFor(JobId(), false), {}, last_decided_, &job));
  for (const QueuedJob& place : decision.order) {
    if (place.id == job.id && !place.start) response.set_note(place.waits_for);
    if (place.id == job.id && place.start && !plan.ok()) {
      response.set_note(std::string(plan.status().message()));
    }
  }
  return response;
}

absl::StatusOr<v1::CancelJobResponse> CoordinatorCore::Cancel(const v1::CancelJobRequest& request,
                                                              Moment now) {
  FATHOM_ASSIGN_OR_RETURN(const AppliedCommand* applied,
                          FindApplied(request.request_id(), kCancelled));
  v1::CancelJobResponse response;
  response.set_state(v1::JOB_STATE_CANCELLED);
  if (applied != nullptr) return response;
  FATHOM_ASSIGN_OR_RETURN(const std::shared_ptr<const DurableJob> job, JobNamed(request.name()));
  if (IsFinal(job->state)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", job->id.value(), " has already ended: it is ", NameOfState(job->state)));
  }
  const std::string actor = ActorOf(request.actor());
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

absl::StatusOr<v1::SuspendJobResponse> CoordinatorCore::Suspend(
    const v1::SuspendJobRequest& request, Moment now) {
  FATHOM_ASSIGN_OR_RETURN(const AppliedCommand* applied,
                          FindApplied(request.request_id(), kSuspending));
  FATHOM_ASSIGN_OR_RETURN(const std::shared_ptr<const DurableJob> job, JobNamed(request.name()));
  const bool suspending = job->park != nullptr && job->park->suspend();
  if (applied == nullptr) {
    if (IsFinal(job->state)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "job ", job->id.value(), " has already ended: it is ", NameOfState(job->state)));
    }
    if (job->state == v1::JOB_STATE_SUSPENDED || suspending) {
      return absl::FailedPreconditionError(
          absl::StrCat("job ", job->id.value(), " is ",
                       suspending ? "being suspended" : "suspended", " already"));
    }
    const std::string actor = ActorOf(request.actor());
    std::string message = absl::StrCat("suspended by ", actor);
    if (!request.reason().empty()) absl::StrAppend(&message, ": ", request.reason());
    v1::JobChange change;
    change.set_request_id(request.request_id());
    if (IsActive(job->state)) {
      v1::ParkRequest& park = *change.mutable_park();
      park.set_reason(CutText(message, limits::kMaxTextBytes));
      park.set_actor(actor);
      park.set_suspend(true);
      // From a park that is under way, its patience runs on.
      park.set_since_ms(job->park != nullptr ? job->park->since_ms() : now.wall_ms);
      absl::StrAppend(&message, "; it saves a checkpoint first");
    } else {
      change.set_state(v1::JOB_STATE_SUSPENDED);
    }
    ChangeJob(*job, kSuspending, message, std::move(change), now, actor);
    Decide(now);
  }
  v1::SuspendJobResponse response;
  const auto after = state_.Find(job->id);
  response.set_state(after->state);
  if (after->park != nullptr) {
    response.set_note(
        "it saves a checkpoint at its next step boundary, then gives its devices back");
  }
  return response;
}

absl::StatusOr<v1::ResumeJobResponse> CoordinatorCore::ResumeJob(
    const v1::ResumeJobRequest& request, Moment now) {
  FATHOM_ASSIGN_OR_RETURN(const AppliedCommand* applied,
                          FindApplied(request.request_id(), kResumed));
  FATHOM_ASSIGN_OR_RETURN(const std::shared_ptr<const DurableJob> job, JobNamed(request.name()));
  const bool suspending = job->park != nullptr && job->park->suspend();
  if (applied == nullptr) {
    if (job->state != v1::JOB_STATE_SUSPENDED && !suspending) {
      return absl::FailedPreconditionError(absl::StrCat(
          "job ", job->id.value(), " is not suspended: it is ", NameOfState(job->state)));
    }
    const std::string actor = ActorOf(request.actor());
    v1::JobChange change;
    change.set_request_id(request.request_id());
    if (suspending) {
      *change.mutable_park() = *job->park;
      change.mutable_park()->set_suspend(false);
    } else {
      change.set_state(v1::JOB_STATE_PENDING);
      change.set_queued_ms(now.wall_ms);
    }
    ChangeJob(*job, kResumed, absl::StrCat("resumed by ", actor), std::move(change), now, actor);
    Decide(now);
  }
  v1::ResumeJobResponse response;
  const auto after = state_.Find(job->id);
  response.set_state(after->state);
  if (after->park != nullptr) {
    response.set_note("it is still saving its state, and queues again when that is done");
  } else {
    response.set_note(WaitingReason(job->id));
  }
  return response;
}

}  // namespace fathom
