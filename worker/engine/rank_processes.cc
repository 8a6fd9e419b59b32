#include "worker/engine/rank_processes.h"

#include <sys/socket.h>

#include <chrono>
#include <utility>

#include "gtest/gtest.h"
#include "worker/engine/rank_session.h"

namespace fathom::engine {
namespace {

constexpr std::chrono::seconds kPatience(100);
// The least the kernel grants: a rank whose daemon doesn't read hangs after a few events.
constexpr int kChannelBytes = 4096;

std::pair<RankChannel, RankChannel> MakeChannel() {
  int ends[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  EXPECT_EQ(setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &kChannelBytes, sizeof(kChannelBytes)), 0);
  return {RankChannel::FromFd(ends[0]), RankChannel::FromFd(ends[1])};
}

}  // namespace

absl::Time RankProcess::PausingClock::Wall() const {
  std::unique_lock lock(mutex_);
  ++readings_;
  resumed_.wait(lock, [this] { return pause_after_ == 0 || readings_ < pause_after_; });
  return clock_.Wall();
}

void RankProcess::PausingClock::PauseAfter(int64_t readings) {
  const std::lock_guard lock(mutex_);
  pause_after_ = readings;
  resumed_.notify_all();
}

RankProcess::RankProcess(std::string name) : RankProcess(std::move(name), MakeChannel()) {}

RankProcess::RankProcess(std::string name, std::pair<RankChannel, RankChannel> ends)
    : name_(std::move(name)), daemon_(std::move(ends.first)) {
  session_ = std::thread([this, channel = std::move(ends.second)]() mutable {
    end_ = RunRankSession(std::move(channel), &clock_);
  });
  receiver_ = std::thread([this] { ReceiveEvents(); });
}

RankProcess::~RankProcess() { Kill(); }

void RankProcess::ReceiveEvents() {
  while (true) {
    v1::RankEvent event;
    const absl::StatusOr<bool> got = daemon_.Receive(&event);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return listening_ || closed_; });
    if (!got.ok() || !*got) {
      closed_ = true;
      changed_.notify_all();
      return;
    }
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
}

void RankProcess::Send(const v1::RankCommand& command) { daemon_.Send(command).IgnoreError(); }

void RankProcess::Start(const v1::Plan& plan, int rank, const std::string& checkpoints,
                        bool at_boundary) {
  v1::RankCommand command;
  v1::RankStart& start = *command.mutable_start();
  *start.mutable_plan() = plan;
  start.set_rank(rank);
  start.set_checkpoint_directory(checkpoints);
  start.set_bind_host("127.0.0.1");
  start.set_at_boundary(at_boundary);
  Send(command);
}

void RankProcess::Peers(const v1::RankPeers& peers) {
  v1::RankCommand command;
  *command.mutable_peers() = peers;
  Send(command);
}

void RankProcess::Hold(uint64_t epoch) {
  v1::RankCommand command;
  command.mutable_hold()->set_epoch(epoch);
  command.mutable_hold()->set_reason("held by the test");
  Send(command);
}

void RankProcess::Park(uint64_t epoch) {
  v1::RankCommand command;
  command.mutable_park()->set_epoch(epoch);
  Send(command);
}

void RankProcess::Stop() {
  v1::RankCommand command;
  command.mutable_stop()->set_reason("stopped by the test");
  Send(command);
}

v1::RankDiagnosis RankProcess::Diagnose() {
  v1::RankCommand command;
  const uint64_t token = ++last_token_;
  command.mutable_diagnose()->set_token(token);
  Send(command);
  // Looked for among all events, so that those Await has not returned yet stay.
  std::unique_lock lock(mutex_);
  size_t looked = 0;
  v1::RankDiagnosis found;
  changed_.wait_for(lock, kPatience, [&] {
    for (; looked < events_.size(); ++looked) {
      if (events_[looked].diagnosis().token() == token) {
        found = events_[looked].diagnosis();
        return true;
      }
    }
    return closed_;
  });
  return found;
}

void RankProcess::AwaitBeing(const std::string& what) {
  v1::RankDiagnosis diagnosis;
  do {
    diagnosis = Diagnose();
    if (diagnosis.token() != 0) continue;
    ADD_FAILURE() << name_ << " ended before it was at: " << what;
    return;
  } while (diagnosis.instruction() != what);
}

void RankProcess::Kill() {
  daemon_.Shutdown();
  clock_.PauseAfter(0);
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  if (session_.joinable()) session_.join();
  if (receiver_.joinable()) receiver_.join();
}

void RankProcess::StopListening() {
  const std::lock_guard lock(mutex_);
  listening_ = false;
}

v1::RankEvent RankProcess::Await(const std::string& what, const Match& match) {
  std::unique_lock lock(mutex_);
  v1::RankEvent found;
  bool ended = false;
  const bool any = changed_.wait_for(lock, kPatience, [&] {
    while (seen_ < events_.size()) {
      const v1::RankEvent& event = events_[seen_++];
      if (match(event)) {
        found = event;
        return true;
      }
    }
    ended = closed_;
    return ended;
  });
  if (!any || ended) {
    ADD_FAILURE() << name_ << (ended ? " ended" : " is late") << " before: " << what;
    const size_t first = events_.size() > 8 ? events_.size() - 8 : 0;
    for (size_t i = first; i < events_.size(); ++i) {
      ADD_FAILURE() << name_ << " told: " << events_[i].ShortDebugString();
    }
  }
  return found;
}

v1::RankEvent RankProcess::AwaitStep(int64_t step) {
  return Await("step " + std::to_string(step), [step](const v1::RankEvent& event) {
    return event.has_step() && event.step().step() >= step;
  });
}

v1::RankEvent RankProcess::AwaitHeld(uint64_t epoch) {
  return Await("held in epoch " + std::to_string(epoch), [epoch](const v1::RankEvent& event) {
    return event.has_held() && event.epoch() == epoch;
  });
}

v1::RankEvent RankProcess::AwaitFinished() {
  return Await("finished", [](const v1::RankEvent& event) { return event.has_finished(); });
}

std::vector<v1::RankEvent> RankProcess::Events() {
  const std::lock_guard lock(mutex_);
  return events_;
}

std::vector<int64_t> RankProcess::Steps() {
  std::vector<int64_t> steps;
  for (const v1::RankEvent& event : Events()) {
    if (event.has_step()) steps.push_back(event.step().step());
  }
  return steps;
}

bool RankProcess::Told(const Match& match) {
  for (const v1::RankEvent& event : Events()) {
    if (match(event)) return true;
  }
  return false;
}

absl::Status RankProcess::Join() {
  clock_.PauseAfter(0);
  if (session_.joinable()) session_.join();
  return end_;
}

v1::RankPeers StartAll(const v1::Plan& plan, const std::vector<RankProcess*>& processes,
                       const std::string& checkpoints, bool at_boundary) {
  const int ranks = static_cast<int>(processes.size());
  for (int rank = 0; rank < ranks; ++rank) {
    processes[rank]->Start(plan, rank, checkpoints, at_boundary);
  }
  v1::RankPeers peers;
  peers.set_epoch(plan.epoch());
  for (int rank = 0; rank < ranks; ++rank) {
    v1::RankEndpoint* peer = peers.add_peers();
    peer->set_rank(rank);
    peer->set_node(plan.ranks(rank).node());
    peer->set_endpoint(processes[rank]
                           ->Await("listening in epoch " + std::to_string(plan.epoch()),
                                   [&](const v1::RankEvent& event) {
                                     return !event.listening().empty() &&
                                            event.epoch() == plan.epoch();
                                   })
                           .listening());
  }
  return peers;
}

void Launch(const v1::Plan& plan, const std::vector<RankProcess*>& processes,
            const std::string& checkpoints, bool at_boundary) {
  const v1::RankPeers peers = StartAll(plan, processes, checkpoints, at_boundary);
  for (RankProcess* process : processes) process->Peers(peers);
}

}  // namespace fathom::engine
