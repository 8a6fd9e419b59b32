#include "worker/health/echo_server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/errno_status.h"
#include "common/base/host_port.h"
#include "common/base/status_util.h"
#include "worker/health/echo_frame.h"

namespace fathom::health {
namespace {

constexpr int kBacklog = 64;
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);  // after a failure to accept

absl::StatusOr<UniqueFd> Listen(const EchoServerOptions& options) {
  const std::string name = ToString(HostPort{options.host, options.port});
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error =
      ::getaddrinfo(options.host.c_str(), absl::StrCat(options.port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(absl::StrCat("cannot find the address of ", name,
                                               " (echo service): ", ::gai_strerror(error)));
  }
  UniqueFd fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const bool bound = fd.ok() && ::bind(fd.get(), found->ai_addr, found->ai_addrlen) == 0 &&
                     ::listen(fd.get(), kBacklog) == 0;
  const int bind_error = errno;
  ::freeaddrinfo(found);
  if (!bound) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", name,
                                               " (echo service): ", std::strerror(bind_error),
                                               "; the address must be one of this machine's"));
  }
  return fd;
}

absl::StatusOr<int> BoundPort(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return ErrnoStatus(errno, "ask for the port of", "the echo service");
  }
  const auto port = address.ss_family == AF_INET6
                        ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                        : reinterpret_cast<const sockaddr_in&>(address).sin_port;
  return ntohs(port);
}

bool WouldBlock(ssize_t result) { return result < 0 && (errno == EAGAIN || errno == EINTR); }

}  // namespace

// hello -> pings sent back, or blocks swallowed and their digest sent -> closed.
struct EchoServer::Connection {
  UniqueFd fd;
  absl::Duration deadline;
  std::string head;                // of the hello, until whole
  std::optional<EchoHello> hello;  // known from then on
  uint64_t bytes_left = 0;         // still to be received
  std::string block;               // sink: the one in progress
  uint64_t digest = 0;             // sink: of the blocks before
  std::string unsent;

  short Wants() const { return unsent.empty() ? POLLIN : POLLOUT; }

  // False: it is over, one way or the other.
  bool Advance(std::vector<char>* buffer) {
    if (!Flush()) return false;
    if (!unsent.empty()) return true;
    if (hello && bytes_left == 0) return false;
    const size_t limit =
        hello ? std::min<uint64_t>(bytes_left, buffer->size()) : kEchoHelloBytes - head.size();
    const ssize_t got = ::recv(fd.get(), buffer->data(), limit, 0);
    if (WouldBlock(got)) return true;
    if (got <= 0) return false;
    return Take(absl::string_view(buffer->data(), static_cast<size_t>(got))) && Flush();
  }

  bool Take(absl::string_view bytes) {
    if (!hello) {
      absl::StrAppend(&head, bytes);
      if (head.size() < kEchoHelloBytes) return true;
      hello = DecodeEchoHello(head);
      if (!hello) return false;
      bytes_left = hello->bytes * hello->count;
      return true;
    }
    bytes_left -= bytes.size();
    if (hello->kind == EchoKind::kPing) {
      unsent.assign(bytes.data(), bytes.size());
      return true;
    }
    Swallow(bytes);
    if (bytes_left == 0) {
      for (int i = 0; i < 8; ++i) unsent.push_back(static_cast<char>(digest >> (8 * i)));
    }
    return true;
  }

  void Swallow(absl::string_view bytes) {
    while (!bytes.empty()) {
      const size_t part = std::min(bytes.size(), hello->bytes - block.size());
      block.append(bytes.data(), part);
      bytes.remove_prefix(part);
      if (block.size() < hello->bytes) continue;
      digest = EchoDigest(digest, block);
      block.clear();
    }
  }

  bool Flush() {
    while (!unsent.empty()) {
      const ssize_t sent = ::send(fd.get(), unsent.data(), unsent.size(), MSG_NOSIGNAL);
      if (WouldBlock(sent)) return true;
      if (sent < 0) return false;
      unsent.erase(0, static_cast<size_t>(sent));
    }
    return true;
  }
};

absl::StatusOr<std::unique_ptr<EchoServer>> EchoServer::Start(EchoServerOptions options) {
  FATHOM_ASSIGN_OR_RETURN(UniqueFd listener, Listen(options));
  FATHOM_ASSIGN_OR_RETURN(const int port, BoundPort(listener.get()));
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop.ok()) return ErrnoStatus(errno, "create", "an eventfd");
  std::string endpoint = ToString(HostPort{options.host, port});
  std::unique_ptr<EchoServer> server(new EchoServer(std::move(options), std::move(listener),
                                                    std::move(stop), std::move(endpoint)));
  server->thread_ = std::thread([raw = server.get()] { raw->Run(); });
  return server;
}

EchoServer::EchoServer(EchoServerOptions options, UniqueFd listener, UniqueFd stop,
                       std::string endpoint)
    : options_(std::move(options)),
      listener_(std::move(listener)),
      stop_(std::move(stop)),
      endpoint_(std::move(endpoint)),
      buffer_(kEchoBlockBytes) {}

EchoServer::~EchoServer() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = ::write(stop_.get(), &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
}

int EchoServer::WaitMs() const {
  absl::Duration wait = absl::InfiniteDuration();
  const absl::Duration now = options_.clock->Steady();
  for (const Connection& connection : connections_) {
    wait = std::min(wait, connection.deadline - now);
  }
  if (now < accept_from_) wait = std::min(wait, accept_from_ - now);
  if (wait == absl::InfiniteDuration()) return -1;
  return static_cast<int>(
      std::max<int64_t>(0, absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1)))));
}

void EchoServer::AcceptWaiting() {
  for (;;) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.ok()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // Out of descriptors, as a rule: the connection stays in the queue, so don't spin on it.
      if (errno != EAGAIN) accept_from_ = options_.clock->Steady() + kAcceptPause;
      return;
    }
    if (static_cast<int>(connections_.size()) >= options_.max_connections) continue;  // closed
    const int yes = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    Connection& connection = connections_.emplace_back();
    connection.fd = std::move(fd);
    connection.deadline = options_.clock->Steady() + options_.connection_time;
  }
}

void EchoServer::Run() {
  std::vector<pollfd> polled;
  for (;;) {
    const bool accepts = options_.clock->Steady() >= accept_from_;
    polled.assign({{stop_.get(), POLLIN, 0}, {accepts ? listener_.get() : -1, POLLIN, 0}});
    for (const Connection& connection : connections_) {
      polled.push_back({connection.fd.get(), connection.Wants(), 0});
    }
    if (::poll(polled.data(), polled.size(), WaitMs()) < 0 && errno != EINTR) return;
    if (polled[0].revents != 0) return;
    const absl::Duration now = options_.clock->Steady();
    size_t next = 2;
    for (auto connection = connections_.begin(); connection != connections_.end();) {
      const short ready = polled[next++].revents;
      const bool goes_on =
          now < connection->deadline && (ready == 0 || connection->Advance(&buffer_));
      connection = goes_on ? std::next(connection) : connections_.erase(connection);
    }
    if (polled[1].revents != 0) AcceptWaiting();
  }
}

}  // namespace fathom::health
