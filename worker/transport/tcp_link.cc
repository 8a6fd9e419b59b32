#include "worker/transport/tcp_link.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "worker/transport/wire.h"

namespace fathom::transport {
namespace {

// Puts up to this size, together, wait for their signal.
constexpr size_t kCoalesceBytesMax = 32 << 10;
constexpr size_t kStagingBytes = 64 << 10;
// One peer's flood must not starve the others' signals.
constexpr int kReadsPerEvent = 8;

class TcpLink : public PeerLink {
 public:
  TcpLink(Fd socket, std::shared_ptr<Segment> own, int stop_event, absl::Duration send_timeout)
      : socket_(std::move(socket)),
        own_(std::move(own)),
        stop_event_(stop_event),
        send_timeout_(send_timeout),
        staging_(kStagingBytes) {
    pending_.reserve(kCoalesceBytesMax + 2 * kFrameBytes);
  }

  absl::Status Put(uint64_t offset, absl::Span<const std::byte> bytes) override {
    if (bytes.empty()) return absl::OkStatus();
    const auto frame = EncodeFrame({FrameKind::kPut, 0, offset, bytes.size()});
    const bool fits = pending_.size() + kFrameBytes + bytes.size() <= kCoalesceBytesMax;
    pending_.insert(pending_.end(), frame.begin(), frame.end());
    if (fits) {
      pending_.insert(pending_.end(), bytes.begin(), bytes.end());
      return absl::OkStatus();
    }
    return SendPendingAnd(bytes, MSG_MORE, DeadlineAfter(send_timeout_));
  }

  absl::Status Signal(uint32_t index) override {
    const auto frame = EncodeFrame({FrameKind::kSignal, index, 0, 0});
    pending_.insert(pending_.end(), frame.begin(), frame.end());
    return SendPendingAnd({}, 0, DeadlineAfter(send_timeout_));
  }

  void SayGoodbye(SteadyTime deadline) override {
    const auto frame = EncodeFrame({FrameKind::kBye, 0, 0, 0});
    pending_.insert(pending_.end(), frame.begin(), frame.end());
    // When it can't be said, the connection is broken, and the peer learns it from that.
    SendPendingAnd({}, 0, deadline).IgnoreError();
    HangUp();
  }

  int fd() const override { return socket_.get(); }
  LinkEvent Receive() override;
  bool lingers() const override { return true; }
  void HangUp() override { shutdown(socket_.get(), SHUT_WR); }

 private:
  absl::Status SendPendingAnd(absl::Span<const std::byte> bytes, int flags, SteadyTime deadline);
  absl::Status AwaitWritable(SteadyTime deadline);
  // Takes what it can from staging_; anything but kAlive ends the connection.
  LinkEvent Parse();

  const Fd socket_;
  const std::shared_ptr<Segment> own_;
  const int stop_event_;
  const absl::Duration send_timeout_;

  // The rank's thread.
  std::vector<std::byte> pending_;

  // The watcher's thread. Of the put being received, put_left_ bytes are still to come for put_at_.
  std::vector<std::byte> staging_;
  size_t staged_begin_ = 0;
  size_t staged_end_ = 0;
  uint64_t put_at_ = 0;
  uint64_t put_left_ = 0;
};

absl::Status TcpLink::AwaitWritable(SteadyTime deadline) {
  pollfd waits[2] = {{socket_.get(), POLLOUT, 0}, {stop_event_, POLLIN, 0}};
  while (true) {
    const int ready = poll(waits, 2, MillisecondsUntil(deadline));
    if (ready < 0 && errno != EINTR) return ConnectionError("waiting to send", errno);
    if (ready == 0) return absl::DeadlineExceededError("it took nothing more");
    if (ready > 0 && waits[1].revents != 0) return absl::CancelledError("stopped");
    if (ready > 0) return absl::OkStatus();
  }
}

absl::Status TcpLink::SendPendingAnd(absl::Span<const std::byte> bytes, int flags,
                                     SteadyTime deadline) {
  const size_t total = pending_.size() + bytes.size();
  size_t done = 0;
  while (done < total) {
    iovec pieces[2];
    int count = 0;
    if (done < pending_.size()) {
      pieces[count++] = {pending_.data() + done, pending_.size() - done};
    }
    const size_t of_bytes = done > pending_.size() ? done - pending_.size() : 0;
    if (of_bytes < bytes.size()) {
      pieces[count++] = {const_cast<std::byte*>(bytes.data()) + of_bytes, bytes.size() - of_bytes};
    }
    msghdr message{};
    message.msg_iov = pieces;
    message.msg_iovlen = static_cast<size_t>(count);
    const ssize_t sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT | flags);
    if (sent >= 0) {
      done += static_cast<size_t>(sent);
    } else if (errno == EAGAIN) {
      absl::Status writable = AwaitWritable(deadline);
      if (!writable.ok()) return writable;
    } else if (errno != EINTR) {
      return ConnectionError("sending", errno);
    }
  }
  pending_.clear();
  return absl::OkStatus();
}

LinkEvent TcpLink::Receive() {
  for (int read = 0; read < kReadsPerEvent; ++read) {
    // The rest of a large put goes where it belongs without a stop in between.
    iovec pieces[2];
    int count = 0;
    if (put_left_ > 0) pieces[count++] = {own_->window().data() + put_at_, put_left_};
    pieces[count++] = {staging_.data() + staged_end_, staging_.size() - staged_end_};
    msghdr message{};
    message.msg_iov = pieces;
    message.msg_iovlen = static_cast<size_t>(count);
    const ssize_t got = recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return {};
    if (got < 0) {
      return {LinkEvent::Kind::kBroken, std::string(ConnectionError("receiving", errno).message())};
    }
    if (got == 0) return {LinkEvent::Kind::kBroken, "its connection closed without a goodbye"};
    const uint64_t direct = std::min<uint64_t>(static_cast<uint64_t>(got), put_left_);
    put_at_ += direct;
    put_left_ -= direct;
    staged_end_ += static_cast<size_t>(got) - direct;
    LinkEvent event = Parse();
    if (event.kind != LinkEvent::Kind::kAlive) return event;
  }
  return {};
}

LinkEvent TcpLink::Parse() {
  while (true) {
    const size_t staged = staged_end_ - staged_begin_;
    const std::byte* at = staging_.data() + staged_begin_;
    if (put_left_ > 0) {
      const size_t n = std::min<uint64_t>(staged, put_left_);
      if (n == 0) break;
      std::memcpy(own_->window().data() + put_at_, at, n);
      put_at_ += n;
      put_left_ -= n;
      staged_begin_ += n;
      continue;
    }
    if (staged < kFrameBytes) break;
    const absl::StatusOr<Frame> frame =
        DecodeFrame({at, kFrameBytes}, own_->window().size(), own_->signal_count());
    if (!frame.ok()) return {LinkEvent::Kind::kBroken, std::string(frame.status().message())};
    staged_begin_ += kFrameBytes;
    switch (frame->kind) {
      case FrameKind::kPut:
        put_at_ = frame->offset;
        put_left_ = frame->length;
        break;
      case FrameKind::kSignal:
        own_->Raise(frame->signal);
        break;
      case FrameKind::kBye:
        return {LinkEvent::Kind::kLeft, ""};
    }
  }
  // What remains is less than a frame, so there is always room to read on.
  std::memmove(staging_.data(), staging_.data() + staged_begin_, staged_end_ - staged_begin_);
  staged_end_ -= staged_begin_;
  staged_begin_ = 0;
  return {};
}

}  // namespace

std::unique_ptr<PeerLink> MakeTcpLink(Fd socket, std::shared_ptr<Segment> own, int stop_event,
                                      absl::Duration send_timeout) {
  return std::make_unique<TcpLink>(std::move(socket), std::move(own), stop_event, send_timeout);
}

}  // namespace fathom::transport
