#include "tests/sim/simulation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/core/job_state.h"
#include "tests/sim/sim_planning.h"

namespace fathom::sim {
namespace {

constexpr int32_t kHeartbeatMs = 500;
constexpr int32_t kLeaseMs = 2000;
constexpr int64_t kAnswerUs = kSecond;  // how long the operator waits for an answer
constexpr int64_t kRetryUs = 300 * kMs;
// From the end of all faults until every job must have ended.
constexpr int64_t kPatienceUs = 120 * kSecond;

}  // namespace

Simulation::Simulation(Scenario scenario, bool verbose)
    : scenario_(std::move(scenario)),
      random_(Mix(0xfa74, scenario_.seed)),
      trace_(&queue_, verbose),
      invariants_(&trace_, &checkpoints_),
      network_(static_cast<int>(scenario_.nodes.size()), &random_),
      streams_(&queue_, &network_, &random_),
      ranks_({.queue = &queue_,
              .network = &network_,
              .random = &random_,
              .trace = &trace_,
              .invariants = &invariants_,
              .checkpoints = &checkpoints_,
              .step_us = random_.Between(50, 200) * kMs,
              .emit = [this](Place node, int pid,
                             const v1::RankEvent& event) { nodes_[node]->OnRankEvent(pid, event); },
              .exited = [this](Place node, int pid,
                               bool zero) { nodes_[node]->OnRankExited(pid, zero); }}) {
  BuildNodes();
  ConnectStreams();
}

void Simulation::BuildNodes() {
  SimCoordinatorOptions coordinator;
  for (size_t i = 0; i < scenario_.nodes.size(); ++i) {
    SimNodeOptions node;
    node.place = static_cast<Place>(i);
    node.name = absl::StrCat("n", i);
    node.devices = scenario_.nodes[i].devices;
    node.spare = scenario_.nodes[i].spare;
    node.heartbeat_ms = kHeartbeatMs;
    node.queue = &queue_;
    node.streams = &streams_;
    node.ranks = &ranks_;
    node.random = &random_;
    node.trace = &trace_;
    node.invariants = &invariants_;
    coordinator.places[node.name] = node.place;
    nodes_.push_back(std::make_unique<SimNode>(std::move(node)));
  }
  coordinator.core.heartbeat_ms = kHeartbeatMs;
  coordinator.core.lease_ms = kLeaseMs;
  coordinator.core.checkpoint_root = "/checkpoints";
  coordinator.core.planning = SimPlanning();
  coordinator.core.grow_after_ms = 1000;
  coordinator.queue = &queue_;
  coordinator.streams = &streams_;
  coordinator.random = &random_;
  coordinator.trace = &trace_;
  coordinator.invariants = &invariants_;
  coordinator_ = std::make_unique<SimCoordinator>(std::move(coordinator));
}

void Simulation::ConnectStreams() {
  StreamEnds ends;
  ends.coordinator_is_up = [this] { return coordinator_->up(); };
  ends.node_runs = [this](Place node) { return nodes_[node]->runs(); };
  ends.on_report = [this](StreamId stream, Place node, const ReportPtr& report) {
    coordinator_->OnReport(stream, node, report);
  };
  ends.on_closed = [this](StreamId stream, Place node) {
    coordinator_->OnStreamClosed(stream, node);
  };
  ends.on_desired = [this](Place node, StreamId stream, const WishedState& wished) {
    nodes_[node]->OnDesired(stream, wished);
  };
  ends.on_lost = [this](Place node, StreamId stream, bool refused) {
    nodes_[node]->OnStreamLost(stream, refused);
  };
  streams_.Connect(std::move(ends));
}

void Simulation::ScheduleAll() {
  start_us_ = queue_.now_us();
  queue_.After(0, [this] { coordinator_->Boot(); });
  for (const auto& node : nodes_) {
    queue_.After(random_.Between(0, 300 * kMs), [each = node.get()] { each->Boot(); });
  }
  for (const Command& command : scenario_.commands) {
    queue_.After(command.at_us, [this, command] {
      Issue(command, absl::StrCat("request-", ++requests_), command.repeats);
    });
  }
  for (const Fault& fault : scenario_.faults) {
    queue_.After(fault.at_us, [this, fault] { Strike(fault); });
  }
  // The last commands come at most 4 s after the faults' end; then everything is mended.
  queue_.After(scenario_.faults_end_us + 4 * kSecond, [this] { MendAll(); });
}

RunResult Simulation::Run() {
  ScheduleAll();
  RunResult result;
  const int64_t give_up_us = start_us_ + scenario_.faults_end_us + kPatienceUs;
  int64_t done_since_us = 0;
  while (!invariants_.broken() && queue_.RunNext()) {
    ++result.events;
    if (result.events % 16 != 0) continue;
    if (queue_.now_us() > give_up_us) {
      invariants_.Violate(WhatIsLeft());
    } else if (mended_ && AllDone()) {
      if (done_since_us == 0) done_since_us = queue_.now_us();
      if (queue_.now_us() - done_since_us > kSecond) break;
    } else {
      done_since_us = 0;
    }
  }
  if (!invariants_.broken()) CheckAtEnd();
  result.violation = invariants_.violation();
  result.trace_hash = trace_.hash();
  result.virtual_us = queue_.now_us() - start_us_;
  result.records = static_cast<int64_t>(invariants_.appended());
  for (const auto& [number, id] : id_of_) result.steps_redone += invariants_.redone(id);
  return result;
}

// --- Faults ---

void Simulation::Strike(const Fault& fault) {
  if (mended_) return;
  trace_.Add(40, {static_cast<int64_t>(fault.kind), fault.node}, [&] {
    return absl::StrCat("fault ", static_cast<int>(fault.kind), " at node ", fault.node, " (",
                        fault.other, ") for ", fault.length_us / kMs, " ms, detail ", fault.detail);
  });
  switch (fault.kind) {
    case FaultKind::kNodeCrash:
    case FaultKind::kNodeLoss:
    case FaultKind::kNodeStop:
    case FaultKind::kSlowNode:
    case FaultKind::kRankCrash:
    case FaultKind::kTornCommit:
      return StrikeNode(fault);
    case FaultKind::kStreamReset:
    case FaultKind::kCutFromCoordinator:
    case FaultKind::kDeafNode:
    case FaultKind::kMuteNode:
    case FaultKind::kCutBetweenNodes:
      return StrikeNetwork(fault);
    case FaultKind::kCoordinatorCrash:
    case FaultKind::kCoordinatorStop:
    case FaultKind::kStore:
    case FaultKind::kWallClock:
    case FaultKind::kLateReport:
      return StrikeCoordinator(fault);
  }
}

void Simulation::StrikeNode(const Fault& fault) {
  SimNode* node = nodes_[fault.node].get();
  const bool loses_disk = fault.kind == FaultKind::kNodeLoss;
  const auto crash = [this, node, loses_disk, length_us = fault.length_us] {
    node->Crash();
    if (loses_disk) node->LoseDisk();
    queue_.After(length_us, [node] { node->Boot(); });
  };
  switch (fault.kind) {
    case FaultKind::kNodeStop:
      node->SetStopped(true);
      queue_.After(fault.length_us, [node] { node->SetStopped(false); });
      return;
    case FaultKind::kSlowNode:
      network_.SetSlowness(fault.node, random_.Between(2, 8));
      queue_.After(fault.length_us, [this, place = fault.node] { network_.SetSlowness(place, 1); });
      return;
    case FaultKind::kRankCrash: {
      const std::vector<int> pids = ranks_.PidsOn(fault.node);
      if (!pids.empty()) ranks_.Crash(pids[random_.Next() % pids.size()]);
      return;
    }
    case FaultKind::kTornCommit:
      ranks_.TearNextCommit(fault.node, crash);
      return;
    default:
      return crash();
  }
}

void Simulation::Cut(Place from, Place to, int64_t length_us) {
  if (from == to) return;
  network_.SetOpen(from, to, false);
  queue_.After(length_us, [this, from, to] {
    network_.SetOpen(from, to, true);
    ranks_.NetworkChanged();
  });
}

void Simulation::StrikeNetwork(const Fault& fault) {
  switch (fault.kind) {
    case FaultKind::kStreamReset:
      return streams_.Reset(nodes_[fault.node]->stream());
    case FaultKind::kDeafNode:
      Cut(kCoordinator, fault.node, fault.length_us);
      break;
    case FaultKind::kMuteNode:
      Cut(fault.node, kCoordinator, fault.length_us);
      break;
    case FaultKind::kCutFromCoordinator:
      Cut(kCoordinator, fault.node, fault.length_us);
      Cut(fault.node, kCoordinator, fault.length_us);
      break;
    default:
      return Cut(fault.node, fault.other, fault.length_us);
  }
  streams_.NetworkChanged();
}

void Simulation::StrikeCoordinator(const Fault& fault) {
  const int64_t downtime_us = std::min(fault.length_us, 3 * kSecond);
  switch (fault.kind) {
    case FaultKind::kCoordinatorCrash:
      coordinator_->Crash();
      break;
    case FaultKind::kCoordinatorStop:
      coordinator_->SetStopped(true);
      queue_.After(fault.length_us, [this] { coordinator_->SetStopped(false); });
      return;
    case FaultKind::kStore:
      coordinator_->FailNextAppend(static_cast<StoreFault>(fault.detail));
      break;
    case FaultKind::kWallClock:
      if (fault.node == 0) coordinator_->JumpClock(fault.detail);
      nodes_[fault.node]->JumpClock(fault.detail);
      return;
    default:
      return coordinator_->RepeatNextReport();
  }
  // Whenever it dies of this, it is started again.
  for (int64_t wait_us = downtime_us; wait_us < 20 * kSecond; wait_us += kSecond) {
    queue_.After(wait_us, [this] { coordinator_->Boot(); });
  }
}

void Simulation::MendAll() {
  trace_.Add(41, {}, [] { return std::string("all is mended"); });
  mended_ = true;
  network_.Heal();
  coordinator_->FailNextAppend(StoreFault::kNone);
  coordinator_->SetStopped(false);
  coordinator_->Boot();
  for (size_t i = 0; i < nodes_.size(); ++i) {
    network_.SetSlowness(static_cast<Place>(i), 1);
    nodes_[i]->SetStopped(false);
    nodes_[i]->Boot();
  }
  ranks_.ForgetTears();
  ranks_.NetworkChanged();
  TidyUp();
  // Commands that went without an answer may have been repeated since.
  queue_.After(6 * kSecond, [this] { TidyUp(); });
}

// --- The operator ---

v1::SubmitJobRequest Simulation::SubmitRequest(const JobPlan& job,
                                               const std::string& request_id) const {
  v1::SubmitJobRequest request;
  request.set_request_id(request_id);
  v1::Job& wanted = *request.mutable_job();
  wanted.mutable_metadata()->set_name(job.name);
  wanted.mutable_metadata()->set_user("ada");
  v1::JobSpec& spec = *wanted.mutable_spec();
  spec.mutable_parallelism()->set_pipeline(1);
  spec.mutable_parallelism()->set_expert(job.experts);
  spec.mutable_parallelism()->set_replicas(job.replicas);
  spec.mutable_training()->set_steps(job.steps);
  spec.mutable_training()->set_micro_batches(job.micro_batches);
  spec.mutable_training()->set_micro_batch_sequences(1);
  spec.mutable_checkpoint()->set_every_steps(job.checkpoint_every);
  spec.mutable_restart()->set_max_restarts_without_progress(1000);
  spec.mutable_restart()->set_peer_timeout_s(1.5);
  spec.mutable_restart()->set_start_timeout_s(5);
  spec.mutable_scheduling()->set_priority(job.priority);
  return request;
}

absl::Status Simulation::Apply(CoordinatorCore& core, Moment now, const Command& command,
                               const std::string& request_id) {
  const auto fill = [&](auto* request) {
    request->set_actor("ada");
    request->set_request_id(request_id);
  };
  switch (command.kind) {
    case CommandKind::kSubmit: {
      const auto response =
          core.Submit(SubmitRequest(scenario_.jobs[command.job], request_id), {}, now);
      if (!response.ok()) return response.status();
      const auto [known, is_new] = id_of_.emplace(command.job, response->id());
      // Until the answer is given it may still become another.
      if (!is_new && answered_.contains(request_id) && known->second != response->id()) {
        invariants_.Violate(absl::StrCat("request ", request_id, " was answered with ",
                                         known->second, " and then with ", response->id()));
      }
      known->second = response->id();
      return absl::OkStatus();
    }
    case CommandKind::kCancel: {
      v1::CancelJobRequest request;
      request.set_name(scenario_.jobs[command.job].name);
      fill(&request);
      return core.Cancel(request, now).status();
    }
    case CommandKind::kSuspend: {
      v1::SuspendJobRequest request;
      request.set_name(scenario_.jobs[command.job].name);
      fill(&request);
      return core.Suspend(request, now).status();
    }
    case CommandKind::kResume: {
      v1::ResumeJobRequest request;
      request.set_name(scenario_.jobs[command.job].name);
      fill(&request);
      return core.ResumeJob(request, now).status();
    }
    case CommandKind::kDrain: {
      v1::DrainNodeRequest request;
      request.set_node(NameOf(command.node));
      if (command.other >= 0) request.set_replacement(NameOf(command.other));
      fill(&request);
      return core.Drain(request, now).status();
    }
    case CommandKind::kUndrain: {
      v1::UndrainNodeRequest request;
      request.set_node(NameOf(command.node));
      fill(&request);
      return core.Undrain(request, now).status();
    }
    case CommandKind::kCordon: {
      v1::CordonNodeRequest request;
      request.set_node(NameOf(command.node));
      fill(&request);
      return core.Cordon(request, now).status();
    }
  }
  return absl::OkStatus();
}

// As a command line does: without an answer the same request again.
void Simulation::Issue(const Command& command, const std::string& request_id, int repeats) {
  if (command.kind == CommandKind::kCancel) cancelled_.insert(command.job);
  auto result = std::make_shared<absl::Status>();
  auto answered = std::make_shared<bool>(false);
  trace_.Add(50, {static_cast<int64_t>(command.kind), command.job, command.node}, [&] {
    return absl::StrCat("operator: command ", static_cast<int>(command.kind), " job ", command.job,
                        " node ", command.node, " as ", request_id);
  });
  const bool posted = coordinator_->Post(
      [this, command, request_id, result](CoordinatorCore& core, Moment now) {
        *result = Apply(core, now, command, request_id);
      },
      [this, command, request_id, result, answered, repeats](const absl::Status& durable) {
        *answered = true;
        if (!durable.ok()) {
          queue_.After(kRetryUs, [this, command, request_id, repeats] {
            Issue(command, request_id, repeats);
          });
          return;
        }
        OnAnswer(command, request_id, *result);
        if (repeats <= 0) return;
        queue_.After(random_.Between(1, 2000) * kMs, [this, command, request_id, repeats] {
          Issue(command, request_id, repeats - 1);
        });
      });
  queue_.After(posted ? kAnswerUs : kRetryUs, [this, command, request_id, repeats, answered] {
    if (!*answered) Issue(command, request_id, repeats);
    *answered = true;
  });
}

void Simulation::OnAnswer(const Command& command, const std::string& request_id,
                          const absl::Status& result) {
  trace_.Add(51, {result.ok()}, [&] {
    return absl::StrCat("operator: ", request_id, " answered ", result.ToString());
  });
  const bool was_answered = !answered_.insert(request_id).second;
  if (command.kind == CommandKind::kSubmit) {
    if (result.ok()) {
      invariants_.OnAcknowledged(request_id);
    } else if (was_answered) {
      invariants_.Violate(absl::StrCat(
          request_id, " was accepted and then refused: ", std::string(result.message())));
    } else {
      refused_[command.job] = std::string(result.message());
    }
  } else if (command.kind == CommandKind::kCancel && result.ok()) {
    invariants_.OnAcknowledged(request_id);
  }
}

// What an operator does once the trouble is over.
void Simulation::TidyUp() {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    Command undrain;
    undrain.kind = CommandKind::kUndrain;
    undrain.node = static_cast<Place>(i);
    Issue(undrain, absl::StrCat("request-", ++requests_), 0);
  }
  for (size_t i = 0; i < scenario_.jobs.size(); ++i) {
    Command resume;
    resume.kind = CommandKind::kResume;
    resume.job = static_cast<int>(i);
    Issue(resume, absl::StrCat("request-", ++requests_), 0);
  }
}

// --- The end ---

bool Simulation::AllDone() const {
  if (!coordinator_->up() || id_of_.size() + refused_.size() < scenario_.jobs.size()) return false;
  for (const auto& [id, state] : invariants_.job_states()) {
    if (!IsFinal(state) || ranks_.AnyAliveOf(id)) return false;
  }
  return true;
}

void Simulation::CheckAtEnd() {
  for (size_t i = 0; i < scenario_.jobs.size(); ++i) {
    const int number = static_cast<int>(i);
    if (refused_.contains(number)) {
      return invariants_.Violate(
          absl::StrCat("job ", number, " was refused: ", refused_.at(number)));
    }
    const std::string& id = id_of_.at(number);
    const auto job = coordinator_->core()->state().Find(JobId(id));
    if (job == nullptr) return invariants_.Violate(absl::StrCat("job ", id, " is forgotten"));
    const bool fits = job->state == v1::JOB_STATE_COMPLETED ||
                      (job->state == v1::JOB_STATE_CANCELLED && cancelled_.contains(number));
    if (!fits) {
      return invariants_.Violate(
          absl::StrCat("job ", id, " ended ", NameOfState(job->state), ": ", job->reason));
    }
    if (scenario_.only_drains && invariants_.redone(id) > 0) {
      return invariants_.Violate(
          absl::StrCat("drains made job ", id, " redo ", invariants_.redone(id), " steps"));
    }
  }
}

std::string Simulation::WhatIsLeft() const {
  std::string text = "no end in sight:";
  if (!coordinator_->up()) absl::StrAppend(&text, " the coordinator is down;");
  for (const auto& [id, state] : invariants_.job_states()) {
    if (IsFinal(state) && !ranks_.AnyAliveOf(id)) continue;
    absl::StrAppend(&text, " job ", id, " is ", NameOfState(state));
    if (ranks_.AnyAliveOf(id)) absl::StrAppend(&text, " and has processes");
    if (!coordinator_->up()) continue;
    absl::StrAppend(&text, " (", coordinator_->core()->WaitingReason(JobId(id)), ")");
    const auto job = coordinator_->core()->state().Find(JobId(id));
    if (job != nullptr) absl::StrAppend(&text, ", epoch ", job->epoch, ": ", job->reason, ";");
  }
  return text;
}

}  // namespace fathom::sim
