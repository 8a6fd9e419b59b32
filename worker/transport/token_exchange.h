// The all-to-all of an expert group: every member sends one message of any length, up to a fixed
// maximum, to every member, and gets one from each. Dispatch and combine, forward and backward,
// each have a lane of their own, so that an overlapped pair of micro-batches can have all four in
// flight.
//
// Post puts and returns; only Receive waits. A lane may have two exchanges in flight. A member's
// message to itself is kept here.
#ifndef FATHOM_WORKER_TRANSPORT_TOKEN_EXCHANGE_H_
#define FATHOM_WORKER_TRANSPORT_TOKEN_EXCHANGE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/transport/channel.h"

namespace fathom::transport {

class TokenExchange {
 public:
  // The channels of one lane, for the layout. max_message_bytes is the most one member may send to
  // another (every token of a micro-batch going to it: no token is dropped).
  static std::vector<ChannelSpec> Channels(const std::string& lane, const std::vector<int>& ranks,
                                           uint64_t max_message_bytes);

  TokenExchange(const std::string& lane, std::vector<int> ranks, int self, ChannelSet* channels);

  int size() const { return static_cast<int>(ranks_.size()); }
  int index() const { return index_; }

  // messages[i] goes to member i; its bytes may be reused on return.
  absl::Status Post(absl::Span<const absl::Span<const std::byte>> messages);
  // Message of every member for the oldest exchange not yet received, valid until Release.
  absl::StatusOr<std::vector<absl::Span<const std::byte>>> Receive();
  absl::Status Release();

 private:
  std::string lane_;
  std::vector<int> ranks_;
  int index_ = 0;
  std::vector<ChannelSender*> to_;
  std::vector<ChannelReceiver*> from_;
  std::deque<std::vector<std::byte>> own_;  // messages to this member, oldest first
  size_t own_received_ = 0;                 // of those, received and not yet released
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_TOKEN_EXCHANGE_H_
