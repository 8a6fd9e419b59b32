// A Window made of one link per peer, shared memory inside the node and TCP to others, all writing
// into one memory of this rank.
//
// A watcher thread sleeps until a connection brings something: frames over TCP, or a peer's end
// over either. A peer that left in an orderly way counts as done: what it raised before still
// counts, what is sent to it is dropped, and only a wait for something it never raised fails.
//
// Destroying the window says goodbye and makes sure that everything sent arrives; after Abort it
// just closes, and peers see a broken connection.
#ifndef FATHOM_WORKER_TRANSPORT_ROUTED_WINDOW_H_
#define FATHOM_WORKER_TRANSPORT_ROUTED_WINDOW_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/transport/peer_link.h"
#include "worker/transport/segment.h"
#include "worker/transport/window.h"

namespace fathom::transport {

struct RoutedPeer {
  std::string node;
  uint64_t window_bytes = 0;
  uint32_t signal_count = 0;
  std::unique_ptr<PeerLink> link;
};

// Peers in rank order, this rank with a link to itself. Links stop sending when stop_event (made
// for them by the caller) becomes readable; Abort raises it.
absl::StatusOr<std::unique_ptr<Window>> MakeRoutedWindow(int rank, std::shared_ptr<Segment> own,
                                                         std::vector<RoutedPeer> peers,
                                                         Fd stop_event,
                                                         absl::Duration wait_timeout);

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_ROUTED_WINDOW_H_
