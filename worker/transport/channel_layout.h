// Where in every rank's window each channel's ring lies. A channel is a one-way, ordered queue of
// messages from one rank to another: a ring of fixed-size slots in the receiver's window, one
// signal there that counts messages, and one in the sender's window that counts slots given back.
//
// The layout is a pure function of the list of channels, and every rank makes it from the same
// list, so no offsets need to be exchanged.
#ifndef FATHOM_WORKER_TRANSPORT_CHANNEL_LAYOUT_H_
#define FATHOM_WORKER_TRANSPORT_CHANNEL_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fathom::transport {

struct ChannelSpec {
  std::string name;  // unique per (from, to), such as "activations.0" or "dispatch.forward"
  int from = 0;
  int to = 0;
  int slots = 2;
  uint64_t slot_bytes = 0;  // largest message
};

// A slot holds the message's length, in a header that keeps the message itself 64-byte aligned.
inline constexpr uint64_t kSlotHeaderBytes = 64;

struct ChannelPlace {
  ChannelSpec spec;
  uint64_t ring_offset = 0;  // in the receiver's window; slots follow each other, 64-byte aligned
  uint32_t arrived_signal = 0;  // in the receiver's window
  uint32_t credit_signal = 0;   // in the sender's window
};

struct ChannelLayout {
  std::vector<ChannelPlace> channels;  // in the order given
  std::vector<uint64_t> window_bytes;  // per rank
  std::vector<uint32_t> signal_count;  // per rank
};

// From one slot of a ring to the next.
uint64_t SlotStride(const ChannelSpec& spec);

// INVALID_ARGUMENT: a rank out of range, from == to, no slots, a name used twice, or more bytes
// than any machine has.
absl::StatusOr<ChannelLayout> LayOutChannels(int ranks, std::vector<ChannelSpec> channels);

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_CHANNEL_LAYOUT_H_
