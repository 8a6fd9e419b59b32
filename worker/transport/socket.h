// Thin, non-blocking wrappers of the sockets that ranks meet over: TCP between nodes, and inside a
// node a Unix socket in the abstract namespace, which can pass memory along and leaves no file.
#ifndef FATHOM_WORKER_TRANSPORT_SOCKET_H_
#define FATHOM_WORKER_TRANSPORT_SOCKET_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace fathom::transport {

using SteadyTime = std::chrono::steady_clock::time_point;

// Now plus a duration, and never past what the clock can count.
SteadyTime DeadlineAfter(absl::Duration duration);
// For poll: milliseconds until then, rounded up; 0 when it has passed.
int MillisecondsUntil(SteadyTime deadline);

// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { Close(); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void Close();

 private:
  int fd_ = -1;
};

// UNAVAILABLE: "what: the error's text".
absl::Status ConnectionError(absl::string_view what, int error);

// An eventfd: readable from the first Raise on.
absl::StatusOr<Fd> MakeEvent();
void RaiseEvent(const Fd& event);

struct TcpListener {
  Fd fd;
  std::string host;  // as given
  int port = 0;      // ephemeral
};

// UNAVAILABLE when the host can't be resolved or bound.
absl::StatusOr<TcpListener> ListenTcp(const std::string& host);
// The same node's way to the rank whose TCP listener has this port.
absl::StatusOr<Fd> ListenLocal(int port);

// Begin to connect; the socket becomes writable when it's done, or failed (FinishConnect tells).
absl::StatusOr<Fd> StartConnectTcp(const std::string& host, int port);
absl::StatusOr<Fd> StartConnectLocal(int port);
absl::Status FinishConnect(const Fd& fd);

// An invalid Fd when no connection waits.
absl::StatusOr<Fd> AcceptOne(const Fd& listener);

// Small messages at once, and dead hosts noticed while nothing is sent.
absl::Status TuneTcp(const Fd& fd, absl::Duration user_timeout);
// Whether the process at the other end of a Unix socket runs as this process's user.
absl::Status CheckSameUser(const Fd& fd);

// Whether the other end has closed, with nothing left to receive.
bool HasEnded(const Fd& fd);

// Sends all of a short message to a fresh connection, with a file descriptor if pass_fd >= 0.
absl::Status SendShort(const Fd& fd, absl::string_view bytes, int pass_fd);
// Receives what is there, up to `limit` bytes, onto `bytes`; a file descriptor passed along goes to
// `passed` unless that is null. Returns false when nothing is there now. UNAVAILABLE at the end.
absl::StatusOr<bool> ReceiveShort(const Fd& fd, size_t limit, std::string* bytes, Fd* passed);

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_SOCKET_H_
