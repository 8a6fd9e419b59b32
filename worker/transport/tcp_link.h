// A peer over TCP. Puts and signals are frames (wire.h) on one connection; the peer's watcher
// writes them into its window and raises its signals.
//
// The watcher always drains, so sends may block without two ranks locking each other up. Small puts
// wait in a buffer for the signal that follows them, and go out with it in one piece. Every frame
// is checked against the own window before a byte of it is written: a peer that lies loses its
// connection and nothing else happens.
#ifndef FATHOM_WORKER_TRANSPORT_TCP_LINK_H_
#define FATHOM_WORKER_TRANSPORT_TCP_LINK_H_

#include <memory>

#include "absl/time/time.h"
#include "worker/transport/peer_link.h"
#include "worker/transport/segment.h"

namespace fathom::transport {

// A send that makes no progress for send_timeout fails, and so does one under way when stop_event
// becomes readable. `own` is what the peer writes into.
std::unique_ptr<PeerLink> MakeTcpLink(Fd socket, std::shared_ptr<Segment> own, int stop_event,
                                      absl::Duration send_timeout);

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_TCP_LINK_H_
