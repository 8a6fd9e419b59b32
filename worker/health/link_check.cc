#include "worker/health/link_check.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/host_port.h"
#include "common/base/status_util.h"
#include "common/health/preflight_verdict.h"
#include "worker/agent/unique_fd.h"
#include "worker/health/echo_frame.h"

namespace fathom::health {
namespace {

// A connection to an echo service that gives up at its deadline.
class EchoClient {
 public:
  EchoClient(const Clock* clock, absl::Duration time)
      : clock_(clock), deadline_(clock->Steady() + time) {}

  absl::Status Connect(const std::string& endpoint) {
    FATHOM_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(endpoint));
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int error =
        ::getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
    if (error != 0) return absl::UnavailableError(::gai_strerror(error));
    fd_.reset(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int begun = fd_.ok() ? ::connect(fd_.get(), found->ai_addr, found->ai_addrlen) : -1;
    const int connect_error = begun == 0 ? 0 : errno;
    ::freeaddrinfo(found);
    if (connect_error != 0 && connect_error != EINPROGRESS) return Failed(connect_error);
    const int yes = 1;
    ::setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    FATHOM_RETURN_IF_ERROR(Await(POLLOUT));
    int result = 0;
    socklen_t length = sizeof(result);
    ::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &result, &length);
    return result == 0 ? absl::OkStatus() : Failed(result);
  }

  absl::Status Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent >= 0) {
        bytes.remove_prefix(static_cast<size_t>(sent));
      } else if (errno == EAGAIN) {
        FATHOM_RETURN_IF_ERROR(Await(POLLOUT));
      } else if (errno != EINTR) {
        return Failed(errno);
      }
    }
    return absl::OkStatus();
  }

  absl::Status Receive(char* bytes, size_t count) {
    while (count > 0) {
      const ssize_t got = ::recv(fd_.get(), bytes, count, 0);
      if (got > 0) {
        bytes += got;
        count -= static_cast<size_t>(got);
      } else if (got == 0) {
        return absl::UnavailableError("it closed the connection; it may be measured by too many");
      } else if (errno == EAGAIN) {
        FATHOM_RETURN_IF_ERROR(Await(POLLIN));
      } else if (errno != EINTR) {
        return Failed(errno);
      }
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status Failed(int error) { return absl::UnavailableError(std::strerror(error)); }

  absl::Status Await(short events) {
    const absl::Duration left = deadline_ - clock_->Steady();
    pollfd polled{fd_.get(), events, 0};
    const int count = left <= absl::ZeroDuration()
                          ? 0
                          : ::poll(&polled, 1,
                                   static_cast<int>(absl::ToInt64Milliseconds(
                                       absl::Ceil(left, absl::Milliseconds(1)))));
    if (count > 0 || (count < 0 && errno == EINTR)) return absl::OkStatus();
    return absl::DeadlineExceededError("no answer in time");
  }

  const Clock* const clock_;
  const absl::Duration deadline_;
  UniqueFd fd_;
};

absl::StatusOr<double> MeasureLatencyUs(const std::string& endpoint,
                                        const LinkCheckOptions& options, const Clock* clock) {
  EchoClient client(clock, options.time);
  FATHOM_RETURN_IF_ERROR(client.Connect(endpoint));
  FATHOM_RETURN_IF_ERROR(client.Send(EncodeEchoHello(
      {EchoKind::kPing, options.ping_bytes, static_cast<uint64_t>(options.pings)})));
  std::string answer(options.ping_bytes, '\0');
  std::vector<absl::Duration> trips;
  for (int i = 0; i < options.pings; ++i) {
    const std::string message(options.ping_bytes, static_cast<char>('a' + i % 26));
    const absl::Duration before = clock->Steady();
    FATHOM_RETURN_IF_ERROR(client.Send(message));
    FATHOM_RETURN_IF_ERROR(client.Receive(answer.data(), answer.size()));
    trips.push_back(clock->Steady() - before);
    if (answer != message) return absl::DataLossError("a message came back altered");
  }
  const auto middle = trips.begin() + trips.size() / 2;
  std::nth_element(trips.begin(), middle, trips.end());
  return absl::ToDoubleMicroseconds(*middle) / 2;
}

absl::StatusOr<double> MeasureGigabytesPerSecond(const std::string& endpoint,
                                                 const LinkCheckOptions& options,
                                                 const Clock* clock) {
  const uint64_t blocks =
      std::clamp<uint64_t>(options.bandwidth_bytes / kEchoBlockBytes, 1, kMaxEchoBlocks);
  // One block over and over, so that making and hashing it costs the sender little.
  std::string block(kEchoBlockBytes, '\0');
  for (size_t i = 0; i < block.size(); ++i) block[i] = static_cast<char>(i * 131 + (i >> 8));
  EchoClient client(clock, options.time);
  FATHOM_RETURN_IF_ERROR(client.Connect(endpoint));
  FATHOM_RETURN_IF_ERROR(client.Send(EncodeEchoHello({EchoKind::kSink, kEchoBlockBytes, blocks})));
  const absl::Duration before = clock->Steady();
  for (uint64_t i = 0; i < blocks; ++i) FATHOM_RETURN_IF_ERROR(client.Send(block));
  char answer[8];
  FATHOM_RETURN_IF_ERROR(client.Receive(answer, sizeof(answer)));
  const double seconds = absl::ToDoubleSeconds(clock->Steady() - before);
  uint64_t digest = 0;
  for (uint64_t i = 0; i < blocks; ++i) digest = EchoDigest(digest, block);
  uint64_t received = 0;
  for (int i = 0; i < 8; ++i) {
    received |= static_cast<uint64_t>(static_cast<unsigned char>(answer[i])) << (8 * i);
  }
  if (received != digest) return absl::DataLossError("what arrived there differs from what left");
  return static_cast<double>(blocks * kEchoBlockBytes) / 1e9 / seconds;
}

v1::PreflightCheck Check(absl::string_view name, absl::string_view unit,
                         const v1::PreflightPeer& peer, const absl::StatusOr<double>& value) {
  v1::PreflightCheck check;
  check.set_name(std::string(name));
  check.set_unit(std::string(unit));
  check.set_subject(peer.node());
  check.set_passed(value.ok());
  if (value.ok()) {
    check.set_value(*value);
  } else {
    check.set_message(absl::StrCat("measuring the link to node ", peer.node(), " at ",
                                   peer.endpoint(), ": ", value.status().message()));
  }
  return check;
}

}  // namespace

std::vector<v1::PreflightCheck> CheckLink(const v1::PreflightPeer& peer,
                                          const LinkCheckOptions& options, const Clock* clock) {
  return {Check(kLinkLatency, "us", peer, MeasureLatencyUs(peer.endpoint(), options, clock)),
          Check(kLinkBandwidth, "GB/s", peer,
                MeasureGigabytesPerSecond(peer.endpoint(), options, clock))};
}

}  // namespace fathom::health
