// The channel between a node's daemon and one of its rank processes: protobuf messages over a
// socket pair, each preceded by its length as four bytes, little-endian. The daemon sends
// RankCommand, the rank sends RankEvent (proto/fathom/v1/worker.proto); the rank finds its end as
// file descriptor kRankChannelFd and must exit when the channel closes.
//
// RankChannel blocks and suits the rank: one thread may send while another receives, never two in
// the same direction. The daemon, which must not wait for a rank, uses EncodeRankMessage and
// RankFrameDecoder on its own non-blocking descriptor.
#ifndef FATHOM_WORKER_AGENT_RANK_CHANNEL_H_
#define FATHOM_WORKER_AGENT_RANK_CHANNEL_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace google::protobuf {
class MessageLite;
}

namespace fathom {

// Where a rank process finds its end, and what --channel-fd says.
inline constexpr int kRankChannelFd = 3;
inline constexpr size_t kRankFrameHeaderBytes = 4;
// A plan of 2,048 ranks takes about 100 KiB.
inline constexpr size_t kRankMessageBytesMax = size_t{16} << 20;

class RankChannel {
 public:
  // Takes the descriptor of a connected stream socket, and closes it in the end.
  static RankChannel FromFd(int fd);

  RankChannel(RankChannel&& other) noexcept;
  RankChannel& operator=(RankChannel&& other) noexcept;
  RankChannel(const RankChannel&) = delete;
  RankChannel& operator=(const RankChannel&) = delete;
  ~RankChannel();

  // Returns once the kernel has all of the message.
  // UNAVAILABLE: the other end is closed. INVALID_ARGUMENT: the message is too large.
  absl::Status Send(const google::protobuf::MessageLite& message);

  // Waits for the next message. False: the other end closed the channel between two messages.
  // UNAVAILABLE: it closed in the middle of one. DATA_LOSS: what came is too large or not a message
  // of this type. After an error the channel is of no more use.
  absl::StatusOr<bool> Receive(google::protobuf::MessageLite* message);

  // Ends both directions: a Receive that waits in another thread returns. The descriptor stays open
  // until destruction.
  void Shutdown();

 private:
  explicit RankChannel(int fd) : fd_(fd) {}

  int fd_;
};

// The bytes of one message on the channel, header included. INVALID_ARGUMENT: too large.
absl::StatusOr<std::string> EncodeRankMessage(const google::protobuf::MessageLite& message);

// Cuts a stream of bytes, in whatever pieces it arrives, into messages. Holds at most one message
// and what was appended behind it.
class RankFrameDecoder {
 public:
  void Append(absl::string_view bytes);

  // The next whole message without its header; nothing when more bytes are needed. DATA_LOSS: a
  // length above kRankMessageBytesMax; the stream is of no more use then.
  absl::StatusOr<std::optional<std::string>> Next();

  // Bytes that wait for the rest of their message.
  size_t pending_bytes() const { return buffer_.size() - consumed_; }

 private:
  std::string buffer_;
  size_t consumed_ = 0;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_RANK_CHANNEL_H_
