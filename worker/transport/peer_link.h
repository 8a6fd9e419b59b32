// The way to one peer: what a transport (shared memory, TCP, and later RDMA or NVLink) has to
// provide. RoutedWindow makes a Window out of one link per peer.
//
// Two threads use a link: the rank's own sends, and the window's watcher receives. Each has its
// half of the link's fields, and Hang up is all that crosses over.
#ifndef FATHOM_WORKER_TRANSPORT_PEER_LINK_H_
#define FATHOM_WORKER_TRANSPORT_PEER_LINK_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/transport/socket.h"

namespace fathom::transport {

// What a peer's connection brought.
struct LinkEvent {
  enum class Kind { kAlive, kLeft, kBroken };
  Kind kind = Kind::kAlive;
  std::string why;  // for kBroken
};

class PeerLink {
 public:
  virtual ~PeerLink() = default;

  // The rank's thread. The range and the signal have been checked against the peer's window.
  // UNAVAILABLE: the connection is broken. CANCELLED: the stop event was raised.
  // DEADLINE_EXCEEDED: the peer took nothing for too long.
  virtual absl::Status Put(uint64_t offset, absl::Span<const std::byte> bytes) = 0;
  virtual absl::Status Signal(uint32_t index) = 0;
  // Tells the peer that nothing more will come. What was put and raised before still arrives.
  virtual void SayGoodbye(SteadyTime deadline) = 0;

  // The watcher's thread.
  virtual int fd() const = 0;  // readable when there is something to receive; -1: never
  virtual LinkEvent Receive() = 0;

  // Whether this side must go on receiving after its goodbye until the peer has hung up, so that
  // what is on its way is not lost.
  virtual bool lingers() const = 0;

  // Any thread. Ends sending; a Put or Signal that is in the middle of it fails.
  virtual void HangUp() = 0;
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_PEER_LINK_H_
