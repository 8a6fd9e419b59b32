#include "worker/transport/rendezvous.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/host_port.h"
#include "common/base/status_util.h"
#include "worker/transport/meeting.h"
#include "worker/transport/routed_window.h"
#include "worker/transport/segment.h"
#include "worker/transport/shm_link.h"
#include "worker/transport/socket.h"
#include "worker/transport/tcp_link.h"
#include "worker/transport/wire.h"

namespace fathom::transport {
namespace {

// The local listener is named after the TCP port, which another network namespace's process may
// have taken already.
constexpr int kPortTriesMax = 16;

absl::Status CheckTable(const RendezvousOptions& options, const std::vector<PeerAddress>& peers) {
  const auto wrong = [&](const auto&... what) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank table of job ", options.job, " epoch ", options.epoch, ": ", what...));
  };
  if (options.rank < 0 || options.rank >= peers.size()) {
    return wrong("this rank is ", options.rank, ", and there are ", peers.size());
  }
  if (options.job.size() > kJobNameBytesMax) {
    return wrong("a job's name has at most ", kJobNameBytesMax, " bytes");
  }
  for (int i = 0; i < peers.size(); ++i) {
    if (peers[i].rank != i) return wrong("entry ", i, " is of rank ", peers[i].rank);
    if (i == options.rank) continue;
    const auto endpoint = ParseHostPort(peers[i].endpoint);
    if (!endpoint.ok()) return wrong("rank ", i, ": ", endpoint.status().message());
    if (endpoint->port == 0) return wrong("rank ", i, " has no port: ", peers[i].endpoint);
  }
  if (peers[options.rank].node != options.node) {
    return wrong("rank ", options.rank, " is on node ", peers[options.rank].node,
                 " there, and on node ", options.node, " by its own account");
  }
  return absl::OkStatus();
}

class SocketRendezvous : public Rendezvous {
 public:
  SocketRendezvous(TcpListener tcp, Fd local, Fd cancel)
      : endpoint_(ToString(HostPort{tcp.host, tcp.port})),
        cancel_event_(std::move(cancel)),
        tcp_listener_(std::move(tcp.fd)),
        local_listener_(std::move(local)) {}

  std::string endpoint() const override { return endpoint_; }

  absl::StatusOr<std::unique_ptr<Window>> Connect(const RendezvousOptions& options,
                                                  const std::vector<PeerAddress>& peers) override;

  void Cancel() override { RaiseEvent(cancel_event_); }

 private:
  const std::string endpoint_;
  const Fd cancel_event_;
  Fd tcp_listener_;
  Fd local_listener_;
};

absl::StatusOr<std::unique_ptr<Window>> SocketRendezvous::Connect(
    const RendezvousOptions& options, const std::vector<PeerAddress>& peers) {
  if (!tcp_listener_.valid()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the rendezvous at ", endpoint_, " has succeeded before; make a new one"));
  }
  FATHOM_RETURN_IF_ERROR(CheckTable(options, peers));
  FATHOM_ASSIGN_OR_RETURN(const std::shared_ptr<Segment> own,
                          Segment::Create(options.window_bytes, options.signal_count));
  Meeting meeting(options, peers, {&tcp_listener_, &local_listener_, &cancel_event_, own->fd()});
  FATHOM_ASSIGN_OR_RETURN(std::vector<Acquaintance> met, meeting.Run());

  FATHOM_ASSIGN_OR_RETURN(Fd stop_event, MakeEvent());
  std::vector<RoutedPeer> routed(peers.size());
  for (int i = 0; i < peers.size(); ++i) {
    RoutedPeer& peer = routed[i];
    peer.node = peers[i].node;
    if (i == options.rank) {
      peer.window_bytes = options.window_bytes;
      peer.signal_count = options.signal_count;
      peer.link = MakeShmLink(Fd(), own);
      continue;
    }
    peer.window_bytes = met[i].hello.window_bytes;
    peer.signal_count = met[i].hello.signal_count;
    const std::string name = absl::StrCat("rank ", i, " on node ", peer.node);
    if (met[i].local) {
      absl::StatusOr<std::shared_ptr<Segment>> segment =
          Segment::Map(std::move(met[i].memory), peer.window_bytes, peer.signal_count);
      if (!segment.ok()) return WithContext(segment.status(), name);
      peer.link = MakeShmLink(std::move(met[i].socket), *std::move(segment));
    } else {
      const absl::Status tuned = TuneTcp(met[i].socket, options.wait_timeout);
      if (!tuned.ok()) return WithContext(tuned, name);
      peer.link =
          MakeTcpLink(std::move(met[i].socket), own, stop_event.get(), options.wait_timeout);
    }
  }
  FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<Window> window,
                          MakeRoutedWindow(options.rank, own, std::move(routed),
                                           std::move(stop_event), options.wait_timeout));
  tcp_listener_.Close();
  local_listener_.Close();
  return window;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Rendezvous>> Rendezvous::Listen(const std::string& bind_host) {
  FATHOM_ASSIGN_OR_RETURN(Fd cancel, MakeEvent());
  absl::Status last;
  for (int i = 0; i < kPortTriesMax; ++i) {
    FATHOM_ASSIGN_OR_RETURN(TcpListener tcp, ListenTcp(bind_host));
    absl::StatusOr<Fd> local = ListenLocal(tcp.port);
    if (local.ok()) {
      return std::make_unique<SocketRendezvous>(std::move(tcp), *std::move(local),
                                                std::move(cancel));
    }
    last = local.status();
  }
  return last;
}

}  // namespace fathom::transport
