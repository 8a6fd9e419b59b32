// What goes over a connection between two ranks: one Hello each way, then, over TCP, frames.
//
// Everything is little-endian and of fixed size. Nothing here reads or writes a socket; decoding
// accepts any bytes and never trusts a length.
#ifndef FATHOM_WORKER_TRANSPORT_WIRE_H_
#define FATHOM_WORKER_TRANSPORT_WIRE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace fathom::transport {

// Rises with every change of Hello, frames or the shared segment.
inline constexpr uint32_t kProtocolVersion = 1;
inline constexpr size_t kJobNameBytesMax = 255;
inline constexpr size_t kHelloBytes = 312;
inline constexpr size_t kFrameBytes = 24;

// What each side states of itself before anything else.
struct Hello {
  uint32_t version = kProtocolVersion;
  uint32_t rank = 0;
  uint32_t to_rank = 0;  // whom it believes to be talking to
  uint32_t size = 0;     // ranks of the job
  uint64_t epoch = 0;
  uint64_t window_bytes = 0;
  uint32_t signal_count = 0;
  std::string job;
};

// INVALID_ARGUMENT: the job's name is too long.
absl::StatusOr<std::string> EncodeHello(const Hello& hello);
// INVALID_ARGUMENT: not a Hello of any version, such as garbage from a port scanner.
absl::StatusOr<Hello> DecodeHello(absl::Span<const std::byte> bytes);

// Whether the one that said `theirs` is rank `their_rank` of the job and epoch of `mine`.
// FAILED_PRECONDITION says which of protocol, job, epoch, number of ranks or rank differs.
absl::Status CheckHello(const Hello& mine, const Hello& theirs, uint32_t their_rank);

enum class FrameKind : uint32_t {
  kPut = 1,     // `length` bytes follow, for the window at `offset`
  kSignal = 2,  // raises `signal` by one
  kBye = 3,     // nothing more will come, and that is in order
};

struct Frame {
  FrameKind kind = FrameKind::kPut;
  uint32_t signal = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
};

std::array<std::byte, kFrameBytes> EncodeFrame(const Frame& frame);

// INVALID_ARGUMENT: an unknown kind, or anything outside a window of this size.
absl::StatusOr<Frame> DecodeFrame(absl::Span<const std::byte> bytes, uint64_t window_bytes,
                                  uint32_t signal_count);

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_WIRE_H_
