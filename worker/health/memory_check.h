// Writes patterns over a buffer and reads them back: finds stuck bits, bits that follow their
// neighbours, and address lines that don't reach their cells (each word then holds another's
// address). A buffer that fits the CPU's caches tests those; make it larger than they are.
#ifndef FATHOM_WORKER_HEALTH_MEMORY_CHECK_H_
#define FATHOM_WORKER_HEALTH_MEMORY_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

enum class MemoryPattern {
  kZeros,
  kOnes,
  kStripes,         // 0x5555...
  kInverseStripes,  // 0xAAAA...
  kAddress,         // each word its own address
  kInverseAddress,
  kRandom,  // a function of seed and index
};

inline constexpr MemoryPattern kMemoryPatterns[] = {
    MemoryPattern::kZeros,          MemoryPattern::kOnes,    MemoryPattern::kStripes,
    MemoryPattern::kInverseStripes, MemoryPattern::kAddress, MemoryPattern::kInverseAddress,
    MemoryPattern::kRandom};

absl::string_view NameOf(MemoryPattern pattern);

struct MemoryFault {
  size_t index = 0;  // of the first bad word
  uint64_t address = 0;
  uint64_t want = 0;
  uint64_t got = 0;
  int64_t bad_words = 0;
};

void WritePattern(MemoryPattern pattern, uint64_t seed, absl::Span<uint64_t> words);
std::optional<MemoryFault> VerifyPattern(MemoryPattern pattern, uint64_t seed,
                                         absl::Span<const uint64_t> words);

// "pattern ones: 1 of 8388608 words wrong, the first at offset 0x40 (address 0x7f..., bits 3, 17):
// ... instead of ..."
std::string Describe(MemoryPattern pattern, const MemoryFault& fault, size_t words);

// memory_pattern: all patterns over a fresh buffer of so many bytes; its value is the rate in GB/s
// of writing and reading together. Fails also where there is no such memory.
v1::PreflightCheck CheckMemory(int64_t bytes, uint64_t seed, const Clock* clock);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_MEMORY_CHECK_H_
