// A peer in the same node: its window is mapped into this process, and puts are copies.
//
// The Unix socket carries no data. It tells of the peer's end, at once and however it comes, and of
// an orderly goodbye.
#ifndef FATHOM_WORKER_TRANSPORT_SHM_LINK_H_
#define FATHOM_WORKER_TRANSPORT_SHM_LINK_H_

#include <memory>

#include "worker/transport/peer_link.h"
#include "worker/transport/segment.h"

namespace fathom::transport {

// Without a valid socket: the way of a rank to its own window.
std::unique_ptr<PeerLink> MakeShmLink(Fd socket, std::shared_ptr<Segment> peer_segment);

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_SHM_LINK_H_
