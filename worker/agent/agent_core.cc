#include "worker/agent/agent_core.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/text.h"

namespace fathom {
namespace {

using Kind = AgentAction::Kind;

RankId IdOf(const v1::DesiredJob& job, int32_t rank) {
  return {JobId(job.plan().job()), job.plan().epoch(), rank};
}

RankId IdOf(const v1::RankStatus& status) {
  return {JobId(status.job()), status.epoch(), status.rank()};
}

bool Ended(v1::RankState state) {
  return state == v1::RANK_STATE_FINISHED || state == v1::RANK_STATE_FAILED ||
         state == v1::RANK_STATE_STOPPED;
}

}  // namespace

AgentCore::AgentCore(AgentOptions options) : options_(std::move(options)) {
  FATHOM_CHECK(options_.check_plan != nullptr);
}

// --- What should be ---

void AgentCore::OnDesired(const v1::DesiredState& desired) {
  ++desired_count_;
  std::map<JobEpoch, WantedJob> next;
  for (const v1::DesiredJob& job : desired.jobs()) {
    // Of two epochs of one job in the list the newer must win, whichever comes first.
    JobMemory& memory = memory_[JobId(job.plan().job())];
    memory.last_wanted = desired_count_;
    if (job.plan().epoch() > memory.newest_epoch) {
      memory = JobMemory{.newest_epoch = job.plan().epoch(),
                         .plan_hash = Xxh64(job.plan().SerializeAsString()),
                         .plan_status = options_.check_plan(job.plan()),
                         .asked = {},
                         .last_wanted = desired_count_};
    }
  }
  for (const v1::DesiredJob& job : desired.jobs()) {
    const JobEpoch key(JobId(job.plan().job()), job.plan().epoch());
    next[key] = {std::make_shared<v1::DesiredJob>(job), Admit(job)};
    // A coordinator that has fallen behind must not stop what a newer one started.
    const JobEpoch newest(key.first, memory_[key.first].newest_epoch);
    const auto kept = wanted_.find(newest);
    if (key < newest && kept != wanted_.end()) next.emplace(newest, kept->second);
  }
  wanted_ = std::move(next);
  wanted_ranks_.clear();
  for (const auto& [key, wanted] : wanted_) AddWantedRanks(wanted);
  desired_version_ = desired.version();
  ForgetOldJobs();
}

absl::Status AgentCore::Admit(const v1::DesiredJob& job) {
  const v1::Plan& plan = job.plan();
  if (!IsSafeJobId(plan.job())) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", CutText(plan.job(), 64), "' is no job's id; not started"));
  }
  const JobMemory& memory = memory_[JobId(plan.job())];
  if (plan.epoch() == 0) return absl::InvalidArgumentError("epochs count from 1; not started");
  if (plan.epoch() < memory.newest_epoch) {
    return absl::FailedPreconditionError(
        absl::StrCat("epoch ", plan.epoch(), " is older than epoch ", memory.newest_epoch,
                     " that this node has already seen; not started"));
  }
  if (!memory.plan_status.ok()) return memory.plan_status;
  if (Xxh64(plan.SerializeAsString()) != memory.plan_hash) {
    return absl::FailedPreconditionError(absl::StrCat(
        "two different plans for epoch ", plan.epoch(), "; a new plan needs a new epoch"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> AgentCore::DeviceFor(const v1::Plan& plan, int32_t rank) const {
  if (rank < 0 || rank >= plan.ranks_size() || plan.ranks(rank).rank() != rank) {
    return absl::FailedPreconditionError(absl::StrCat("the plan has no rank ", rank));
  }
  const v1::RankAssignment& assignment = plan.ranks(rank);
  if (assignment.node() != options_.node.name()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the plan places it on node ", assignment.node(), ", but this is ", options_.node.name()));
  }
  for (const v1::Device& device : options_.node.devices()) {
    if (device.index() == assignment.device()) return assignment.device();
  }
  return absl::FailedPreconditionError(absl::StrCat("the plan places it on device ",
                                                    assignment.device(), "; this node has ",
                                                    options_.node.devices_size()));
}

void AgentCore::AddWantedRanks(const WantedJob& wanted) {
  const v1::Plan& plan = wanted.job->plan();
  const JobMemory& memory = memory_[JobId(plan.job())];
  for (const int32_t number : wanted.job->ranks()) {
    const RankId id = IdOf(*wanted.job, number);
    wanted_ranks_.insert(id);
    const auto [it, is_new] = ranks_.try_emplace(id);
    if (!is_new) continue;
    Rank& rank = it->second;
    rank.status.set_job(plan.job());
    rank.status.set_epoch(plan.epoch());
    rank.status.set_rank(number);
    SetState(&rank, v1::RANK_STATE_STARTING, "");
    absl::Status refusal = wanted.refusal;
    if (refusal.ok()) {
      const absl::StatusOr<int32_t> device = DeviceFor(plan, number);
      refusal = device.status();
      if (device.ok()) rank.device = *device;
    }
    if (refusal.ok() && memory.asked.contains(number)) {
      refusal = absl::FailedPreconditionError(
          "it already ran in this epoch and was stopped; to run again it needs a new epoch");
    }
    if (!refusal.ok()) {
      rank.process = Process::kGone;
      // The code leads, as in what ranks report: it tells whether a new epoch may help.
      SetState(&rank, v1::RANK_STATE_FAILED,
               absl::StrCat(absl::StatusCodeToString(refusal.code()), ": ", refusal.message()));
    }
  }
}

void AgentCore::ForgetOldJobs() {
  while (memory_.size() > kMaxRememberedJobs) {
    auto oldest = memory_.end();
    for (auto it = memory_.begin(); it != memory_.end(); ++it) {
      const auto rank = ranks_.lower_bound({it->first, 0, 0});
      const bool in_use = it->second.last_wanted == desired_count_ ||
                          (rank != ranks_.end() && rank->first.job == it->first);
      if (in_use) continue;
      if (oldest == memory_.end() || it->second.last_wanted < oldest->second.last_wanted) {
        oldest = it;
      }
    }
    if (oldest == memory_.end()) return;
    memory_.erase(oldest);
  }
}

void AgentCore::Shutdown(absl::string_view reason) {
  if (!shutdown_reason_) shutdown_reason_ = std::string(reason);
}

// --- What is ---

AgentCore::Rank* AgentCore::Alive(const RankId& id) {
  const auto it = ranks_.find(id);
  if (it == ranks_.end() || it->second.process != Process::kAlive) return nullptr;
  return &it->second;
}

void AgentCore::OnStarted(const RankId& id, int64_t pid) {
  const auto it = ranks_.find(id);
  FATHOM_CHECK(it != ranks_.end() && it->second.process == Process::kStartAsked) << ToString(id);
  it->second.process = Process::kAlive;
  it->second.status.set_pid(pid);
  ++revision_;
}

void AgentCore::OnStartFailed(const RankId& id, const absl::Status& why) {
  const auto it = ranks_.find(id);
  FATHOM_CHECK(it != ranks_.end() && it->second.process == Process::kStartAsked) << ToString(id);
  it->second.process = Process::kGone;
  SetState(&it->second, v1::RANK_STATE_FAILED, absl::StrCat("not started: ", why.message()));
}

void AgentCore::OnEvent(const RankId& id, const v1::RankEvent& event, absl::Duration now) {
  Rank* rank = Alive(id);
  if (rank == nullptr) return;
  v1::RankStatus& status = rank->status;
  switch (event.event_case()) {
    case v1::RankEvent::kListening:
      if (status.state() != v1::RANK_STATE_STARTING) return;
      status.set_endpoint(event.listening());
      return SetState(rank, v1::RANK_STATE_LISTENING, "");
    case v1::RankEvent::kTraining:
      if (Ended(status.state())) return;
      return SetState(rank, v1::RANK_STATE_TRAINING, "");
    case v1::RankEvent::kStep:
      *status.mutable_last_step() = event.step();
      return;
    case v1::RankEvent::kCheckpoint:
      *status.mutable_checkpoint() = event.checkpoint();
      ++revision_;
      return;
    case v1::RankEvent::kValidation:
      *status.mutable_validation() = event.validation();
      ++revision_;
      return;
    case v1::RankEvent::kFinished:
      status.set_weights_sha256(event.finished().weights_sha256());
      rank->finished_said = true;
      return ExpectEnd(rank, now, options_.exit_grace, "said that it had finished");
    case v1::RankEvent::kFailed:
      // A rank torn down by our wish may well call that a failure.
      if (!rank->stop_sent) SetState(rank, v1::RANK_STATE_FAILED, event.failed());
      return ExpectEnd(rank, now, options_.exit_grace, "reported its failure");
    case v1::RankEvent::EVENT_NOT_SET:
      return;  // of a newer version
  }
}

void AgentCore::OnChannelClosed(const RankId& id, const absl::Status& why, absl::Duration now) {
  Rank* rank = Alive(id);
  if (rank == nullptr) return;
  if (why.ok()) return ExpectEnd(rank, now, options_.exit_grace, "closed its channel");
  // Nothing it says can be understood any more, and it can't be asked to stop either.
  if (!rank->stop_sent && !Ended(rank->status.state())) {
    SetState(rank, v1::RANK_STATE_FAILED, why.message());
  }
  ExpectEnd(rank, now, absl::ZeroDuration(), "broke its channel");
}

void AgentCore::OnExited(const RankId& id, bool exit_code_zero, absl::string_view how) {
  Rank* rank = Alive(id);
  if (rank == nullptr) return;
  rank->process = Process::kGone;
  ++revision_;
  if (rank->status.state() == v1::RANK_STATE_FAILED) return;  // its own words are the best
  std::string message(how);
  if (rank->kill_sent) message = rank->overstayed;
  if (rank->finished_said && exit_code_zero) {
    SetState(rank, v1::RANK_STATE_FINISHED, "");
  } else if (rank->stop_sent) {
    SetState(rank, v1::RANK_STATE_STOPPED,
             absl::StrCat(shutdown_reason_.value_or("no longer wanted"), "; ", message));
  } else if (rank->finished_said && !rank->kill_sent) {
    SetState(rank, v1::RANK_STATE_FAILED, absl::StrCat("after it had finished it ", message));
  } else if (exit_code_zero) {
    SetState(rank, v1::RANK_STATE_FAILED, absl::StrCat(message, ", without having finished"));
  } else {
    SetState(rank, v1::RANK_STATE_FAILED, message);
  }
}

void AgentCore::SetState(Rank* rank, v1::RankState state, absl::string_view message) {
  std::string text = CutText(message, limits::kMaxTextBytes);
  if (rank->status.state() == state && rank->status.message() == text) return;
  rank->status.set_state(state);
  rank->status.set_message(std::move(text));
  ++revision_;
}

void AgentCore::ExpectEnd(Rank* rank, absl::Duration now, absl::Duration grace,
                          absl::string_view because) {
  if (rank->end_by && *rank->end_by <= now + grace) return;
  rank->end_by = now + grace;
  rank->overstayed = absl::StrCat("killed: it ", because, " and was still there ",
                                  absl::FormatDuration(grace), " later");
}

// --- The difference ---

std::vector<AgentAction> AgentCore::Reconcile(absl::Duration now) {
  std::vector<AgentAction> actions;
  EndUnwanted(now, &actions);
  StartAndConnect(&actions);
  if (acted_version_ != desired_version_) {
    acted_version_ = desired_version_;
    ++revision_;
  }
  return actions;
}

void AgentCore::EndUnwanted(absl::Duration now, std::vector<AgentAction>* actions) {
  for (auto it = ranks_.begin(); it != ranks_.end();) {
    const RankId& id = it->first;
    Rank& rank = it->second;
    const bool wanted = IsWanted(id);
    if (rank.process == Process::kNone && wanted && shutdown_reason_) {
      rank.process = Process::kGone;
      SetState(&rank, v1::RANK_STATE_STOPPED, *shutdown_reason_);
    }
    if (rank.process == Process::kAlive) {
      if ((!wanted || shutdown_reason_) && !rank.stop_sent) {
        rank.stop_sent = true;
        AgentAction stop{Kind::kStop, id, {}};
        stop.command.mutable_stop()->set_reason(
            shutdown_reason_.value_or("no longer wanted by the coordinator"));
        actions->push_back(std::move(stop));
        ExpectEnd(&rank, now, options_.stop_grace, "was asked to stop");
      }
      if (rank.end_by && *rank.end_by <= now && !rank.kill_sent) {
        rank.kill_sent = true;
        actions->push_back({Kind::kKill, id, {}});
      }
    }
    if (!wanted && (rank.process == Process::kNone || rank.process == Process::kGone)) {
      actions->push_back({Kind::kForget, id, {}});
      ++revision_;
      it = ranks_.erase(it);
    } else {
      ++it;
    }
  }
}

void AgentCore::StartAndConnect(std::vector<AgentAction>* actions) {
  for (const RankId& id : wanted_ranks_) {
    Rank& rank = ranks_.at(id);
    const v1::DesiredJob& job = *wanted_.at({id.job, id.epoch}).job;
    if (rank.process == Process::kNone) MaybeStart(id, &rank, job, actions);
    const bool needs_peers = rank.process == Process::kAlive && !rank.peers_sent &&
                             rank.status.state() == v1::RANK_STATE_LISTENING;
    if (needs_peers && job.peers_size() > 0 && !rank.stop_sent) {
      rank.peers_sent = true;
      AgentAction send{Kind::kSendPeers, id, {}};
      *send.command.mutable_peers()->mutable_peers() = job.peers();
      actions->push_back(std::move(send));
    }
  }
}

void AgentCore::MaybeStart(const RankId& id, Rank* rank, const v1::DesiredJob& job,
                           std::vector<AgentAction>* actions) {
  const Rank* holder = DeviceHolder(rank->device);
  if (holder != nullptr && holder->end_by) {
    return SetState(rank, v1::RANK_STATE_STARTING,
                    absl::StrCat("waits for device ", rank->device, " until ",
                                 ToString(IdOf(holder->status)), " has ended"));
  }
  if (holder != nullptr) {
    rank->process = Process::kGone;
    return SetState(rank, v1::RANK_STATE_FAILED,
                    absl::StrCat("device ", rank->device, " is taken by ",
                                 ToString(IdOf(holder->status)), ", which is wanted as well"));
  }
  rank->process = Process::kStartAsked;
  SetState(rank, v1::RANK_STATE_STARTING, "");
  memory_.at(id.job).asked.insert(id.rank);
  AgentAction start{Kind::kStart, id, {}};
  v1::RankStart* command = start.command.mutable_start();
  *command->mutable_plan() = job.plan();
  command->set_rank(id.rank);
  command->set_checkpoint_directory(job.checkpoint_directory());
  command->set_bind_host(options_.node.address());
  actions->push_back(std::move(start));
}

bool AgentCore::IsWanted(const RankId& id) const { return wanted_ranks_.contains(id); }

const AgentCore::Rank* AgentCore::DeviceHolder(int32_t device) const {
  for (const auto& [id, rank] : ranks_) {
    const bool has_process =
        rank.process == Process::kStartAsked || rank.process == Process::kAlive;
    if (rank.device == device && has_process) return &rank;
  }
  return nullptr;
}

std::optional<absl::Duration> AgentCore::NextDeadline() const {
  std::optional<absl::Duration> next;
  for (const auto& [id, rank] : ranks_) {
    if (rank.process != Process::kAlive || !rank.end_by || rank.kill_sent) continue;
    if (!next || *rank.end_by < *next) next = rank.end_by;
  }
  return next;
}

v1::NodeReport AgentCore::Report() const {
  v1::NodeReport report;
  *report.mutable_node() = options_.node;
  report.set_incarnation(options_.incarnation);
  report.set_pid(options_.pid);
  report.set_spare(options_.spare);
  report.set_desired_version(acted_version_);
  for (const auto& [id, rank] : ranks_) *report.add_ranks() = rank.status;
  return report;
}

std::optional<v1::RankState> AgentCore::StateOf(const RankId& id) const {
  const auto it = ranks_.find(id);
  if (it == ranks_.end()) return std::nullopt;
  return it->second.status.state();
}

bool AgentCore::AnyProcessAlive() const {
  return std::any_of(ranks_.begin(), ranks_.end(),
                     [](const auto& entry) { return entry.second.process == Process::kAlive; });
}

}  // namespace fathom
