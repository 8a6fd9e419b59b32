#include "worker/health/echo_frame.h"

#include <cstring>

#include "common/base/hash.h"

namespace fathom::health {
namespace {

constexpr char kMagic[] = "fathom-echo 1\r\n";  // 16 bytes with its zero
static_assert(sizeof(kMagic) == 16);

template <typename T>
void Put(T value, std::string* bytes) {
  for (size_t i = 0; i < sizeof(T); ++i) bytes->push_back(static_cast<char>(value >> (8 * i)));
}

template <typename T>
T Get(absl::string_view bytes, size_t at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<T>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  }
  return value;
}

bool IsAllowed(const EchoHello& hello) {
  if (hello.bytes == 0 || hello.count == 0) return false;
  switch (hello.kind) {
    case EchoKind::kPing:
      return hello.bytes <= kMaxEchoPingBytes && hello.count <= kMaxEchoPings;
    case EchoKind::kSink:
      return hello.bytes == kEchoBlockBytes && hello.count <= kMaxEchoBlocks;
  }
  return false;
}

}  // namespace

std::string EncodeEchoHello(const EchoHello& hello) {
  std::string bytes(kMagic, sizeof(kMagic));
  Put(static_cast<uint32_t>(hello.kind), &bytes);
  Put(hello.bytes, &bytes);
  Put(hello.count, &bytes);
  return bytes;
}

std::optional<EchoHello> DecodeEchoHello(absl::string_view bytes) {
  if (bytes.size() != kEchoHelloBytes) return std::nullopt;
  if (std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) return std::nullopt;
  const EchoHello hello{static_cast<EchoKind>(Get<uint32_t>(bytes, 16)), Get<uint32_t>(bytes, 20),
                        Get<uint64_t>(bytes, 24)};
  if (!IsAllowed(hello)) return std::nullopt;
  return hello;
}

uint64_t EchoDigest(uint64_t before, absl::string_view block) { return Xxh64(block, before); }

}  // namespace fathom::health
