#include "tests/sim/sim_node.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace fathom::sim {
namespace {

constexpr int64_t kProgressUs = 200 * kMs;
constexpr int64_t kShortestBackoffUs = 50 * kMs;
constexpr int64_t kLongestBackoffUs = 400 * kMs;

}  // namespace

SimNode::SimNode(SimNodeOptions options) : options_(std::move(options)) {}

AgentMoment SimNode::Now() const {
  const int64_t now_us = options_.queue->now_us();
  return {absl::Microseconds(now_us), (kWallStartUs + now_us + clock_offset_us_) / kMs};
}

void SimNode::Later(int64_t delay_us, EventQueue::Action action) {
  options_.queue->After(delay_us, [this, life = life_, action = std::move(action)] {
    if (!up_ || life != life_) return;
    if (stopped_) return Later(50 * kMs, action);
    action();
  });
}

// --- Life ---

void SimNode::Boot() {
  if (up_) return;
  up_ = true;
  stopped_ = false;
  ++life_;
  if (last_incarnation_ == 0) clock_offset_us_ = furthest_clock_us_;
  const int64_t wall_us = kWallStartUs + options_.queue->now_us() + clock_offset_us_;
  last_incarnation_ = std::max(wall_us, last_incarnation_ + 1);
  AgentOptions agent;
  agent.node.set_name(options_.name);
  agent.node.set_address(absl::StrCat("10.0.0.", options_.place));
  for (int i = 0; i < options_.devices; ++i) {
    v1::Device& device = *agent.node.add_devices();
    device.set_index(i);
    device.set_kind("cpu");
  }
  agent.incarnation = last_incarnation_;
  agent.pid = 100 + life_;
  agent.spare = options_.spare;
  agent.stop_grace = absl::Seconds(2);
  agent.exit_grace = absl::Seconds(5);
  agent.check_plan = [](const v1::Plan&) { return absl::OkStatus(); };
  agent_ = std::make_unique<AgentCore>(std::move(agent));
  published_revision_ = 0;
  stream_ = 0;
  armed_us_ = 0;
  report_due_ = false;
  backoff_us_ = kShortestBackoffUs;
  options_.trace->Add(10, {options_.place}, [&] {
    return absl::StrCat("node ", options_.name, " boots, incarnation ", last_incarnation_);
  });
  Converge();
  OpenStream();
  Later(options_.random->Between(1, options_.heartbeat_ms) * kMs, [this] { Heartbeat(); });
}

void SimNode::Crash() {
  if (!up_) return;
  options_.trace->Add(11, {options_.place},
                      [&] { return absl::StrCat("node ", options_.name, " crashes"); });
  up_ = false;
  stopped_ = false;
  ++life_;
  options_.streams->NodeDown(options_.place);
  options_.ranks->NodeDown(options_.place);
  agent_.reset();
  pid_of_.clear();
  process_of_.clear();
  device_of_.clear();
  stream_ = 0;
}

void SimNode::SetStopped(bool stopped) {
  if (!up_ || stopped_ == stopped) return;
  options_.trace->Add(12, {options_.place, stopped}, [&] {
    return absl::StrCat("node ", options_.name, stopped ? " stops (SIGSTOP)" : " goes on");
  });
  stopped_ = stopped;
  options_.ranks->SetNodeStopped(options_.place, stopped);
}

// --- The stream ---

void SimNode::OpenStream() {
  stream_ = options_.streams->Open(options_.place);
  if (stream_ != 0) {
    options_.trace->Add(13, {options_.place},
                        [&] { return absl::StrCat("node ", options_.name, " connects"); });
    return SendReport();
  }
  backoff_us_ = std::min(2 * backoff_us_, kLongestBackoffUs);
  Later(options_.random->Between(backoff_us_ / 2, backoff_us_), [this] { OpenStream(); });
}

void SimNode::OnStreamLost(StreamId stream, bool refused) {
  if (stopped_) {
    return Later(0, [this, stream, refused] { OnStreamLost(stream, refused); });
  }
  if (!up_ || stream != stream_) return;
  options_.trace->Add(14, {options_.place, refused}, [&] {
    return absl::StrCat("node ", options_.name, " lost its stream", refused ? " (refused)" : "");
  });
  stream_ = 0;
  if (refused) {
    agent_->OnDesired(v1::DesiredState());
    Converge();
  }
  Later(options_.random->Between(backoff_us_ / 2, backoff_us_), [this] { OpenStream(); });
}

void SimNode::OnDesired(StreamId stream, const WishedState& wished) {
  if (!runs() || stream != stream_) return;
  backoff_us_ = kShortestBackoffUs;
  options_.trace->Add(15, {options_.place, static_cast<int64_t>(wished.desired->version())}, [&] {
    std::string text = absl::StrCat("node ", options_.name, " is to run");
    for (const v1::DesiredJob& job : wished.desired->jobs()) {
      absl::StrAppend(&text, " ", job.plan().job(), "/", job.plan().epoch(), ":");
      for (const int32_t rank : job.ranks()) absl::StrAppend(&text, rank, ",");
      absl::StrAppend(&text, job.peers_size() > 0 ? "peers" : "", job.hold() ? "hold" : "",
                      job.park() ? "park" : "");
    }
    return text;
  });
  options_.invariants->OnDesiredTaken(options_.place, wished.appended, options_.queue->now_us());
  agent_->OnDesired(*wished.desired);
  Converge();
}

void SimNode::SendReport() {
  report_due_ = false;
  last_sent_us_ = options_.queue->now_us();
  if (stream_ == 0) return;
  options_.streams->SendReport(stream_, std::make_shared<const v1::NodeReport>(agent_->Report()));
}

void SimNode::Heartbeat() {
  const int64_t period_us = options_.heartbeat_ms * kMs;
  const int64_t due_us = last_sent_us_ + period_us - options_.queue->now_us();
  if (due_us <= 0) SendReport();
  Later(due_us <= 0 ? period_us : due_us, [this] { Heartbeat(); });
}

void SimNode::Publish() {
  const bool urgent = agent_->revision() != published_revision_;
  published_revision_ = agent_->revision();
  if (urgent) return SendReport();
  if (report_due_) return;
  report_due_ = true;
  const int64_t wait_us = last_sent_us_ + kProgressUs - options_.queue->now_us();
  Later(wait_us, [this] {
    if (report_due_) SendReport();
  });
}

// --- Ranks ---

void SimNode::OnRankEvent(int pid, const v1::RankEvent& event) {
  if (!up_) return;
  if (stopped_) {
    return Later(0, [this, pid, event] { OnRankEvent(pid, event); });
  }
  const auto process = process_of_.find(pid);
  if (process == process_of_.end()) return;
  agent_->OnEvent(process->second, event, Now());
  if (event.has_step()) return Publish();
  Converge();
}

void SimNode::OnRankExited(int pid, bool exit_code_zero) {
  if (!up_) return;
  if (stopped_) {
    return Later(1, [this, pid, exit_code_zero] { OnRankExited(pid, exit_code_zero); });
  }
  const auto process = process_of_.find(pid);
  if (process == process_of_.end()) return;
  const ProcessId id = process->second;
  process_of_.erase(process);
  pid_of_.erase(id);
  agent_->OnExited(id, exit_code_zero, exit_code_zero ? "ended with 0" : "ended by signal 9");
  Converge();
}

void SimNode::Converge() {
  for (int round = 0;; ++round) {
    const std::vector<AgentAction> actions = agent_->Reconcile(Now());
    if (actions.empty()) break;
    if (round > 100) {
      return options_.invariants->Violate(
          absl::StrCat("the daemon of node ", options_.name, " never finds rest"));
    }
    for (const AgentAction& action : actions) Do(action);
  }
  ArmDeadline();
  Publish();
}

void SimNode::Do(const AgentAction& action) {
  switch (action.kind) {
    case AgentAction::Kind::kSpawn: {
      const int pid = options_.ranks->Spawn(options_.place);
      pid_of_[action.process] = pid;
      process_of_[pid] = action.process;
      options_.trace->Add(16, {options_.place, pid, action.device}, [&] {
        return absl::StrCat("node ", options_.name, " starts process ", pid, " on device ",
                            action.device);
      });
      options_.invariants->OnSpawn(options_.place, action.device, pid);
      agent_->OnSpawned(action.process, pid);
      if (action.command.command_case() != v1::RankCommand::COMMAND_NOT_SET) {
        options_.ranks->Send(pid, action.command);
      }
      return;
    }
    case AgentAction::Kind::kSend:
      if (pid_of_.contains(action.process)) {
        options_.ranks->Send(pid_of_.at(action.process), action.command);
      }
      return;
    case AgentAction::Kind::kKill:
      options_.trace->Add(17, {options_.place}, [&] {
        return absl::StrCat("node ", options_.name, " kills process ", pid_of_[action.process]);
      });
      if (pid_of_.contains(action.process)) options_.ranks->Kill(pid_of_.at(action.process));
      return;
    case AgentAction::Kind::kInspect:
      return agent_->OnInspected(action.process, "running", Now());
  }
}

void SimNode::ArmDeadline() {
  const std::optional<absl::Duration> deadline = agent_->NextDeadline();
  if (!deadline) return;
  const int64_t at_us = absl::ToInt64Microseconds(absl::Ceil(*deadline, absl::Microseconds(1)));
  if (armed_us_ == at_us) return;
  armed_us_ = at_us;
  Later(at_us - options_.queue->now_us(), [this, at_us] {
    if (armed_us_ != at_us) return;
    armed_us_ = 0;
    Converge();
  });
}

}  // namespace fathom::sim
