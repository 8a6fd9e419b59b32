#include "worker/transport/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"

namespace fathom::transport {
namespace {

constexpr int kBacklog = 4096;

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Resolve(const std::string& host, int port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot resolve host \"", host, "\": ", gai_strerror(error)));
  }
  return AddressList(found, &freeaddrinfo);
}

// In the abstract namespace: it goes with the process, however that ends.
socklen_t LocalAddress(int port, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  const std::string name = absl::StrCat("fathom-rank-", port);
  std::memcpy(address->sun_path + 1, name.data(), name.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

absl::Status SetInt(const Fd& fd, int level, int option, int value) {
  if (setsockopt(fd.get(), level, option, &value, sizeof(value)) != 0) {
    return ConnectionError("setting a socket option", errno);
  }
  return absl::OkStatus();
}

}  // namespace

SteadyTime DeadlineAfter(absl::Duration duration) {
  const absl::Duration bounded = std::clamp(duration, absl::ZeroDuration(), absl::Hours(24) * 365);
  return std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(bounded);
}

int MillisecondsUntil(SteadyTime deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1'000'000'000));
}

void Fd::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::Status ConnectionError(absl::string_view what, int error) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::generic_category().message(error)));
}

absl::StatusOr<Fd> MakeEvent() {
  Fd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return ConnectionError("making an eventfd", errno);
  return event;
}

void RaiseEvent(const Fd& event) {
  const uint64_t one = 1;
  // Fails only when the count is full, and then it's readable anyway.
  [[maybe_unused]] const ssize_t written = write(event.get(), &one, sizeof(one));
}

absl::StatusOr<TcpListener> ListenTcp(const std::string& host) {
  FATHOM_ASSIGN_OR_RETURN(const AddressList addresses, Resolve(host, 0, AI_PASSIVE));
  absl::Status last = absl::UnavailableError("no address");
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    Fd fd(socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol));
    sockaddr_storage bound{};
    socklen_t length = sizeof(bound);
    if (!fd.valid() || bind(fd.get(), a->ai_addr, a->ai_addrlen) != 0 ||
        listen(fd.get(), kBacklog) != 0 ||
        getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
      last = ConnectionError(absl::StrCat("cannot listen on host \"", host, "\""), errno);
      continue;
    }
    const in_port_t port = bound.ss_family == AF_INET6
                               ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                               : reinterpret_cast<sockaddr_in*>(&bound)->sin_port;
    return TcpListener{std::move(fd), host, ntohs(port)};
  }
  return last;
}

absl::StatusOr<Fd> ListenLocal(int port) {
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_un address;
  const socklen_t length = LocalAddress(port, &address);
  if (!fd.valid() || bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      listen(fd.get(), kBacklog) != 0) {
    return ConnectionError("cannot listen for ranks of this node", errno);
  }
  return fd;
}

absl::StatusOr<Fd> StartConnectTcp(const std::string& host, int port) {
  FATHOM_ASSIGN_OR_RETURN(const AddressList addresses, Resolve(host, port, 0));
  absl::Status last = absl::UnavailableError("no address");
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    Fd fd(socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol));
    if (fd.valid() && (connect(fd.get(), a->ai_addr, a->ai_addrlen) == 0 || errno == EINPROGRESS)) {
      return fd;
    }
    last = ConnectionError("connecting", errno);
  }
  return last;
}

absl::StatusOr<Fd> StartConnectLocal(int port) {
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_un address;
  const socklen_t length = LocalAddress(port, &address);
  if (!fd.valid() || connect(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0) {
    return ConnectionError("connecting inside the node", errno);
  }
  return fd;
}

absl::Status FinishConnect(const Fd& fd) {
  int error = 0;
  socklen_t length = sizeof(error);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
  return error == 0 ? absl::OkStatus() : ConnectionError("connecting", error);
}

absl::StatusOr<Fd> AcceptOne(const Fd& listener) {
  Fd fd(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (fd.valid()) return fd;
  // Everything else accept4 reports is the fate of one connection, not of the listener.
  if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
    return ConnectionError("accepting a connection (raise the limit of open files?)", errno);
  }
  return Fd();
}

absl::Status TuneTcp(const Fd& fd, absl::Duration user_timeout) {
  const int64_t timeout_ms =
      std::clamp<int64_t>(absl::ToInt64Milliseconds(user_timeout), 1, 1'000'000'000);
  FATHOM_RETURN_IF_ERROR(SetInt(fd, IPPROTO_TCP, TCP_NODELAY, 1));
  FATHOM_RETURN_IF_ERROR(SetInt(fd, SOL_SOCKET, SO_KEEPALIVE, 1));
  FATHOM_RETURN_IF_ERROR(SetInt(fd, IPPROTO_TCP, TCP_KEEPIDLE, 5));
  FATHOM_RETURN_IF_ERROR(SetInt(fd, IPPROTO_TCP, TCP_KEEPINTVL, 2));
  FATHOM_RETURN_IF_ERROR(SetInt(fd, IPPROTO_TCP, TCP_KEEPCNT, 5));
  return SetInt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(timeout_ms));
}

absl::Status CheckSameUser(const Fd& fd) {
  ucred peer{};
  socklen_t length = sizeof(peer);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return ConnectionError("asking for the peer's user", errno);
  }
  if (peer.uid != geteuid()) {
    return absl::PermissionDeniedError(
        absl::StrCat("the process at the other end runs as user ", peer.uid));
  }
  return absl::OkStatus();
}

bool HasEnded(const Fd& fd) {
  char next = 0;
  const ssize_t got = recv(fd.get(), &next, 1, MSG_PEEK | MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

absl::Status SendShort(const Fd& fd, absl::string_view bytes, int pass_fd) {
  iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (pass_fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &pass_fd, sizeof(int));
  }
  const ssize_t sent = sendmsg(fd.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0) return ConnectionError("sending", errno);
  if (static_cast<size_t>(sent) != bytes.size()) {
    return absl::UnavailableError("sending: a fresh connection took only a part of it");
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> ReceiveShort(const Fd& fd, size_t limit, std::string* bytes, Fd* passed) {
  char buffer[512];
  iovec piece{buffer, std::min(limit, sizeof(buffer))};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  if (passed != nullptr) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
  }
  const ssize_t got = recvmsg(fd.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return false;
    return ConnectionError("receiving", errno);
  }
  if (passed != nullptr) {
    for (cmsghdr* h = CMSG_FIRSTHDR(&message); h != nullptr; h = CMSG_NXTHDR(&message, h)) {
      if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
      int received = -1;
      std::memcpy(&received, CMSG_DATA(h), sizeof(int));
      *passed = Fd(received);
    }
  }
  if (got == 0) return absl::UnavailableError("it closed the connection");
  bytes->append(buffer, static_cast<size_t>(got));
  return true;
}

}  // namespace fathom::transport
