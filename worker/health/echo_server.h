// The other end of a link check: every daemon answers pings and takes bulk data from other nodes,
// so that any of them can measure the link between the two.
//
// One thread of its own, which sleeps while nobody measures. Connections, bytes and times are
// bounded: a stranger is closed at its first wrong byte, a connection too many at once, a slow one
// at its deadline. It sends nothing but what it was sent, and a digest; it reads nothing of the
// node. Frames: echo_frame.h.
#ifndef FATHOM_WORKER_HEALTH_ECHO_SERVER_H_
#define FATHOM_WORKER_HEALTH_ECHO_SERVER_H_

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "worker/agent/unique_fd.h"

namespace fathom::health {

struct EchoServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;  // any free one
  int max_connections = 32;
  absl::Duration connection_time = absl::Seconds(10);  // from accept to close, at most
  const Clock* clock = nullptr;                        // outlives the server
};

class EchoServer {
 public:
  // UNAVAILABLE: the host can't be resolved or bound. Codes of ErrnoStatus.
  static absl::StatusOr<std::unique_ptr<EchoServer>> Start(EchoServerOptions options);
  ~EchoServer();  // stops; open connections are closed

  EchoServer(const EchoServer&) = delete;
  EchoServer& operator=(const EchoServer&) = delete;

  // "host:port" as bound.
  const std::string& endpoint() const { return endpoint_; }

 private:
  struct Connection;

  EchoServer(EchoServerOptions options, UniqueFd listener, UniqueFd stop, std::string endpoint);

  void Run();
  void AcceptWaiting();
  int WaitMs() const;

  const EchoServerOptions options_;
  const UniqueFd listener_;
  const UniqueFd stop_;
  const std::string endpoint_;

  // Only the thread.
  std::list<Connection> connections_;
  std::vector<char> buffer_;
  absl::Duration accept_from_ = -absl::InfiniteDuration();  // not before, after a failure

  std::thread thread_;
};

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_ECHO_SERVER_H_
