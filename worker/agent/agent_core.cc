#include "worker/agent/agent_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/planted.h"
#include "common/base/text.h"

namespace fathom {
namespace {

using Kind = AgentAction::Kind;

constexpr char kNoLongerWanted[] = "no longer wanted";

bool Ended(v1::RankState state) {
  return state == v1::RANK_STATE_FINISHED || state == v1::RANK_STATE_FAILED ||
         state == v1::RANK_STATE_STOPPED || state == v1::RANK_STATE_PARKED ||
         state == v1::RANK_STATE_MOVED;
}

// Whether a rank says this only of the epoch that it runs.
bool TellsOfRunning(const v1::RankEvent& event) {
  return !event.has_listening() && !event.has_failed() && !event.has_diagnosis();
}

void Stamp(int64_t (v1::RankTimeline::*get)() const, void (v1::RankTimeline::*set)(int64_t),
           v1::RankStatus* status, int64_t wall_ms) {
  v1::RankTimeline* timeline = status->mutable_timeline();
  if ((timeline->*get)() == 0) (timeline->*set)(wall_ms);
}

}  // namespace

AgentCore::AgentCore(AgentOptions options)
    : options_(std::move(options)), desired_(options_.check_plan) {}

// --- What should be ---

void AgentCore::OnDesired(const v1::DesiredState& desired) {
  desired_.Take(desired, [this](const JobId& job) {
    const auto rank = ranks_.lower_bound({job, 0, 0});
    return rank != ranks_.end() && rank->first.job == job;
  });
  for (const auto& [key, entry] : desired_.entries()) AddWantedRanks(entry);
  desired_version_ = desired.version();
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

void AgentCore::AddWantedRanks(const DesiredJobs::Entry& entry) {
  const v1::Plan& plan = entry.job->plan();
  for (const int32_t number : entry.job->ranks()) {
    const RankId id{JobId(plan.job()), plan.epoch(), number};
    const auto [it, is_new] = ranks_.try_emplace(id);
    if (!is_new) continue;
    Rank& rank = it->second;
    rank.status.set_job(plan.job());
    rank.status.set_epoch(plan.epoch());
    rank.status.set_rank(number);
    SetState(&rank, v1::RANK_STATE_STARTING, "");
    absl::Status refusal = entry.refusal;
    if (refusal.ok()) {
      const absl::StatusOr<int32_t> device = DeviceFor(plan, number);
      refusal = device.status();
      if (device.ok()) rank.device = *device;
    }
    if (refusal.ok() && desired_.WasAsked(id)) {
      refusal = absl::FailedPreconditionError(
          "it already ran in this epoch and was stopped; to run again it needs a new epoch");
    }
    if (refusal.ok()) continue;
    // The code leads, as in what ranks report: it tells whether a new epoch may help.
    SetState(&rank, v1::RANK_STATE_FAILED,
             absl::StrCat(absl::StatusCodeToString(refusal.code()), ": ", refusal.message()));
  }
}

void AgentCore::Shutdown(absl::string_view reason) {
  if (!shutdown_reason_) shutdown_reason_ = std::string(reason);
}

// --- What is ---

AgentCore::Process* AgentCore::Alive(ProcessId id) {
  const auto it = processes_.find(id);
  return it != processes_.end() && it->second.alive ? &it->second : nullptr;
}

void AgentCore::OnSpawned(ProcessId id, int64_t pid) {
  const auto it = processes_.find(id);
  FATHOM_CHECK(it != processes_.end() && !it->second.alive) << id;
  Process& process = it->second;
  process.alive = true;
  process.pid = pid;
  if (!process.present) return;
  no_idle_.erase(process.device);
  ranks_.at(*process.present).status.set_pid(pid);
  ++revision_;
}

void AgentCore::OnSpawnFailed(ProcessId id, const absl::Status& why) {
  const auto it = processes_.find(id);
  FATHOM_CHECK(it != processes_.end() && !it->second.alive) << id;
  if (it->second.present) {
    Rank& rank = ranks_.at(*it->second.present);
    rank.process = 0;
    SetState(&rank, v1::RANK_STATE_FAILED, absl::StrCat("not started: ", why.message()));
  } else {
    no_idle_.insert(it->second.device);
  }
  processes_.erase(it);
}

// The rank that an event is about; null: of an epoch that is over for this process.
AgentCore::Rank* AgentCore::RankOf(Process* process, const v1::RankEvent& event, AgentMoment now) {
  if (!process->present) return nullptr;
  Rank* present = &ranks_.at(*process->present);
  if (event.epoch() == 0 || event.epoch() == process->present->epoch) return present;
  if (process->next && event.epoch() == process->next->epoch) {
    Rank* next = &ranks_.at(*process->next);
    if (TellsOfRunning(event)) Move(process, now);
    return next;
  }
  // It lets go of an epoch that it was told to drop.
  if (event.has_held() && event.epoch() < process->present->epoch) {
    Stamp(&v1::RankTimeline::fenced_ms, &v1::RankTimeline::set_fenced_ms, &present->status,
          now.wall_ms);
    ++revision_;
  }
  return nullptr;
}

void AgentCore::OnEvent(ProcessId id, const v1::RankEvent& event, AgentMoment now) {
  Process* process = Alive(id);
  if (process == nullptr) return;
  if (event.has_diagnosis()) return OnDiagnosis(process, event);
  process->last_word = now;
  Rank* rank = RankOf(process, event, now);
  if (rank == nullptr) return;
  v1::RankStatus& status = rank->status;
  switch (event.event_case()) {
    case v1::RankEvent::kListening:
      return OnListening(process, rank, event.listening(), now);
    case v1::RankEvent::kLoading:
      if (status.state() != v1::RANK_STATE_STARTING && status.state() != v1::RANK_STATE_LISTENING) {
        return;
      }
      Stamp(&v1::RankTimeline::connected_ms, &v1::RankTimeline::set_connected_ms, &status,
            now.wall_ms);
      return SetState(rank, v1::RANK_STATE_LOADING, "");
    case v1::RankEvent::kTraining:
      return OnTraining(rank, event.training(), now);
    case v1::RankEvent::kStep:
      Stamp(&v1::RankTimeline::first_step_ms, &v1::RankTimeline::set_first_step_ms, &status,
            now.wall_ms);
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
    case v1::RankEvent::kHeld:
      return OnHeld(process, rank, event.held(), now);
    case v1::RankEvent::kParked:
      status.set_held_step(event.parked().step());
      process->parked_said = true;
      return ExpectEnd(process, now.steady, options_.exit_grace, "said that it had parked");
    case v1::RankEvent::kFinished:
      status.set_weights_sha256(event.finished().weights_sha256());
      process->finished_said = true;
      return ExpectEnd(process, now.steady, options_.exit_grace, "said that it had finished");
    case v1::RankEvent::kFailed:
      // A rank torn down by our wish may well call that a failure.
      if (!process->stop_sent) SetState(rank, v1::RANK_STATE_FAILED, event.failed());
      return ExpectEnd(process, now.steady, options_.exit_grace, "reported its failure");
    case v1::RankEvent::kDiagnosis:
    case v1::RankEvent::EVENT_NOT_SET:
      return;  // said above; of a newer version
  }
}

void AgentCore::OnListening(Process* process, Rank* rank, const std::string& endpoint,
                            AgentMoment now) {
  const v1::RankState state = rank->status.state();
  if (state != v1::RANK_STATE_STARTING && state != v1::RANK_STATE_LISTENING) return;
  rank->listened = true;
  if (rank->status.endpoint() != endpoint) {
    rank->status.set_endpoint(endpoint);
    ++revision_;
  }
  Stamp(&v1::RankTimeline::listening_ms, &v1::RankTimeline::set_listening_ms, &rank->status,
        now.wall_ms);
  const bool is_next = process->next && rank == &ranks_.at(*process->next);
  SetState(rank, v1::RANK_STATE_LISTENING, "");
  if (is_next && !rank->at_boundary) Move(process, now);
}

void AgentCore::OnTraining(Rank* rank, const v1::RankTraining& training, AgentMoment now) {
  v1::RankStatus& status = rank->status;
  if (Ended(status.state()) || status.state() == v1::RANK_STATE_HELD) return;
  Stamp(&v1::RankTimeline::connected_ms, &v1::RankTimeline::set_connected_ms, &status, now.wall_ms);
  Stamp(&v1::RankTimeline::loaded_ms, &v1::RankTimeline::set_loaded_ms, &status, now.wall_ms);
  if (training.has_restored()) *status.mutable_restored() = training.restored();
  SetState(rank, v1::RANK_STATE_TRAINING, "");
}

void AgentCore::OnHeld(Process* process, Rank* rank, const v1::RankHeld& held, AgentMoment now) {
  if (Ended(rank->status.state())) return;
  process->dropped_ms = now.wall_ms;
  // It obeys; what is left to do may take its time again.
  if (process->move_by) process->move_by = now.steady + options_.stop_grace;
  rank->status.set_held_step(held.step());
  rank->status.set_blamed_node(held.blamed_node());
  ++revision_;
  // Nobody's fault and not our wish: it is the boundary at which it was to leave.
  if (process->leaves_for && held.blamed_node().empty() && !rank->hold_sent) {
    return SetState(rank, v1::RANK_STATE_MOVED,
                    absl::StrCat("left for epoch ", *process->leaves_for));
  }
  SetState(rank, v1::RANK_STATE_HELD, held.message());
}

void AgentCore::OnDiagnosis(Process* process, const v1::RankEvent& event) {
  if (!process->present) return;
  const bool of_next = process->next && event.epoch() == process->next->epoch;
  Rank& rank = ranks_.at(of_next ? *process->next : *process->present);
  *rank.status.mutable_diagnosis() = event.diagnosis();
  if (event.diagnosis().token() == process->diagnose_token) process->answer_by.reset();
  ++revision_;
}

void AgentCore::OnInspected(ProcessId id, absl::string_view state, AgentMoment now) {
  Process* process = Alive(id);
  if (process == nullptr || !process->present) return;
  v1::RankStatus& status = ranks_.at(*process->present).status;
  v1::RankDiagnosis diagnosis;
  diagnosis.set_token(process->diagnose_token);
  if (status.has_last_step()) diagnosis.set_step(status.last_step().step() + 1);
  if (status.diagnosis().step() == diagnosis.step()) {
    diagnosis.set_instruction(status.diagnosis().instruction());
  }
  diagnosis.set_seconds(absl::ToDoubleSeconds(now.steady - process->last_word.steady));
  diagnosis.set_process(CutText(state, limits::kMaxTextBytes));
  *status.mutable_diagnosis() = std::move(diagnosis);
  ++revision_;
}

// The process belongs to the epoch that it was told of.
void AgentCore::Move(Process* process, AgentMoment now) {
  Rank& from = ranks_.at(*process->present);
  Rank& to = ranks_.at(*process->next);
  const std::string where = absl::StrCat("its process went on to epoch ", process->next->epoch);
  from.process = 0;
  if (!Ended(from.status.state())) SetState(&from, v1::RANK_STATE_MOVED, where);
  to.listened = true;
  const bool dropped = process->move_by || process->dropped_ms != 0;
  if (dropped) {
    Stamp(&v1::RankTimeline::fenced_ms, &v1::RankTimeline::set_fenced_ms, &to.status,
          process->dropped_ms != 0 ? process->dropped_ms : now.wall_ms);
  }
  ++(to.at_boundary ? moves_at_boundary_ : moves_at_once_);
  process->present = std::exchange(process->next, std::nullopt);
  process->move_by.reset();
  process->dropped_ms = 0;
  ++revision_;
}

void AgentCore::OnChannelClosed(ProcessId id, const absl::Status& why, AgentMoment now) {
  Process* process = Alive(id);
  if (process == nullptr) return;
  if (why.ok()) return ExpectEnd(process, now.steady, options_.exit_grace, "closed its channel");
  // Nothing it says can be understood any more, and it can't be asked to stop either.
  if (process->present && !process->stop_sent) {
    Rank& rank = ranks_.at(*process->present);
    if (!Ended(rank.status.state())) SetState(&rank, v1::RANK_STATE_FAILED, why.message());
  }
  ExpectEnd(process, now.steady, absl::ZeroDuration(), "broke its channel");
}

v1::RankState AgentCore::OnExited(ProcessId id, bool exit_code_zero, absl::string_view how) {
  if (Alive(id) == nullptr) return v1::RANK_STATE_UNSPECIFIED;
  const Process process = std::move(processes_.extract(id).mapped());
  if (!process.present) {
    if (!process.stop_sent) no_idle_.insert(process.device);
    return v1::RANK_STATE_UNSPECIFIED;
  }
  ++revision_;
  const std::string message = process.kill_sent ? process.overstayed : std::string(how);
  Rank& rank = ranks_.at(*process.present);
  rank.process = 0;
  EndPresent(process, &rank, exit_code_zero, message);
  if (process.next) {
    Rank& next = ranks_.at(*process.next);
    next.process = 0;
    EndNext(process, &next, exit_code_zero, message);
  }
  return rank.status.state();
}

void AgentCore::EndPresent(const Process& process, Rank* rank, bool exit_code_zero,
                           absl::string_view how) {
  if (Ended(rank->status.state())) return;  // its own words are the best
  if (process.finished_said && exit_code_zero) return SetState(rank, v1::RANK_STATE_FINISHED, "");
  if (process.parked_said && exit_code_zero) return SetState(rank, v1::RANK_STATE_PARKED, "");
  if (process.stop_sent) {
    return SetState(rank, v1::RANK_STATE_STOPPED,
                    absl::StrCat(shutdown_reason_.value_or(kNoLongerWanted), "; ", how));
  }
  if (process.leaves_for && exit_code_zero) {
    return SetState(rank, v1::RANK_STATE_MOVED,
                    absl::StrCat("left for epoch ", *process.leaves_for));
  }
  if (MayStartAgain(*rank)) return SetState(rank, v1::RANK_STATE_STARTING, "");
  if (process.finished_said && !process.kill_sent) {
    SetState(rank, v1::RANK_STATE_FAILED, absl::StrCat("after it had finished it ", how));
  } else if (exit_code_zero && !process.kill_sent) {
    SetState(rank, v1::RANK_STATE_FAILED, absl::StrCat(how, ", without having finished"));
  } else {
    SetState(rank, v1::RANK_STATE_FAILED, how);
  }
}

void AgentCore::EndNext(const Process& process, Rank* rank, bool exit_code_zero,
                        absl::string_view how) {
  if (Ended(rank->status.state())) return;
  const bool said = process.finished_said || process.parked_said;
  if (process.stop_sent || (said && exit_code_zero)) {
    return SetState(rank, v1::RANK_STATE_STOPPED,
                    absl::StrCat("its process ended in epoch ", process.present->epoch, "; ", how));
  }
  if (MayStartAgain(*rank)) return SetState(rank, v1::RANK_STATE_STARTING, "");
  SetState(rank, v1::RANK_STATE_FAILED,
           absl::StrCat("its process ended in epoch ", process.present->epoch, ": ", how));
}

// A process that existed before it was told of the rank, and said nothing of it, was none.
bool AgentCore::MayStartAgain(const Rank& rank) const {
  return !rank.listened && !rank.spawned && !shutdown_reason_;
}

void AgentCore::SetState(Rank* rank, v1::RankState state, absl::string_view message) {
  std::string text = CutText(message, limits::kMaxTextBytes);
  if (rank->status.state() == state && rank->status.message() == text) return;
  rank->status.set_state(state);
  rank->status.set_message(std::move(text));
  ++revision_;
}

void AgentCore::ExpectEnd(Process* process, absl::Duration now, absl::Duration grace,
                          absl::string_view because) {
  if (process->end_by && *process->end_by <= now + grace) return;
  process->end_by = now + grace;
  process->overstayed = absl::StrCat("killed: it ", because, " and was still there ",
                                     absl::FormatDuration(grace), " later");
}

// --- The difference ---

std::vector<AgentAction> AgentCore::Reconcile(AgentMoment now) {
  Actions actions;
  for (auto& [id, process] : processes_) {
    if (process.alive) Advance(id, &process, now, &actions);
  }
  ForgetUnlisted();
  for (const RankId& id : desired_.ranks()) {
    Rank& rank = ranks_.at(id);
    if (rank.process == 0 && !Ended(rank.status.state())) MaybeStart(id, &rank, now, &actions);
  }
  KeepIdle(now, &actions);
  if (acted_version_ != desired_version_) {
    acted_version_ = desired_version_;
    ++revision_;
  }
  return actions;
}

void AgentCore::Advance(ProcessId id, Process* process, AgentMoment now, Actions* actions) {
  if (process->kill_sent) return;
  const bool unlisted = process->present && !desired_.Lists(*process->present);
  if (!process->stop_sent) {
    if (shutdown_reason_ || (process->end_by && unlisted)) {
      Stop(id, process, now, actions);
    } else if (!process->end_by && process->present) {
      Steer(id, process, now, actions);
    }
  }
  if (!process->stop_sent && !process->end_by && process->present) {
    SendOrders(id, *process, actions);
    SendPeers(id, process, actions);
    Diagnose(id, process, now, actions);
  }
  EndOverdue(id, process, now, actions);
}

// Towards the epoch that its device's rank belongs to from now on or soon.
void AgentCore::Steer(ProcessId id, Process* process, AgentMoment now, Actions* actions) {
  const v1::DesiredJob* job = desired_.Find(process->present->job, process->present->epoch);
  const bool listed = desired_.Lists(*process->present);
  const bool at_boundary = listed && !job->hold();
  if (const std::optional<RankId> next = SuccessorOf(id, *process)) {
    const bool told = process->next == next;
    if (!told || (ranks_.at(*next).at_boundary && !at_boundary)) {
      Tell(id, process, *next, at_boundary, now, actions);
    }
    return;
  }
  if (!listed && !FATHOM_PLANT(kUnlistedRankRuns)) return Stop(id, process, now, actions);
  const auto later = desired_.Later(process->present->job, process->present->epoch);
  if (!later.empty() && later[0]->plan().epoch() > process->told_epoch) {
    TellToLeave(id, process, *later[0], actions);
  }
}

std::optional<RankId> AgentCore::SuccessorOf(ProcessId id, const Process& process) const {
  const RankId& present = *process.present;
  for (const v1::DesiredJob* job : desired_.Later(present.job, present.epoch)) {
    const uint64_t epoch = job->plan().epoch();
    if (epoch < process.told_epoch) break;
    for (const int32_t number : job->ranks()) {
      const RankId next{present.job, epoch, number};
      const Rank& rank = ranks_.at(next);
      if (rank.device != process.device || Ended(rank.status.state())) continue;
      if (rank.process == 0 || rank.process == id) return next;
    }
  }
  return std::nullopt;
}

v1::RankCommand AgentCore::StartCommand(const v1::DesiredJob& job, int32_t rank,
                                        bool at_boundary) const {
  v1::RankCommand command;
  v1::RankStart* start = command.mutable_start();
  *start->mutable_plan() = job.plan();
  start->set_rank(rank);
  start->set_checkpoint_directory(job.checkpoint_directory());
  start->set_bind_host(options_.node.address());
  start->set_at_boundary(at_boundary);
  return command;
}

void AgentCore::Tell(ProcessId id, Process* process, const RankId& next, bool at_boundary,
                     AgentMoment now, Actions* actions) {
  if (process->next && *process->next != next) {
    Rank& dropped = ranks_.at(*process->next);
    dropped.process = 0;
    SetState(&dropped, v1::RANK_STATE_FAILED,
             absl::StrCat("its process was told of epoch ", next.epoch, " instead"));
  }
  Rank& rank = ranks_.at(next);
  rank.process = id;
  rank.at_boundary = at_boundary;
  rank.status.set_pid(process->pid);
  Stamp(&v1::RankTimeline::started_ms, &v1::RankTimeline::set_started_ms, &rank.status,
        now.wall_ms);
  ++revision_;
  process->next = next;
  process->told_epoch = next.epoch;
  process->leaves_for.reset();
  process->last_word = now;
  desired_.SetAsked(next);
  const v1::DesiredJob* job = desired_.Find(next.job, next.epoch);
  actions->push_back(
      {Kind::kSend, id, process->device, next, StartCommand(*job, next.rank, at_boundary)});
  process->move_by.reset();
  if (at_boundary) return;
  // One that listens for it already has nothing more to say before it is connected.
  if (rank.listened) return Move(process, now);
  process->move_by = now.steady + options_.stop_grace;
}

void AgentCore::TellToLeave(ProcessId id, Process* process, const v1::DesiredJob& later,
                            Actions* actions) {
  process->leaves_for = later.plan().epoch();
  process->told_epoch = later.plan().epoch();
  process->leave_peers_sent = false;
  actions->push_back(
      {Kind::kSend, id, process->device, std::nullopt, StartCommand(later, -1, true)});
}

void AgentCore::SendOrders(ProcessId id, const Process& process, Actions* actions) {
  const RankId& present = *process.present;
  const v1::DesiredJob* job = desired_.Find(present.job, present.epoch);
  Rank& rank = ranks_.at(present);
  if (job == nullptr || Ended(rank.status.state())) return;
  // Being told of the next epoch at once says the same as a hold.
  if (job->hold() && !rank.hold_sent && !process.move_by) {
    rank.hold_sent = true;
    AgentAction hold{Kind::kSend, id, process.device, present, {}};
    hold.command.mutable_hold()->set_epoch(present.epoch);
    hold.command.mutable_hold()->set_reason("the coordinator holds this epoch");
    actions->push_back(std::move(hold));
  }
  if (job->park() && !rank.park_sent) {
    rank.park_sent = true;
    AgentAction park{Kind::kSend, id, process.device, present, {}};
    park.command.mutable_park()->set_epoch(present.epoch);
    actions->push_back(std::move(park));
  }
}

void AgentCore::SendPeers(ProcessId id, Process* process, Actions* actions) {
  const auto send = [&](const v1::DesiredJob* job, const std::optional<RankId>& rank, bool* sent) {
    if (*sent || job == nullptr || job->peers_size() == 0) return;
    *sent = true;
    AgentAction action{Kind::kSend, id, process->device, rank, {}};
    *action.command.mutable_peers()->mutable_peers() = job->peers();
    action.command.mutable_peers()->set_epoch(job->plan().epoch());
    actions->push_back(std::move(action));
  };
  for (const std::optional<RankId>& about : {process->present, process->next}) {
    if (!about) continue;
    Rank& rank = ranks_.at(*about);
    if (rank.status.state() != v1::RANK_STATE_LISTENING) continue;
    send(desired_.Find(about->job, about->epoch), about, &rank.peers_sent);
  }
  if (!process->leaves_for) return;
  send(desired_.Find(process->present->job, *process->leaves_for), std::nullopt,
       &process->leave_peers_sent);
}

void AgentCore::Diagnose(ProcessId id, Process* process, AgentMoment now, Actions* actions) {
  uint64_t token = 0;
  for (const std::optional<RankId>& about : {process->present, process->next}) {
    const v1::DesiredJob* job = about ? desired_.Find(about->job, about->epoch) : nullptr;
    if (job != nullptr && token == 0) token = job->diagnose();
  }
  if (token != 0 && token != process->diagnose_token) {
    process->diagnose_token = token;
    process->answer_by = now.steady + options_.diagnose_grace;
    AgentAction ask{Kind::kSend, id, process->device, process->present, {}};
    ask.command.mutable_diagnose()->set_token(token);
    actions->push_back(std::move(ask));
  } else if (process->answer_by && *process->answer_by <= now.steady) {
    process->answer_by.reset();
    actions->push_back({Kind::kInspect, id, process->device, process->present, {}});
  }
}

void AgentCore::Stop(ProcessId id, Process* process, AgentMoment now, Actions* actions) {
  process->stop_sent = true;
  AgentAction stop{Kind::kSend, id, process->device, process->present, {}};
  stop.command.mutable_stop()->set_reason(
      shutdown_reason_.value_or("no longer wanted by the coordinator"));
  actions->push_back(std::move(stop));
  ExpectEnd(process, now.steady, options_.stop_grace, "was asked to stop");
}

void AgentCore::EndOverdue(ProcessId id, Process* process, AgentMoment now, Actions* actions) {
  if (process->move_by && *process->move_by <= now.steady) {
    process->end_by = now.steady;
    process->overstayed = absl::StrCat("killed: it was told of epoch ", process->told_epoch,
                                       " and did not drop ", process->present->epoch, " within ",
                                       absl::FormatDuration(options_.stop_grace));
  }
  if (!process->end_by || *process->end_by > now.steady) return;
  process->kill_sent = true;
  actions->push_back({Kind::kKill, id, process->device, process->present, {}});
}

void AgentCore::ForgetUnlisted() {
  for (auto it = ranks_.begin(); it != ranks_.end();) {
    if (it->second.process == 0 && !desired_.Lists(it->first)) {
      ++revision_;
      it = ranks_.erase(it);
    } else {
      ++it;
    }
  }
}

bool AgentCore::Superseded(const RankId& id, const Rank& rank) const {
  for (const v1::DesiredJob* job : desired_.Later(id.job, id.epoch)) {
    for (const int32_t number : job->ranks()) {
      const Rank& later = ranks_.at({id.job, job->plan().epoch(), number});
      if (later.device == rank.device && !Ended(later.status.state())) return true;
    }
  }
  return false;
}

void AgentCore::MaybeStart(const RankId& id, Rank* rank, AgentMoment now, Actions* actions) {
  if (shutdown_reason_) return SetState(rank, v1::RANK_STATE_STOPPED, *shutdown_reason_);
  const v1::DesiredJob& job = *desired_.Find(id.job, id.epoch);
  if (job.hold() || Superseded(id, *rank)) {
    return SetState(rank, v1::RANK_STATE_FAILED,
                    absl::StrCat("FAILED_PRECONDITION: not started: no process runs it, and its "
                                 "epoch is ",
                                 job.hold() ? "on hold" : "about to end"));
  }
  ProcessId holder_id = 0;
  Process* holder = OnDevice(rank->device, &holder_id);
  if (holder == nullptr || FATHOM_PLANT(kDeviceTakenTwice)) {
    return Spawn(rank->device, &id, now, actions);
  }
  if (!holder->alive) return;  // told soon
  const std::string who = holder->present ? ToString(*holder->present) : "an idle process";
  if (holder->end_by) {
    return SetState(rank, v1::RANK_STATE_STARTING,
                    absl::StrCat("waits for device ", rank->device, " until ", who, " has ended"));
  }
  if (holder->present) {
    return SetState(
        rank, v1::RANK_STATE_FAILED,
        absl::StrCat("device ", rank->device, " is taken by ", who, ", which is wanted as well"));
  }
  Adopt(id, rank, holder_id, holder, now);
  rank->status.set_pid(holder->pid);
  actions->push_back({Kind::kSend, holder_id, holder->device, id,
                      StartCommand(job, id.rank, desired_.ListsEarlier(id.job, id.epoch))});
}

// Books the rank on a process that runs nothing else.
void AgentCore::Adopt(const RankId& id, Rank* rank, ProcessId process_id, Process* process,
                      AgentMoment now) {
  process->present = id;
  process->told_epoch = id.epoch;
  process->last_word = now;
  rank->process = process_id;
  desired_.SetAsked(id);
  SetState(rank, v1::RANK_STATE_STARTING, "");
  Stamp(&v1::RankTimeline::started_ms, &v1::RankTimeline::set_started_ms, &rank->status,
        now.wall_ms);
  ++revision_;
}

void AgentCore::Spawn(int32_t device, const RankId* id, AgentMoment now, Actions* actions) {
  const ProcessId process_id = ++last_process_;
  Process& process = processes_[process_id];
  process.device = device;
  AgentAction spawn{Kind::kSpawn, process_id, device, std::nullopt, {}};
  if (id != nullptr) {
    Rank& rank = ranks_.at(*id);
    Adopt(*id, &rank, process_id, &process, now);
    rank.spawned = true;
    spawn.rank = *id;
    spawn.command = StartCommand(*desired_.Find(id->job, id->epoch), id->rank,
                                 desired_.ListsEarlier(id->job, id->epoch));
  }
  actions->push_back(std::move(spawn));
}

void AgentCore::KeepIdle(AgentMoment now, Actions* actions) {
  if (shutdown_reason_ || !options_.keep_idle.value_or(options_.spare)) return;
  for (const v1::Device& device : options_.node.devices()) {
    ProcessId holder;
    if (no_idle_.contains(device.index()) || OnDevice(device.index(), &holder) != nullptr) continue;
    Spawn(device.index(), nullptr, now, actions);
  }
}

AgentCore::Process* AgentCore::OnDevice(int32_t device, ProcessId* id) {
  for (auto& [process_id, process] : processes_) {
    if (process.device != device) continue;
    *id = process_id;
    return &process;
  }
  return nullptr;
}

std::optional<absl::Duration> AgentCore::NextDeadline() const {
  std::optional<absl::Duration> next;
  const auto consider = [&next](const std::optional<absl::Duration>& deadline) {
    if (deadline && (!next || *deadline < *next)) next = deadline;
  };
  for (const auto& [id, process] : processes_) {
    if (!process.alive || process.kill_sent) continue;
    consider(process.move_by);
    consider(process.end_by);
    if (!process.end_by) consider(process.answer_by);
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
  return std::any_of(processes_.begin(), processes_.end(),
                     [](const auto& entry) { return entry.second.alive; });
}

int AgentCore::IdleProcesses() const {
  return static_cast<int>(
      std::count_if(processes_.begin(), processes_.end(),
                    [](const auto& entry) { return entry.second.alive && !entry.second.present; }));
}

}  // namespace fathom
