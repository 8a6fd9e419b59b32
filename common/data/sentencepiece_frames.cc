#include "common/data/sentencepiece_frames.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace fathom::data {
namespace {

constexpr size_t kHeadBytes = 5;

bool SendAll(int socket, const char* bytes, size_t count) {
  while (count > 0) {
    const ssize_t sent = send(socket, bytes, count, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes += sent;
    count -= static_cast<size_t>(sent);
  }
  return true;
}

bool ReceiveAll(int socket, char* bytes, size_t count) {
  while (count > 0) {
    const ssize_t got = recv(socket, bytes, count, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes += got;
    count -= static_cast<size_t>(got);
  }
  return true;
}

}  // namespace

bool WriteFrame(int socket, const Frame& frame) {
  if (frame.bytes.size() > kFrameBytesMax) return false;
  const uint32_t length = static_cast<uint32_t>(frame.bytes.size());
  char head[kHeadBytes];
  head[0] = static_cast<char>(frame.kind);
  std::memcpy(head + 1, &length, sizeof(length));
  return SendAll(socket, head, sizeof(head)) &&
         SendAll(socket, frame.bytes.data(), frame.bytes.size());
}

bool ReadFrame(int socket, Frame& frame) {
  char head[kHeadBytes];
  if (!ReceiveAll(socket, head, sizeof(head))) return false;
  uint32_t length = 0;
  std::memcpy(&length, head + 1, sizeof(length));
  if (length > kFrameBytesMax) return false;
  frame.kind = static_cast<FrameKind>(head[0]);
  frame.bytes.resize(length);
  return ReceiveAll(socket, frame.bytes.data(), frame.bytes.size());
}

}  // namespace fathom::data
