// What a node's echo service and those who measure links to it say to each other, over TCP.
//
// The client opens with a hello of 32 bytes and then, by its kind:
//   ping   sends messages of `bytes` bytes, `count` of them; each is sent back as it is.
//   sink   sends `count` blocks of `bytes` bytes; the answer is a digest over all (8 bytes).
// The connection ends after that. Numbers are little-endian.
#ifndef FATHOM_WORKER_HEALTH_ECHO_FRAME_H_
#define FATHOM_WORKER_HEALTH_ECHO_FRAME_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace fathom::health {

enum class EchoKind : uint32_t { kPing = 1, kSink = 2 };

struct EchoHello {
  EchoKind kind = EchoKind::kPing;
  uint32_t bytes = 0;
  uint64_t count = 0;
};

inline constexpr size_t kEchoHelloBytes = 32;
inline constexpr uint32_t kMaxEchoPingBytes = 4096;
inline constexpr uint64_t kMaxEchoPings = 100'000;
inline constexpr uint32_t kEchoBlockBytes = 64 << 10;  // the one size of a sink's blocks
inline constexpr uint64_t kMaxEchoBlocks = 16'384;     // 1 GiB

std::string EncodeEchoHello(const EchoHello& hello);

// Nothing: no such hello, or it asks for more than the maxima.
std::optional<EchoHello> DecodeEchoHello(absl::string_view bytes);

// Of the blocks one after another: each block's is seeded with the one before; 0 before the first.
uint64_t EchoDigest(uint64_t before, absl::string_view block);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_ECHO_FRAME_H_
