#include "worker/agent/rank_channel.h"

#include <google/protobuf/message_lite.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom {
namespace {

void PutLength(uint32_t length, char* out) {
  for (int i = 0; i < 4; ++i) out[i] = static_cast<char>((length >> (8 * i)) & 0xff);
}

uint32_t GetLength(const char* in) {
  uint32_t length = 0;
  for (int i = 0; i < 4; ++i) {
    length |= static_cast<uint32_t>(static_cast<unsigned char>(in[i])) << (8 * i);
  }
  return length;
}

absl::Status TooLong(uint32_t length) {
  return absl::DataLossError(absl::StrCat("rank channel: the other end announces a message of ",
                                          length, " bytes; at most ", kRankMessageBytesMax,
                                          " are allowed, so it does not speak this protocol"));
}

// How much of `size` could be read before the end of the stream.
absl::StatusOr<size_t> ReadUpTo(int fd, char* out, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = ::recv(fd, out + done, size - done, 0);
    if (got == 0) break;
    if (got < 0) {
      if (errno == EINTR) continue;
      // The other process died with bytes of ours unread: the same end as an orderly one.
      if (errno == ECONNRESET) break;
      return absl::UnavailableError(absl::StrCat("rank channel: reading: ", std::strerror(errno)));
    }
    done += static_cast<size_t>(got);
  }
  return done;
}

}  // namespace

RankChannel RankChannel::FromFd(int fd) {
  FATHOM_CHECK(fd >= 0) << fd;
  return RankChannel(fd);
}

RankChannel::RankChannel(RankChannel&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

RankChannel& RankChannel::operator=(RankChannel&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

RankChannel::~RankChannel() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status RankChannel::Send(const google::protobuf::MessageLite& message) {
  FATHOM_ASSIGN_OR_RETURN(const std::string frame, EncodeRankMessage(message));
  size_t done = 0;
  while (done < frame.size()) {
    const ssize_t sent = ::send(fd_, frame.data() + done, frame.size() - done, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      return absl::UnavailableError(absl::StrCat("rank channel: sending ", message.GetTypeName(),
                                                 ": ", std::strerror(errno),
                                                 "; the process at the other end is gone"));
    }
    done += static_cast<size_t>(sent);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> RankChannel::Receive(google::protobuf::MessageLite* message) {
  char header[kRankFrameHeaderBytes];
  FATHOM_ASSIGN_OR_RETURN(const size_t header_bytes, ReadUpTo(fd_, header, sizeof(header)));
  if (header_bytes == 0) return false;
  if (header_bytes < sizeof(header)) {
    return absl::UnavailableError(
        "rank channel: closed in the middle of a message's header; the other end died while "
        "sending");
  }
  const uint32_t length = GetLength(header);
  if (length > kRankMessageBytesMax) return TooLong(length);
  std::string payload(length, '\0');
  FATHOM_ASSIGN_OR_RETURN(const size_t payload_bytes, ReadUpTo(fd_, payload.data(), length));
  if (payload_bytes < length) {
    return absl::UnavailableError(absl::StrCat("rank channel: closed after ", payload_bytes, " of ",
                                               length,
                                               " bytes of a message; the other end died "
                                               "while sending"));
  }
  if (!message->ParseFromString(payload)) {
    return absl::DataLossError(
        absl::StrCat("rank channel: ", length, " bytes that are not a ", message->GetTypeName()));
  }
  return true;
}

void RankChannel::Shutdown() { ::shutdown(fd_, SHUT_RDWR); }

absl::StatusOr<std::string> EncodeRankMessage(const google::protobuf::MessageLite& message) {
  const size_t length = message.ByteSizeLong();
  if (length > kRankMessageBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("rank channel: ", message.GetTypeName(),
                                                   " takes ", length, " bytes; at most ",
                                                   kRankMessageBytesMax, " can be sent"));
  }
  std::string frame(kRankFrameHeaderBytes, '\0');
  PutLength(static_cast<uint32_t>(length), frame.data());
  message.AppendToString(&frame);
  return frame;
}

void RankFrameDecoder::Append(absl::string_view bytes) {
  if (consumed_ > 0) {
    buffer_.erase(0, consumed_);
    consumed_ = 0;
  }
  buffer_.append(bytes.data(), bytes.size());
}

absl::StatusOr<std::optional<std::string>> RankFrameDecoder::Next() {
  if (pending_bytes() < kRankFrameHeaderBytes) return std::optional<std::string>();
  const uint32_t length = GetLength(buffer_.data() + consumed_);
  if (length > kRankMessageBytesMax) return TooLong(length);
  if (pending_bytes() < kRankFrameHeaderBytes + length) return std::optional<std::string>();
  std::optional<std::string> payload = buffer_.substr(consumed_ + kRankFrameHeaderBytes, length);
  consumed_ += kRankFrameHeaderBytes + length;
  return payload;
}

}  // namespace fathom
