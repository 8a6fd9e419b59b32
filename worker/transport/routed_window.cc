#include "worker/transport/routed_window.h"

#include <sys/epoll.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom::transport {
namespace {

// How long a closing window lets slow peers take what was sent to them.
constexpr absl::Duration kLinger = absl::Seconds(5);
// How long a failed send waits for the watcher to learn from the same connection how it ended.
constexpr absl::Duration kVerdict = absl::Seconds(1);
constexpr int kEventsPerWait = 64;

enum class Life { kPresent, kLeft, kBroken };

struct Peer {
  RoutedPeer route;
  // Changes once, under mutex_, and is read anywhere.
  std::atomic<Life> life{Life::kPresent};
  std::string why;  // guarded by mutex_; how it broke
};

class RoutedWindow : public Window {
 public:
  RoutedWindow(int rank, std::shared_ptr<Segment> own, std::vector<RoutedPeer> peers, Fd stop_event,
               absl::Duration wait_timeout)
      : rank_(rank),
        own_(std::move(own)),
        wait_timeout_(wait_timeout),
        stop_event_(std::move(stop_event)),
        peers_(peers.size()) {
    for (size_t i = 0; i < peers.size(); ++i) peers_[i].route = std::move(peers[i]);
  }
  ~RoutedWindow() override;

  absl::Status Start();

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(peers_.size()); }
  absl::Span<std::byte> local() override { return own_->window(); }
  absl::Status Put(int peer, uint64_t offset, absl::Span<const std::byte> bytes) override;
  absl::Status Signal(int peer, uint32_t index) override;
  absl::Status Wait(int peer, uint32_t index, uint64_t value) override;
  absl::StatusOr<bool> Poll(int peer, uint32_t index, uint64_t value) override;
  void Abort(absl::Status status) override;

 private:
  std::string Name(int peer) const {
    return absl::StrCat("rank ", peer, " on node ", peers_[peer].route.node);
  }
  absl::Status CheckUse(int peer) const;
  absl::Status AbortStatus() const;
  absl::Status GoneStatus(int peer, absl::string_view doing) const;
  // What a failed send to the peer means, given how its connection ended.
  absl::Status SendFailure(int peer, absl::string_view doing, const absl::Status& failure);
  void Watch();
  void End(int peer, const LinkEvent& event);

  // Constant after Start.
  const int rank_;
  const std::shared_ptr<Segment> own_;
  const absl::Duration wait_timeout_;
  const Fd stop_event_;
  Fd quit_event_;
  Fd epoll_;
  std::thread watcher_;

  std::atomic<bool> aborted_{false};
  std::vector<Peer> peers_;

  mutable std::mutex mutex_;
  std::condition_variable ended_;  // a peer's life changed
  absl::StatusCode abort_code_{};  // guarded by mutex_
  std::string abort_message_;      // guarded by mutex_
};

absl::Status RoutedWindow::Start() {
  FATHOM_ASSIGN_OR_RETURN(quit_event_, MakeEvent());
  epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return ConnectionError("epoll_create1", errno);
  const auto add = [this](int fd, int tag) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u32 = static_cast<uint32_t>(tag);
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      return ConnectionError("epoll_ctl", errno);
    }
    return absl::OkStatus();
  };
  bool any = false;
  for (int peer = 0; peer < size(); ++peer) {
    const int fd = peers_[peer].route.link->fd();
    if (fd < 0) continue;
    FATHOM_RETURN_IF_ERROR(add(fd, peer));
    any = true;
  }
  FATHOM_RETURN_IF_ERROR(add(quit_event_.get(), size()));
  if (any) watcher_ = std::thread([this] { Watch(); });
  return absl::OkStatus();
}

RoutedWindow::~RoutedWindow() {
  if (!watcher_.joinable()) return;
  if (!aborted_.load()) {
    const SteadyTime deadline = DeadlineAfter(kLinger);
    for (Peer& peer : peers_) {
      if (peer.life.load() == Life::kPresent) peer.route.link->SayGoodbye(deadline);
    }
    std::unique_lock lock(mutex_);
    ended_.wait_until(lock, deadline, [this] {
      for (const Peer& peer : peers_) {
        if (peer.route.link->lingers() && peer.life.load() == Life::kPresent) return false;
      }
      return true;
    });
  }
  RaiseEvent(quit_event_);
  watcher_.join();
}

absl::Status RoutedWindow::AbortStatus() const {
  const std::lock_guard lock(mutex_);
  return absl::Status(abort_code_, abort_message_);
}

absl::Status RoutedWindow::CheckUse(int peer) const {
  if (aborted_.load(std::memory_order_acquire)) return AbortStatus();
  if (peer < 0 || peer >= size()) {
    return absl::InvalidArgumentError(absl::StrCat("there is no rank ", peer, " among ", size()));
  }
  return absl::OkStatus();
}

absl::Status RoutedWindow::GoneStatus(int peer, absl::string_view doing) const {
  const std::lock_guard lock(mutex_);
  const Peer& p = peers_[peer];
  return absl::UnavailableError(absl::StrCat(
      Name(peer), " is gone (", p.life.load() == Life::kLeft ? "it had closed its window" : p.why,
      "); ", doing));
}

absl::Status RoutedWindow::SendFailure(int peer, absl::string_view doing,
                                       const absl::Status& failure) {
  if (aborted_.load()) return AbortStatus();
  if (failure.code() == absl::StatusCode::kUnavailable) {
    std::unique_lock lock(mutex_);
    ended_.wait_until(lock, DeadlineAfter(kVerdict),
                      [&] { return peers_[peer].life.load() != Life::kPresent; });
  }
  switch (peers_[peer].life.load()) {
    case Life::kPresent:
      return WithContext(failure, absl::StrCat(Name(peer), ": ", doing));
    case Life::kLeft:
      return absl::OkStatus();
    case Life::kBroken:
      return GoneStatus(peer, doing);
  }
  FATHOM_CHECK(false) << "no such life";
}

absl::Status RoutedWindow::Put(int peer, uint64_t offset, absl::Span<const std::byte> bytes) {
  FATHOM_RETURN_IF_ERROR(CheckUse(peer));
  Peer& p = peers_[peer];
  if (offset > p.route.window_bytes || bytes.size() > p.route.window_bytes - offset) {
    return absl::InvalidArgumentError(absl::StrCat("put of ", bytes.size(), " bytes at ", offset,
                                                   " is outside the window of ", Name(peer),
                                                   ", which has ", p.route.window_bytes));
  }
  const Life life = p.life.load(std::memory_order_acquire);
  if (life == Life::kLeft) return absl::OkStatus();
  if (life == Life::kBroken) return GoneStatus(peer, "putting into its window");
  const absl::Status put = p.route.link->Put(offset, bytes);
  return put.ok() ? put : SendFailure(peer, "putting into its window", put);
}

absl::Status RoutedWindow::Signal(int peer, uint32_t index) {
  FATHOM_RETURN_IF_ERROR(CheckUse(peer));
  Peer& p = peers_[peer];
  if (index >= p.route.signal_count) {
    return absl::InvalidArgumentError(absl::StrCat("there is no signal ", index, " at ", Name(peer),
                                                   ", which has ", p.route.signal_count));
  }
  const Life life = p.life.load(std::memory_order_acquire);
  if (life == Life::kLeft) return absl::OkStatus();
  if (life == Life::kBroken) return GoneStatus(peer, "raising its signal");
  const absl::Status raised = p.route.link->Signal(index);
  return raised.ok() ? raised : SendFailure(peer, "raising its signal", raised);
}

absl::Status RoutedWindow::Wait(int peer, uint32_t index, uint64_t value) {
  FATHOM_RETURN_IF_ERROR(CheckUse(peer));
  if (index >= own_->signal_count()) {
    return absl::InvalidArgumentError(absl::StrCat("this rank, ", rank_, ", has no signal ", index,
                                                   " but ", own_->signal_count()));
  }
  Peer& p = peers_[peer];
  const Segment::Outcome outcome =
      own_->Wait(index, value, DeadlineAfter(wait_timeout_),
                 [this, &p] { return aborted_.load() || p.life.load() != Life::kPresent; });
  if (outcome == Segment::Outcome::kReached) return absl::OkStatus();
  if (aborted_.load()) return AbortStatus();
  const std::string doing =
      absl::StrCat("waiting for it to raise signal ", index, " of rank ", rank_, " to ", value,
                   ", which is at ", own_->value(index));
  if (outcome == Segment::Outcome::kInterrupted) return GoneStatus(peer, doing);
  return absl::DeadlineExceededError(absl::StrCat(
      Name(peer), " gave no answer for ", absl::FormatDuration(wait_timeout_), "; ", doing));
}

absl::StatusOr<bool> RoutedWindow::Poll(int peer, uint32_t index, uint64_t value) {
  FATHOM_RETURN_IF_ERROR(CheckUse(peer));
  if (index >= own_->signal_count()) {
    return absl::InvalidArgumentError(absl::StrCat("this rank, ", rank_, ", has no signal ", index,
                                                   " but ", own_->signal_count()));
  }
  // Its life first: what it raised before its end counts.
  const bool gone = peers_[peer].life.load(std::memory_order_acquire) != Life::kPresent;
  if (own_->value(index) >= value) return true;
  if (gone) return GoneStatus(peer, absl::StrCat("looking at signal ", index));
  return false;
}

void RoutedWindow::Abort(absl::Status status) {
  {
    const std::lock_guard lock(mutex_);
    if (aborted_.load()) return;
    FATHOM_CHECK(!status.ok()) << "aborted without an error";
    abort_code_ = status.code();
    abort_message_ = std::string(status.message());
    aborted_.store(true);
  }
  RaiseEvent(stop_event_);
  own_->Wake();
}

void RoutedWindow::End(int peer, const LinkEvent& event) {
  Peer& p = peers_[peer];
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, p.route.link->fd(), nullptr);
  {
    const std::lock_guard lock(mutex_);
    p.why = event.why;
    p.life.store(event.kind == LinkEvent::Kind::kLeft ? Life::kLeft : Life::kBroken);
  }
  p.route.link->HangUp();
  ended_.notify_all();
  own_->Wake();
}

void RoutedWindow::Watch() {
  epoll_event events[kEventsPerWait];
  while (true) {
    const int count = epoll_wait(epoll_.get(), events, kEventsPerWait, -1);
    if (count < 0) {
      FATHOM_CHECK(errno == EINTR) << "epoll_wait: " << errno;
      continue;
    }
    for (int i = 0; i < count; ++i) {
      const int peer = static_cast<int>(events[i].data.u32);
      if (peer == size()) return;
      const LinkEvent event = peers_[peer].route.link->Receive();
      if (event.kind != LinkEvent::Kind::kAlive) End(peer, event);
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Window>> MakeRoutedWindow(int rank, std::shared_ptr<Segment> own,
                                                         std::vector<RoutedPeer> peers,
                                                         Fd stop_event,
                                                         absl::Duration wait_timeout) {
  FATHOM_CHECK(rank >= 0 && rank < static_cast<int>(peers.size())) << rank;
  auto window = std::make_unique<RoutedWindow>(rank, std::move(own), std::move(peers),
                                               std::move(stop_event), wait_timeout);
  FATHOM_RETURN_IF_ERROR(window->Start());
  return window;
}

}  // namespace fathom::transport
