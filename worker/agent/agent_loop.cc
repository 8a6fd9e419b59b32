#include "worker/agent/agent_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"
#include "worker/agent/process_inspection.h"

namespace fathom {
namespace {

// What an epoll entry is about: its key, and for a process which of its two descriptors.
constexpr uint64_t kWakeKey = 0;
constexpr uint64_t kStopKey = 1;
constexpr uint64_t kFirstProcessKey = 2;
constexpr uint64_t KeyOf(ProcessId id) { return kFirstProcessKey + id; }
constexpr uint64_t ProcessEntry(uint64_t key) { return key * 2; }
constexpr uint64_t ChannelEntry(uint64_t key) { return key * 2 + 1; }

absl::Status Watch(int epoll, int operation, int fd, uint32_t events, uint64_t entry) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = entry;
  if (::epoll_ctl(epoll, operation, fd, &event) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "watch descriptor", absl::StrCat(fd));
}

int FatalSignals(const v1::NodeHealth& health) {
  return static_cast<int>(std::count_if(
      health.signals().begin(), health.signals().end(),
      [](const v1::HealthSignal& signal) { return signal.severity() == v1::SEVERITY_FATAL; }));
}

// As the metric names how a rank process ended.
const char* EndLabel(v1::RankState state) {
  switch (state) {
    case v1::RANK_STATE_FINISHED:
      return "finished";
    case v1::RANK_STATE_PARKED:
      return "parked";
    case v1::RANK_STATE_MOVED:
      return "left";
    case v1::RANK_STATE_STOPPED:
    case v1::RANK_STATE_UNSPECIFIED:  // was idle
      return "stopped";
    default:
      return "failed";
  }
}

}  // namespace

AgentLoop::AgentLoop(AgentLoopOptions options, AgentOptions core)
    : options_(std::move(options)),
      node_(core.node.name()),
      core_(std::move(core)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  FATHOM_CHECK(wake_.ok()) << "eventfd";
}

void AgentLoop::Desire(v1::DesiredState desired) {
  {
    absl::MutexLock lock(&mutex_);
    desired_ = std::move(desired);
  }
  Wake();
}

void AgentLoop::SetHealth(v1::NodeHealth health) {
  {
    absl::MutexLock lock(&mutex_);
    others_urgent_ |= FatalSignals(health) != FatalSignals(health_);
    others_changed_ = true;
    health_ = std::move(health);
  }
  Wake();
}

void AgentLoop::SetPreflight(v1::PreflightReport preflight) {
  {
    absl::MutexLock lock(&mutex_);
    others_urgent_ = others_changed_ = true;
    preflight_ = std::move(preflight);
  }
  Wake();
}

void AgentLoop::Wake() {
  const uint64_t one = 1;
  // Full means that it is awake already.
  [[maybe_unused]] const ssize_t ignored = ::write(wake_.get(), &one, sizeof(one));
}

absl::Status AgentLoop::Run() {
  FATHOM_RETURN_IF_ERROR(SetUp());
  for (;;) {
    Converge();
    Publish();
    if (stopping_ && !core_.AnyProcessAlive()) return absl::OkStatus();
    FATHOM_RETURN_IF_ERROR(Wait());
  }
}

absl::Status AgentLoop::SetUp() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.ok()) return ErrnoStatus(errno, "create", "an epoll set");
  FATHOM_RETURN_IF_ERROR(
      Watch(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), EPOLLIN, ProcessEntry(kWakeKey)));
  return Watch(epoll_.get(), EPOLL_CTL_ADD, options_.stop_fd, EPOLLIN, ProcessEntry(kStopKey));
}

int AgentLoop::WaitMs() const {
  const std::optional<absl::Duration> deadline = core_.NextDeadline();
  if (!deadline) return -1;
  const absl::Duration left = *deadline - options_.clock->Steady();
  // Rounded up: a wait that ends early would only be another.
  return static_cast<int>(std::clamp<int64_t>(
      absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1))), 0, 1 << 30));
}

absl::Status AgentLoop::Wait() {
  std::array<epoll_event, 64> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), WaitMs());
  if (count < 0 && errno != EINTR) return ErrnoStatus(errno, "wait for", "ranks");
  for (int i = 0; i < count; ++i) {
    const uint64_t entry = events[i].data.u64;
    const uint64_t key = entry / 2;
    if (key == kWakeKey) {
      uint64_t wakes;
      [[maybe_unused]] const ssize_t ignored = ::read(wake_.get(), &wakes, sizeof(wakes));
      TakeDesired();
    } else if (key == kStopKey) {
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, options_.stop_fd, nullptr);
      options_.log->Line("asked to end; stopping all ranks");
      stopping_ = true;
      core_.Shutdown(absl::StrCat("the daemon of node ", node_, " was asked to end"));
    } else if (const ProcessId id = key - kFirstProcessKey; running_.contains(id)) {
      // Else it ended earlier in this round.
      entry == ProcessEntry(key) ? OnEnded(id) : OnChannelReady(id, events[i].events);
    }
  }
  return absl::OkStatus();
}

void AgentLoop::TakeDesired() {
  std::optional<v1::DesiredState> desired;
  {
    absl::MutexLock lock(&mutex_);
    desired = std::exchange(desired_, std::nullopt);
  }
  if (!desired) return;
  core_.OnDesired(*desired);
  const bool asked = desired->has_preflight() && desired->preflight().id() != preflight_id_;
  if (!asked || options_.on_preflight == nullptr) return;
  preflight_id_ = desired->preflight().id();
  options_.on_preflight(desired->preflight());
}

AgentMoment AgentLoop::Now() const { return {options_.clock->Steady(), options_.clock->WallMs()}; }

void AgentLoop::Converge() {
  // A start that fails is news to the core.
  for (;;) {
    const std::vector<AgentAction> actions = core_.Reconcile(Now());
    if (actions.empty()) return;
    for (const AgentAction& action : actions) Do(action);
  }
}

void AgentLoop::Do(const AgentAction& action) {
  switch (action.kind) {
    case AgentAction::Kind::kSpawn: {
      const absl::Status spawned = Spawn(action);
      if (spawned.ok()) return;
      options_.log->Line(absl::StrCat(action.rank ? ToString(*action.rank) : "an idle process",
                                      " not started: ", spawned.message()));
      return core_.OnSpawnFailed(action.process, spawned);
    }
    case AgentAction::Kind::kSend:
      return SendTo(action);
    case AgentAction::Kind::kKill:
      options_.log->Line(absl::StrCat("killing ", Name(running_.at(action.process))));
      return running_.at(action.process).process.Kill();
    case AgentAction::Kind::kInspect:
      return core_.OnInspected(action.process,
                               DescribeProcess(running_.at(action.process).process.pid()), Now());
  }
}

absl::Status AgentLoop::Spawn(const AgentAction& action) {
  FATHOM_ASSIGN_OR_RETURN(const int log, action.rank
                                             ? options_.rank_logs->OpenForAppend(*action.rank)
                                             : options_.rank_logs->OpenIdle(action.device));
  const UniqueFd log_fd(log);
  FATHOM_ASSIGN_OR_RETURN(
      RankProcess process,
      RankProcess::Start(options_.rank_binary, {absl::StrCat("--channel-fd=", kRankChannelFd)},
                         log_fd.get()));
  const uint64_t key = KeyOf(action.process);
  FATHOM_RETURN_IF_ERROR(
      Watch(epoll_.get(), EPOLL_CTL_ADD, process.pid_fd(), EPOLLIN, ProcessEntry(key)));
  FATHOM_RETURN_IF_ERROR(
      Watch(epoll_.get(), EPOLL_CTL_ADD, process.channel_fd(), EPOLLIN, ChannelEntry(key)));
  const pid_t pid = process.pid();
  running_.emplace(action.process, Running{std::move(process), action.device, {}});
  core_.OnSpawned(action.process, pid);
  options_.metrics->RankStarted();
  options_.log->Line(absl::StrCat("started process ", pid, " on device ", action.device));
  if (action.rank) SendTo(action);
  return absl::OkStatus();
}

void AgentLoop::SendTo(const AgentAction& action) {
  Running& running = running_.at(action.process);
  v1::RankCommand command = action.command;
  if (command.has_stop()) {
    options_.log->Line(absl::StrCat("stopping ", Name(running), ": ", command.stop().reason()));
  }
  if (command.has_start() && action.rank) {
    running.ranks.push_back(*action.rank);
    const absl::StatusOr<std::string> log = options_.rank_logs->Create(*action.rank);
    if (log.ok()) command.mutable_start()->set_log_file(*log);
    const absl::StatusOr<std::string> timeline = options_.rank_logs->TimelinePath(*action.rank);
    if (timeline.ok()) command.mutable_start()->set_timeline_file(*timeline);
    // Without one its words go on where they go now.
    if (!log.ok()) options_.log->Line(log.status().message());
    options_.log->Line(
        absl::StrCat("process ", running.process.pid(), " is to run ", ToString(*action.rank),
                     command.start().at_boundary() ? " from a step boundary on" : ""));
  } else if (command.has_start()) {
    options_.log->Line(absl::StrCat(Name(running), " leaves for epoch ",
                                    command.start().plan().epoch(), " at a step boundary"));
  } else if (command.has_hold() || command.has_park()) {
    options_.log->Line(absl::StrCat(command.has_hold() ? "holding " : "parking ", Name(running)));
  }
  const absl::Status sent = running.process.Send(command);
  // A closed channel is told by its other direction, and by the rank's end.
  if (!sent.ok()) options_.log->Line(absl::StrCat(Name(running), ": ", sent.message()));
  WatchWritable(action.process, &running);
}

// "tiny-7 epoch 2 rank 0"
std::string AgentLoop::Name(const Running& running) const {
  if (!running.ranks.empty()) return ToString(running.ranks.back());
  return absl::StrCat("the idle process of device ", running.device);
}

void AgentLoop::WatchWritable(ProcessId id, Running* running) {
  const bool wanted = running->process.wants_to_write();
  if (running->awaits_writable == wanted || running->process.channel_fd() < 0) return;
  running->awaits_writable = wanted;
  const uint32_t events = EPOLLIN | (wanted ? static_cast<uint32_t>(EPOLLOUT) : 0u);
  const absl::Status watched = Watch(epoll_.get(), EPOLL_CTL_MOD, running->process.channel_fd(),
                                     events, ChannelEntry(KeyOf(id)));
  FATHOM_CHECK(watched.ok()) << watched;
}

void AgentLoop::OnChannelReady(ProcessId id, uint32_t events) {
  Running& running = running_.at(id);
  if ((events & EPOLLOUT) != 0) {
    const absl::Status flushed = running.process.Flush();
    if (!flushed.ok()) options_.log->Line(absl::StrCat(Name(running), ": ", flushed.message()));
    WatchWritable(id, &running);
  }
  if ((events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) Listen(id, &running);
}

void AgentLoop::Listen(ProcessId id, Running* running) {
  if (running->process.channel_fd() < 0) return;
  const AgentMoment now = Now();
  const RankProcess::Heard heard = running->process.Receive();
  for (const v1::RankEvent& event : heard.events) core_.OnEvent(id, event, now);
  steps_changed_ |= !heard.events.empty();
  if (!heard.closed) return;
  if (!heard.why.ok()) options_.log->Line(absl::StrCat(Name(*running), ": ", heard.why.message()));
  core_.OnChannelClosed(id, heard.why, now);
}

void AgentLoop::OnEnded(ProcessId id) {
  Running& running = running_.at(id);
  Listen(id, &running);  // its last words first
  const std::optional<RankExit> exit = running.process.Reap();
  if (!exit) return;
  const bool zero = exit->signal == 0 && exit->code == 0;
  const v1::RankState state = core_.OnExited(id, zero, DescribeEnd(running, *exit));
  options_.log->Line(absl::StrCat(Name(running), " ", DescribeExit(*exit)));
  running_.erase(id);
  const bool by_signal = exit->signal != 0 && !exit->killed_by_us;
  options_.metrics->RankExited(by_signal ? "signal" : EndLabel(state));
}

std::string AgentLoop::DescribeEnd(const Running& running, const RankExit& exit) const {
  std::string text = DescribeExit(exit);
  if (exit.signal == 0 && exit.code == 0) return text;
  // One that was only told of an epoch wrote nothing there yet.
  for (auto id = running.ranks.rbegin(); id != running.ranks.rend(); ++id) {
    const std::string tail = options_.rank_logs->Tail(*id);
    if (tail.empty()) continue;
    absl::StrAppend(&text, "; its log ends with:\n", tail);
    break;
  }
  return text;
}

void AgentLoop::Publish() {
  bool urgent = core_.revision() != published_revision_;
  v1::NodeReport report;
  {
    absl::MutexLock lock(&mutex_);
    urgent |= std::exchange(others_urgent_, false);
    if (!urgent && !steps_changed_ && !others_changed_) return;
    others_changed_ = false;
    report = core_.Report();
    *report.mutable_health() = health_;
    if (preflight_) *report.mutable_preflight() = *preflight_;
  }
  published_revision_ = core_.revision();
  steps_changed_ = false;
  options_.metrics->Show(report, {.idle = core_.IdleProcesses(),
                                  .moves_at_boundary = core_.moves_at_boundary(),
                                  .moves_at_once = core_.moves_at_once()});
  options_.publish(report, urgent);
}

}  // namespace fathom
