// SHA-256 for what must be proven equal, XXH64 for what need only be told apart quickly.
#ifndef FATHOM_COMMON_BASE_HASH_H_
#define FATHOM_COMMON_BASE_HASH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace fathom {

// Feeds in pieces of any size give the hash of their concatenation.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(const void* data, size_t bytes);
  void Update(absl::string_view data) { Update(data.data(), data.size()); }
  // 64 lower-case hexadecimal digits. Starts over: the next Update begins a new message.
  std::string HexDigest();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string Sha256Hex(absl::string_view data);

uint64_t Xxh64(const void* data, size_t bytes, uint64_t seed = 0);
inline uint64_t Xxh64(absl::string_view data, uint64_t seed = 0) {
  return Xxh64(data.data(), data.size(), seed);
}

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_HASH_H_
