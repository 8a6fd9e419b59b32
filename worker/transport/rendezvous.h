// Brings the ranks of one (job, epoch) together: listen first, connect once the addresses of all
// are known, and come out with a Window to every peer.
//
// Peers on this rank's node meet over shared memory, the others over TCP; the choice is made per
// peer. The lower rank of a pair connects to the higher, and tries again while that one isn't
// listening yet. A peer that states another job, epoch or rank than expected is refused, and the
// error says which of them differs. Connections that speak something else are closed and disturb
// nobody.
#ifndef FATHOM_WORKER_TRANSPORT_RENDEZVOUS_H_
#define FATHOM_WORKER_TRANSPORT_RENDEZVOUS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/transport/rendezvous_options.h"
#include "worker/transport/window.h"

namespace fathom::transport {

// Listening; not yet connected. The window's size may be set as late as Connect.
class Rendezvous {
 public:
  virtual ~Rendezvous() = default;

  // Opens the listener on an ephemeral port. UNAVAILABLE when the host can't be bound.
  static absl::StatusOr<std::unique_ptr<Rendezvous>> Listen(const std::string& bind_host);

  virtual std::string endpoint() const = 0;  // "host:port" for the peers

  // Blocks until every peer is connected. `peers` lists all ranks, this one too, in rank order.
  // Succeeds once; the listener closes then. After an error it may be called again.
  //
  // DEADLINE_EXCEEDED names the ranks that did not come. FAILED_PRECONDITION: a peer of another
  // job or epoch; at once when it's a peer that this rank connects to, or one of a later epoch of
  // this job; when it is some straggler that connected to this rank, only if the right ones don't
  // come in time either. UNAVAILABLE: a peer had connected and died. INVALID_ARGUMENT: options and
  // peers that contradict each other. RESOURCE_EXHAUSTED: the window's memory is not to be had.
  virtual absl::StatusOr<std::unique_ptr<Window>> Connect(
      const RendezvousOptions& options, const std::vector<PeerAddress>& peers) = 0;

  // Ends a Connect in progress with CANCELLED. From any thread.
  virtual void Cancel() = 0;
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_RENDEZVOUS_H_
