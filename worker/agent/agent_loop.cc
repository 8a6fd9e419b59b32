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

namespace fathom {
namespace {

// What an epoll entry is about: its key, and for a rank which of its two descriptors.
constexpr uint64_t kWakeKey = 0;
constexpr uint64_t kStopKey = 1;
constexpr uint64_t kFirstRankKey = 2;
constexpr uint64_t ProcessEntry(uint64_t key) { return key * 2; }
constexpr uint64_t ChannelEntry(uint64_t key) { return key * 2 + 1; }

absl::Status Watch(int epoll, int operation, int fd, uint32_t events, uint64_t entry) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = entry;
  if (::epoll_ctl(epoll, operation, fd, &event) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "watch descriptor", absl::StrCat(fd));
}

}  // namespace

AgentLoop::AgentLoop(AgentLoopOptions options, AgentOptions core)
    : options_(std::move(options)),
      node_(core.node.name()),
      core_(std::move(core)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      next_key_(kFirstRankKey) {
  FATHOM_CHECK(wake_.ok()) << "eventfd";
}

void AgentLoop::Desire(v1::DesiredState desired) {
  {
    absl::MutexLock lock(&mutex_);
    desired_ = std::move(desired);
  }
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
    } else if (const auto rank = by_key_.find(key); rank != by_key_.end()) {
      // Not found: it ended earlier in this round.
      const RankId id = rank->second;
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
  if (desired) core_.OnDesired(*desired);
}

void AgentLoop::Converge() {
  // A start that fails is news to the core.
  for (;;) {
    const std::vector<AgentAction> actions = core_.Reconcile(options_.clock->Steady());
    if (actions.empty()) return;
    for (const AgentAction& action : actions) Do(action);
  }
}

void AgentLoop::Do(const AgentAction& action) {
  switch (action.kind) {
    case AgentAction::Kind::kStart: {
      const absl::Status started = StartRank(action.id, action.command);
      if (started.ok()) return;
      options_.log->Line(absl::StrCat(ToString(action.id), " not started: ", started.message()));
      return core_.OnStartFailed(action.id, started);
    }
    case AgentAction::Kind::kStop:
      options_.log->Line(
          absl::StrCat("stopping ", ToString(action.id), ": ", action.command.stop().reason()));
      return SendTo(action.id, action.command);
    case AgentAction::Kind::kSendPeers:
      return SendTo(action.id, action.command);
    case AgentAction::Kind::kKill:
      options_.log->Line(absl::StrCat("killing ", ToString(action.id)));
      return running_.at(action.id).process.Kill();
    case AgentAction::Kind::kForget:
      return;  // its process went with OnEnded
  }
}

absl::Status AgentLoop::StartRank(const RankId& id, const v1::RankCommand& start) {
  FATHOM_ASSIGN_OR_RETURN(const int log, options_.rank_logs->OpenForAppend(id));
  const UniqueFd log_fd(log);
  FATHOM_ASSIGN_OR_RETURN(
      RankProcess process,
      RankProcess::Start(options_.rank_binary, {absl::StrCat("--channel-fd=", kRankChannelFd)},
                         log_fd.get()));
  const uint64_t key = next_key_++;
  FATHOM_RETURN_IF_ERROR(
      Watch(epoll_.get(), EPOLL_CTL_ADD, process.pid_fd(), EPOLLIN, ProcessEntry(key)));
  FATHOM_RETURN_IF_ERROR(
      Watch(epoll_.get(), EPOLL_CTL_ADD, process.channel_fd(), EPOLLIN, ChannelEntry(key)));
  const pid_t pid = process.pid();
  running_.emplace(id, Running{std::move(process), key});
  by_key_[key] = id;
  core_.OnStarted(id, pid);
  options_.metrics->RankStarted();
  options_.log->Line(absl::StrCat("started ", ToString(id), " as process ", pid));
  SendTo(id, start);
  return absl::OkStatus();
}

void AgentLoop::SendTo(const RankId& id, const v1::RankCommand& command) {
  Running& running = running_.at(id);
  const absl::Status sent = running.process.Send(command);
  // A closed channel is told by its other direction, and by the rank's end.
  if (!sent.ok()) options_.log->Line(absl::StrCat(ToString(id), ": ", sent.message()));
  WatchWritable(&running);
}

void AgentLoop::WatchWritable(Running* running) {
  const bool wanted = running->process.wants_to_write();
  if (running->awaits_writable == wanted || running->process.channel_fd() < 0) return;
  running->awaits_writable = wanted;
  const uint32_t events = EPOLLIN | (wanted ? static_cast<uint32_t>(EPOLLOUT) : 0u);
  const absl::Status watched = Watch(epoll_.get(), EPOLL_CTL_MOD, running->process.channel_fd(),
                                     events, ChannelEntry(running->key));
  FATHOM_CHECK(watched.ok()) << watched;
}

void AgentLoop::OnChannelReady(const RankId& id, uint32_t events) {
  Running& running = running_.at(id);
  if ((events & EPOLLOUT) != 0) {
    const absl::Status flushed = running.process.Flush();
    if (!flushed.ok()) options_.log->Line(absl::StrCat(ToString(id), ": ", flushed.message()));
    WatchWritable(&running);
  }
  if ((events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) Listen(id, &running);
}

void AgentLoop::Listen(const RankId& id, Running* running) {
  if (running->process.channel_fd() < 0) return;
  const absl::Duration now = options_.clock->Steady();
  const RankProcess::Heard heard = running->process.Receive();
  for (const v1::RankEvent& event : heard.events) core_.OnEvent(id, event, now);
  steps_changed_ |= !heard.events.empty();
  if (!heard.closed) return;
  if (!heard.why.ok()) options_.log->Line(absl::StrCat(ToString(id), ": ", heard.why.message()));
  core_.OnChannelClosed(id, heard.why, now);
}

void AgentLoop::OnEnded(const RankId& id) {
  Running& running = running_.at(id);
  Listen(id, &running);  // its last words first
  const std::optional<RankExit> exit = running.process.Reap();
  if (!exit) return;
  const std::string how = DescribeEnd(id, *exit);
  const bool zero = exit->signal == 0 && exit->code == 0;
  core_.OnExited(id, zero, how);
  by_key_.erase(running.key);
  running_.erase(id);
  const std::optional<v1::RankState> state = core_.StateOf(id);
  const bool by_signal = exit->signal != 0 && !exit->killed_by_us;
  options_.metrics->RankExited(by_signal                          ? "signal"
                               : state == v1::RANK_STATE_FINISHED ? "finished"
                               : state == v1::RANK_STATE_STOPPED  ? "stopped"
                                                                  : "failed");
  options_.log->Line(absl::StrCat(ToString(id), " ", DescribeExit(*exit)));
}

std::string AgentLoop::DescribeEnd(const RankId& id, const RankExit& exit) const {
  std::string text = DescribeExit(exit);
  if (exit.signal == 0 && exit.code == 0) return text;
  const std::string tail = options_.rank_logs->Tail(id);
  if (!tail.empty()) absl::StrAppend(&text, "; its log ends with:\n", tail);
  return text;
}

void AgentLoop::Publish() {
  const bool urgent = core_.revision() != published_revision_;
  if (!urgent && !steps_changed_) return;
  published_revision_ = core_.revision();
  steps_changed_ = false;
  const v1::NodeReport report = core_.Report();
  options_.metrics->Show(report);
  options_.publish(report, urgent);
}

}  // namespace fathom
