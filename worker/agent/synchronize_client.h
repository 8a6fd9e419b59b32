// Keeps the node in step with the coordinator: one Synchronize stream, opened again for ever after
// each loss, on which the newest report goes out and desired states come in.
//
// Reports are levels, not events: only the newest is kept, and it is sent at once when urgent,
// within kProgressInterval when only steps changed, and in any case once per heartbeat, which the
// coordinator chooses. A coordinator that is not there costs nothing but a line in the log once in
// a while; what was desired last stays desired.
//
// When the coordinator says that a newer incarnation of this node has reported, this daemon's ranks
// are no longer anyone's: an empty desired state is delivered, and tries go on.
#ifndef FATHOM_WORKER_AGENT_SYNCHRONIZE_CLIENT_H_
#define FATHOM_WORKER_AGENT_SYNCHRONIZE_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/fathom/v1/config.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom {

struct SynchronizeOptions {
  std::string coordinator_address;
  const v1::Tls* tls = nullptr;  // null: plain text; read at Create only
  uint64_t seed = 0;             // of the waits between tries
  absl::Duration shortest_wait = absl::Milliseconds(100);
  // Well within a lease: a coordinator that has just restarted waits one for its nodes.
  absl::Duration longest_wait = absl::Seconds(1);

  // All on the client's threads, one call at a time each.
  std::function<void(v1::DesiredState)> on_desired;
  std::function<void(bool open)> on_stream;  // the coordinator answers; it no longer does
  std::function<void()> on_report_sent;
  std::function<void(const std::string&)> log;
};

class SynchronizeClient {
 public:
  static constexpr absl::Duration kProgressInterval = absl::Milliseconds(200);
  // While it can't connect, one line of log this often.
  static constexpr absl::Duration kLogInterval = absl::Seconds(30);

  // Does not connect yet. Codes of ReadFile: the TLS files can't be read.
  static absl::StatusOr<std::unique_ptr<SynchronizeClient>> Create(SynchronizeOptions options);
  virtual ~SynchronizeClient() = default;  // stops without sending more

  // The newest state of the node. The first one opens the stream. From any thread.
  virtual void Report(const v1::NodeReport& report, bool urgent) = 0;

  // Sends the newest report if it has not been sent and the stream is open, closes, and returns
  // after `patience` at the latest. Nothing is called back afterwards.
  virtual void Stop(absl::Duration patience) = 0;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_SYNCHRONIZE_CLIENT_H_
