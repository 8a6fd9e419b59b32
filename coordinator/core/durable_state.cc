#include "coordinator/core/durable_state.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/planted.h"
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

// Where ranks of older epochs may still live; those before have long been told to end.
constexpr size_t kFormerPlansMax = 4;

void Replace(std::shared_ptr<const v1::Plan> plan, DurableJob* job) {
  if (job->plan != nullptr) {
    job->former_plans.push_back(std::move(job->plan));
    if (job->former_plans.size() > kFormerPlansMax) {
      job->former_plans.erase(job->former_plans.begin());
    }
  }
  job->plan = std::move(plan);
}

void DropRecovery(uint64_t epoch, DurableJob* job) {
  std::erase_if(job->recoveries, [&](const auto& recovery) { return recovery->epoch() == epoch; });
}

void AddRecovery(const v1::RecoveryRecord& recovery, DurableJob* job) {
  DropRecovery(recovery.epoch(), job);
  job->recoveries.push_back(std::make_shared<v1::RecoveryRecord>(recovery));
  if (job->recoveries.size() > limits::kMaxRecoveries) {
    job->recoveries.erase(job->recoveries.begin());
  }
}

void DropNext(DurableJob* job) {
  if (job->next_plan == nullptr) return;
  DropRecovery(job->next_plan->epoch(), job);
  // Its processes may live on for a moment.
  job->former_plans.push_back(std::move(job->next_plan));
  if (job->former_plans.size() > kFormerPlansMax) {
    job->former_plans.erase(job->former_plans.begin());
  }
  job->next_plan = nullptr;
}

// The parts of a change that are about epochs and plans. Not empty: why they don't fit.
std::string ApplyEpochs(const v1::JobChange& change, DurableJob* job) {
  const bool planned = change.has_recovery() && change.recovery().planned();
  if (change.drop_next_plan()) DropNext(job);
  if (change.promote_next_plan()) {
    if (job->next_plan == nullptr) return "there is no next plan";
    if (!planned) ++job->restarts;
    job->epoch = job->next_plan->epoch();
    Replace(std::move(job->next_plan), job);
    job->next_plan = nullptr;
    job->best_step = change.best_step();
    job->stalled_restarts = change.stalled_restarts();
  }
  if (change.epoch() != 0) {
    if (change.epoch() <= job->last_epoch) return "its epoch does not rise";
    if (job->next_plan != nullptr) return "an epoch is prepared already";
    if (job->epoch != 0 && job->state != v1::JOB_STATE_PENDING) ++job->restarts;
    job->epoch = change.epoch();
    job->last_epoch = change.epoch();
    job->best_step = change.best_step();
    job->stalled_restarts = change.stalled_restarts();
  }
  if (change.has_plan()) {
    if (change.plan().epoch() != job->epoch) return "its plan is of another epoch";
    if (job->HasCurrentPlan()) return "the epoch has a plan already";
    Replace(std::make_shared<v1::Plan>(change.plan()), job);
  }
  if (change.has_next_plan()) {
    if (change.next_plan().epoch() <= job->last_epoch) return "its next epoch does not rise";
    if (job->next_plan != nullptr || !job->HasCurrentPlan()) return "no time for a next plan";
    job->next_plan = std::make_shared<v1::Plan>(change.next_plan());
    job->last_epoch = change.next_plan().epoch();
  }
  return "";
}

void ApplyState(const v1::Record& record, DurableJob* job) {
  job->state = record.job_change().state();
  job->reason = record.message();
  if (job->state == v1::JOB_STATE_RUNNING && job->started_ms == 0) {
    job->started_ms = record.time_ms();
  }
  if (IsFinal(job->state)) {
    job->finished_ms = record.time_ms();
    DropNext(job);
    job->former_plans.clear();
    job->park = nullptr;
  }
  // Parked: it holds nothing and comes back with an epoch of its own.
  const bool parked = job->state == v1::JOB_STATE_PENDING || job->state == v1::JOB_STATE_SUSPENDED;
  if (parked) {
    DropNext(job);
    Replace(nullptr, job);
    job->park = nullptr;
  }
}

}  // namespace

const v1::RecoveryRecord* DurableJob::RecoveryOf(uint64_t of_epoch) const {
  for (auto it = recoveries.rbegin(); it != recoveries.rend(); ++it) {
    if ((*it)->epoch() == of_epoch) return it->get();
  }
  return nullptr;
}

const v1::Plan* DurableJob::PlanOf(uint64_t of_epoch) const {
  if (plan != nullptr && plan->epoch() == of_epoch) return plan.get();
  if (next_plan != nullptr && next_plan->epoch() == of_epoch) return next_plan.get();
  for (const auto& former : former_plans) {
    if (former->epoch() == of_epoch) return former.get();
  }
  return nullptr;
}

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
      FATHOM_RETURN_IF_ERROR(ApplyNodeChange(record));
      break;
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
  job->queued_ms = record.time_ms();
  next_number_ = submitted.number() + 1;
  if (!submitted.request_id().empty()) {
    Remember({submitted.request_id(), record.kind(), job->id, {}});
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
  const std::string misfit = ApplyEpochs(change, job.get());
  if (!misfit.empty()) return Misfit(record, misfit);
  if (change.state() != v1::JOB_STATE_UNSPECIFIED) {
    if (!MayChange(job->state, change.state())) {
      return Misfit(record, absl::StrCat("no way from ", NameOfState(job->state), " to ",
                                         NameOfState(change.state())));
    }
    ApplyState(record, job.get());
  }
  if (change.has_recovery()) AddRecovery(change.recovery(), job.get());
  if (change.has_park()) job->park = std::make_shared<v1::ParkRequest>(change.park());
  if (change.drop_park()) job->park = nullptr;
  if (change.diagnose() != 0) job->diagnose = change.diagnose();
  if (change.diagnoses_size() > 0) {
    job->diagnoses.assign(change.diagnoses().begin(), change.diagnoses().end());
  }
  if (change.queued_ms() != 0) job->queued_ms = change.queued_ms();
  if (change.has_checkpoint()) job->checkpoint = change.checkpoint();
  if (change.has_last_step()) job->last_step = change.last_step();
  if (change.has_validation()) job->validation = change.validation();
  if (change.tokens_per_second() > 0) job->tokens_per_second = change.tokens_per_second();
  if (!change.weights_sha256().empty()) job->weights_sha256 = change.weights_sha256();
  if (!change.request_id().empty()) {
    Remember({change.request_id(), record.kind(), job->id, {}});
  }
  Put(std::move(job));
  return absl::OkStatus();
}

absl::Status DurableState::ApplyNodeChange(const v1::Record& record) {
  const v1::NodeChange& change = record.node_change();
  if (!change.request_id().empty()) {
    Remember({change.request_id(), record.kind(), {}, NodeName(record.node())});
  }
  const bool keeps = change.has_admin() || change.drop_admin() || change.has_preflight() ||
                     change.drained() || !change.preflight_request().empty();
  if (!keeps) return absl::OkStatus();  // an event: nodes say themselves what they are
  if (record.node().empty()) return Misfit(record, "it names no node");
  const NodeName name(record.node());
  auto node = std::make_shared<DurableNode>(*FindNode(name));
  if (change.has_admin() || change.drop_admin()) {
    node->admin = change.admin();
    node->drained = false;
  }
  if (change.drained()) node->drained = true;
  if (change.has_preflight()) node->preflight = change.preflight();
  if (!change.preflight_request().empty()) {
    node->preflight_request = change.preflight_request();
    ++node->preflights;
  }
  PutNode(name, std::move(node));
  return absl::OkStatus();
}

void DurableState::Remember(AppliedCommand command) {
  if (FATHOM_PLANT(kRequestsForgottenAtRestart) && !marked_) return;
  command_of_[command.request_id] = commands_forgotten_ + commands_.size();
  commands_.push_back(std::move(command));
}

void DurableState::Put(std::shared_ptr<const DurableJob> job) {
  auto& place = jobs_[job->number];
  if (marked_) undo_.before.try_emplace(job->number, place);
  number_of_[job->id] = job->number;
  numbers_of_name_[job->name].insert(job->number);
  if (IsFinal(job->state)) {
    unfinished_.erase(job->number);
  } else {
    unfinished_[job->number] = job;
  }
  place = std::move(job);
}

void DurableState::PutNode(const NodeName& name, std::shared_ptr<const DurableNode> node) {
  auto& place = nodes_[name];
  if (marked_) undo_.nodes_before.try_emplace(name, place);
  place = std::move(node);
}

void DurableState::Erase(int64_t number) {
  auto found = jobs_.find(number);
  if (found == jobs_.end()) return;
  unfinished_.erase(number);
  number_of_.erase(found->second->id);
  const auto same_name = numbers_of_name_.find(found->second->name);
  same_name->second.erase(number);
  if (same_name->second.empty()) numbers_of_name_.erase(same_name);
  jobs_.erase(found);
}

// The oldest beyond the limits are forgotten; never within a mark, so that Rollback can be exact.
void DurableState::Trim() {
  while (events_.size() > limits::kMaxEvents) events_.pop_front();
  while (commands_.size() > limits::kMaxRequestIds) {
    const auto known = command_of_.find(commands_.front().request_id);
    if (known->second == commands_forgotten_) command_of_.erase(known);
    commands_.pop_front();
    ++commands_forgotten_;
  }
  auto finished = static_cast<int>(jobs_.size() - unfinished_.size());
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
  undo_ = Undo{{}, {}, events_.size(), commands_.size(), sequence_, next_number_};
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
  for (auto& [name, before] : undo_.nodes_before) {
    if (before == nullptr) {
      nodes_.erase(name);
    } else {
      nodes_[name] = std::move(before);
    }
  }
  events_.resize(undo_.events);
  while (commands_.size() > undo_.commands) {
    command_of_.erase(commands_.back().request_id);
    commands_.pop_back();
  }
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
  const auto found = numbers_of_name_.find(JobName(name));
  return found == numbers_of_name_.end() ? nullptr : jobs_.at(*found->second.rbegin());
}

std::shared_ptr<const DurableJob> DurableState::FindUnfinished(const JobName& name) const {
  const auto found = numbers_of_name_.find(name);
  if (found == numbers_of_name_.end()) return nullptr;
  for (const int64_t number : found->second) {
    const auto job = unfinished_.find(number);
    if (job != unfinished_.end()) return job->second;
  }
  return nullptr;
}

std::shared_ptr<const DurableNode> DurableState::FindNode(const NodeName& name) const {
  static const auto* const nothing =
      new std::shared_ptr<const DurableNode>(std::make_shared<DurableNode>());
  const auto found = nodes_.find(name);
  return found == nodes_.end() ? *nothing : found->second;
}

const AppliedCommand* DurableState::FindCommand(const std::string& request_id) const {
  const auto found = command_of_.find(request_id);
  return found == command_of_.end() ? nullptr : &commands_[found->second - commands_forgotten_];
}

std::string DurableState::Fingerprint() const {
  std::string text = absl::StrCat("sequence ", sequence_, " next ", next_number_, " unfinished ",
                                  unfinished_.size(), "\n");
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
    absl::StrAppend(&text, "last epoch ", job->last_epoch, " next ",
                    job->next_plan == nullptr ? "none" : job->next_plan->ShortDebugString(),
                    " park ", job->park == nullptr ? "none" : job->park->ShortDebugString(),
                    " queued ", job->queued_ms, " diagnose ", job->diagnose, "\n");
    for (const auto& plan : job->former_plans) {
      absl::StrAppend(&text, "former ", plan->ShortDebugString(), "\n");
    }
    for (const auto& recovery : job->recoveries) {
      absl::StrAppend(&text, recovery->ShortDebugString(), "\n");
    }
    for (const v1::RankDiagnosis& diagnosis : job->diagnoses) {
      absl::StrAppend(&text, diagnosis.ShortDebugString(), "\n");
    }
  }
  for (const auto& [name, node] : nodes_) {
    absl::StrAppend(&text, name.value(), " ", node->admin.ShortDebugString(), " ", node->drained,
                    " ", node->preflight.ShortDebugString(), " ", node->preflight_request, " ",
                    node->preflights, "\n");
  }
  for (const v1::Event& event : events_) absl::StrAppend(&text, event.ShortDebugString(), "\n");
  for (const AppliedCommand& command : commands_) {
    absl::StrAppend(&text, command.request_id, " ", command.kind, " ", command.job.value(), "\n");
  }
  return text;
}

}  // namespace fathom
