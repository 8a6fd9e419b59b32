#include "coordinator/core/durable_state.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

absl::Status Misfit(const v1::Record& record, absl::string_view why) {
  return absl::DataLossError(absl::StrCat("record ", record.sequence(), " (", record.kind(),
                                          ", job '", record.job(),
                                          "') does not fit the state: ", why));
}

v1::Event EventOf(const v1::Record& record) {
  v1::Event event;
  event.set_sequence(record.sequence());
  event.set_time_ms(record.time_ms());
  event.set_job(record.job());
  event.set_node(record.node());
  event.set_kind(record.kind());
  event.set_message(record.message());
  event.set_actor(record.actor());
  return event;
}

}  // namespace

absl::Status DurableState::Apply(const v1::Record& record) {
  if (record.sequence() != sequence_ + 1) {
    return Misfit(record, absl::StrCat("record ", sequence_ + 1, " was to follow"));
  }
  switch (record.change_case()) {
    case v1::Record::kSubmitted:
      FATHOM_RETURN_IF_ERROR(ApplySubmitted(record));
      break;
    case v1::Record::kJobChange:
      FATHOM_RETURN_IF_ERROR(ApplyJobChange(record));
      break;
    case v1::Record::kNodeChange:
      break;  // an event, and nothing to keep: nodes say themselves what they are
    case v1::Record::CHANGE_NOT_SET:
      return Misfit(record, "its kind is unknown; was it written by a newer version?");
  }
  sequence_ = record.sequence();
  events_.push_back(EventOf(record));
  if (!marked_) Trim();
  return absl::OkStatus();
}

absl::Status DurableState::ApplySubmitted(const v1::Record& record) {
  const v1::JobSubmitted& submitted = record.submitted();
  if (submitted.number() < next_number_) return Misfit(record, "its number was given before");
  if (record.job().empty() || number_of_.contains(JobId(record.job()))) {
    return Misfit(record, "its id was given before");
  }
  auto job = std::make_shared<DurableJob>();
  job->id = JobId(record.job());
  job->name = JobName(submitted.name());
  job->number = submitted.number();
  job->job = std::make_shared<v1::Job>(submitted.job());
  job->reason = record.message();
  job->resume_from = submitted.resume_from();
  job->submitted_ms = record.time_ms();
  next_number_ = submitted.number() + 1;
  if (!submitted.request_id().empty()) {
    commands_.push_back({submitted.request_id(), record.kind(), job->id});
  }
  Put(std::move(job));
  return absl::OkStatus();
}

absl::Status DurableState::ApplyJobChange(const v1::Record& record) {
  const v1::JobChange& change = record.job_change();
  std::shared_ptr<const DurableJob> found = Find(JobId(record.job()));
  if (found == nullptr) return Misfit(record, "no such job");
  auto job = std::make_shared<DurableJob>(*found);
  if (IsFinal(job->state)) return Misfit(record, "the job has ended");
  if (change.epoch() != 0) {
    if (change.epoch() <= job->epoch) return Misfit(record, "its epoch does not rise");
    if (job->epoch != 0) ++job->restarts;
    job->epoch = change.epoch();
    job->best_step = change.best_step();
    job->stalled_restarts = change.stalled_restarts();
  }
  if (change.has_plan()) {
    if (change.plan().epoch() != job->epoch) return Misfit(record, "its plan is of another epoch");
    if (job->HasCurrentPlan()) return Misfit(record, "the epoch has a plan already");
    job->plan = std::make_shared<v1::Plan>(change.plan());
  }
  if (change.state() != v1::JOB_STATE_UNSPECIFIED) {
    if (!MayChange(job->state, change.state())) {
      return Misfit(record, absl::StrCat("no way from ", NameOfState(job->state), " to ",
                                         NameOfState(change.state())));
    }
    job->state = change.state();
    if (job->state == v1::JOB_STATE_RUNNING && job->started_ms == 0) {
      job->started_ms = record.time_ms();
    }
    if (IsFinal(job->state)) job->finished_ms = record.time_ms();
    job->reason = record.message();
  }
  if (change.has_checkpoint()) job->checkpoint = change.checkpoint();
  if (change.has_last_step()) job->last_step = change.last_step();
  if (change.has_validation()) job->validation = change.validation();
  if (change.tokens_per_second() > 0) job->tokens_per_second = change.tokens_per_second();
  if (!change.weights_sha256().empty()) job->weights_sha256 = change.weights_sha256();
  if (!change.request_id().empty()) {
    commands_.push_back({change.request_id(), record.kind(), job->id});
  }
  Put(std::move(job));
  return absl::OkStatus();
}

void DurableState::Put(std::shared_ptr<const DurableJob> job) {
  auto& place = jobs_[job->number];
  if (marked_) undo_.before.try_emplace(job->number, place);
  if (place != nullptr && !IsFinal(place->state)) --unfinished_;
  if (!IsFinal(job->state)) ++unfinished_;
  number_of_[job->id] = job->number;
  place = std::move(job);
}

void DurableState::Erase(int64_t number) {
  auto found = jobs_.find(number);
  if (found == jobs_.end()) return;
  if (!IsFinal(found->second->state)) --unfinished_;
  number_of_.erase(found->second->id);
  jobs_.erase(found);
}

// The oldest beyond the limits are forgotten; never within a mark, so that Rollback can be exact.
void DurableState::Trim() {
  while (events_.size() > limits::kMaxEvents) events_.pop_front();
  while (commands_.size() > limits::kMaxRequestIds) commands_.pop_front();
  int finished = static_cast<int>(jobs_.size()) - unfinished_;
  for (auto it = jobs_.begin(); it != jobs_.end() && finished > limits::kMaxFinishedJobs;) {
    const auto next = std::next(it);
    if (IsFinal(it->second->state)) {
      Erase(it->first);
      --finished;
    }
    it = next;
  }
}

void DurableState::Mark() {
  FATHOM_CHECK(!marked_) << "marked twice";
  marked_ = true;
  undo_ = Undo{{}, events_.size(), commands_.size(), sequence_, next_number_};
}

void DurableState::Commit() {
  FATHOM_CHECK(marked_) << "commit without mark";
  marked_ = false;
  undo_ = Undo{};
  Trim();
}

void DurableState::Rollback() {
  FATHOM_CHECK(marked_) << "rollback without mark";
  marked_ = false;
  for (auto& [number, before] : undo_.before) {
    if (before == nullptr) {
      Erase(number);
    } else {
      Put(std::move(before));
    }
  }
  events_.resize(undo_.events);
  commands_.resize(undo_.commands);
  sequence_ = undo_.sequence;
  next_number_ = undo_.next_number;
  undo_ = Undo{};
}

std::shared_ptr<const DurableJob> DurableState::Find(const JobId& id) const {
  auto found = number_of_.find(id);
  return found == number_of_.end() ? nullptr : jobs_.at(found->second);
}

std::shared_ptr<const DurableJob> DurableState::FindByNameOrId(const std::string& name) const {
  if (auto job = Find(JobId(name))) return job;
  for (auto it = jobs_.rbegin(); it != jobs_.rend(); ++it) {
    if (it->second->name.value() == name) return it->second;
  }
  return nullptr;
}

std::shared_ptr<const DurableJob> DurableState::FindUnfinished(const JobName& name) const {
  for (const auto& [number, job] : jobs_) {
    if (job->name == name && !IsFinal(job->state)) return job;
  }
  return nullptr;
}

const AppliedCommand* DurableState::FindCommand(const std::string& request_id) const {
  auto found = std::find_if(commands_.begin(), commands_.end(),
                            [&](const AppliedCommand& c) { return c.request_id == request_id; });
  return found == commands_.end() ? nullptr : &*found;
}

std::string DurableState::Fingerprint() const {
  std::string text = absl::StrCat("sequence ", sequence_, " next ", next_number_, " unfinished ",
                                  unfinished_, "\n");
  for (const auto& [number, job] : jobs_) {
    absl::StrAppend(&text, number, " ", job->id.value(), " ", job->name.value(), " ",
                    NameOfState(job->state), " '", job->reason, "' epoch ", job->epoch, " ");
    absl::StrAppend(&text, job->best_step, " ", job->restarts, " ", job->stalled_restarts, " ",
                    job->weights_sha256, " ", job->tokens_per_second, " ", job->submitted_ms, " ",
                    job->started_ms, " ", job->finished_ms, "\n");
    absl::StrAppend(&text, job->plan == nullptr ? "no plan" : job->plan->ShortDebugString(), "\n",
                    job->resume_from.ShortDebugString(), job->checkpoint.ShortDebugString(),
                    job->last_step.ShortDebugString(), job->validation.ShortDebugString(), "\n",
                    job->job->metadata().name(), job->job->spec().ShortDebugString(), "\n");
  }
  for (const v1::Event& event : events_) absl::StrAppend(&text, event.ShortDebugString(), "\n");
  for (const AppliedCommand& command : commands_) {
    absl::StrAppend(&text, command.request_id, " ", command.kind, " ", command.job.value(), "\n");
  }
  return text;
}

}  // namespace fathom
