// The two ends of a channel (see channel_layout.h), over a Window.
//
// Send waits for a free slot, puts the message and signals. Receive waits for the next message and
// shows it where it lies in the window; Release gives its slot back. Messages keep their length and
// their order.
#ifndef FATHOM_WORKER_TRANSPORT_CHANNEL_H_
#define FATHOM_WORKER_TRANSPORT_CHANNEL_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/transport/channel_layout.h"
#include "worker/transport/window.h"

namespace fathom::transport {

class ChannelSender {
 public:
  ChannelSender(Window* window, ChannelPlace place);

  // INVALID_ARGUMENT when the message is longer than a slot; else as Window::Put and Window::Wait.
  absl::Status Send(absl::Span<const std::byte> message);
  // The same of several pieces laid one after another.
  absl::Status SendPieces(absl::Span<const absl::Span<const std::byte>> pieces);

  // Whether the next message would be sent without waiting. Errors as Window::Poll.
  absl::StatusOr<bool> Ready();

  const ChannelSpec& spec() const { return place_.spec; }

 private:
  Window* window_;
  ChannelPlace place_;
  uint64_t sent_ = 0;
};

class ChannelReceiver {
 public:
  ChannelReceiver(Window* window, ChannelPlace place);

  // The oldest message not yet received; valid until its Release. Several may be held at once, up
  // to the number of slots (more is a broken invariant: none could arrive). DATA_LOSS: the sender
  // wrote an impossible length; else as Window::Wait.
  absl::StatusOr<absl::Span<const std::byte>> Receive();
  // Whether the next Receive would return without waiting. Errors as Window::Poll.
  absl::StatusOr<bool> Ready();
  // Gives back the slot of the oldest message still held.
  absl::Status Release();

  const ChannelSpec& spec() const { return place_.spec; }

 private:
  Window* window_;
  ChannelPlace place_;
  uint64_t received_ = 0;
  uint64_t released_ = 0;
};

// All channels of one rank by (name, peer), made from a layout. Looking one up that is not in the
// layout is a broken invariant.
class ChannelSet {
 public:
  ChannelSet(Window* window, const ChannelLayout& layout);

  ChannelSender* sender(const std::string& name, int to);
  ChannelReceiver* receiver(const std::string& name, int from);

 private:
  using Key = std::pair<std::string, int>;  // name, peer
  std::map<Key, std::unique_ptr<ChannelSender>> senders_;
  std::map<Key, std::unique_ptr<ChannelReceiver>> receivers_;
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_CHANNEL_H_
