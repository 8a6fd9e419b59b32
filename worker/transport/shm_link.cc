#include "worker/transport/shm_link.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace fathom::transport {
namespace {

constexpr char kGoodbye = 'B';

class ShmLink : public PeerLink {
 public:
  ShmLink(Fd socket, std::shared_ptr<Segment> segment)
      : socket_(std::move(socket)), segment_(std::move(segment)) {}

  absl::Status Put(uint64_t offset, absl::Span<const std::byte> bytes) override {
    if (!bytes.empty()) {
      std::memcpy(segment_->window().data() + offset, bytes.data(), bytes.size());
    }
    return absl::OkStatus();
  }

  absl::Status Signal(uint32_t index) override {
    segment_->Raise(index);
    return absl::OkStatus();
  }

  void SayGoodbye(SteadyTime) override {
    if (!socket_.valid()) return;
    // Fails only when the peer is gone, and then nobody is to be told.
    [[maybe_unused]] const ssize_t sent =
        send(socket_.get(), &kGoodbye, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  int fd() const override { return socket_.get(); }

  LinkEvent Receive() override {
    char said = 0;
    const ssize_t got = recv(socket_.get(), &said, 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return {};
    if (got == 1 && said == kGoodbye) return {LinkEvent::Kind::kLeft, ""};
    return {LinkEvent::Kind::kBroken, got == 1 ? "it said something unknown" : "its process ended"};
  }

  bool lingers() const override { return false; }

  void HangUp() override {}

 private:
  const Fd socket_;
  const std::shared_ptr<Segment> segment_;
};

}  // namespace

std::unique_ptr<PeerLink> MakeShmLink(Fd socket, std::shared_ptr<Segment> peer_segment) {
  return std::make_unique<ShmLink>(std::move(socket), std::move(peer_segment));
}

}  // namespace fathom::transport
