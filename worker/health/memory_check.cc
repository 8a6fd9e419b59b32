#include "worker/health/memory_check.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/health/preflight_verdict.h"

namespace fathom::health {
namespace {

constexpr int kWordBits = 64;

// One step of SplitMix64 (Steele, Lea, Flood 2014), which makes random words from an index.
inline uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

inline uint64_t Expected(MemoryPattern pattern, uint64_t seed, const uint64_t* word, size_t index) {
  const uint64_t address = reinterpret_cast<uintptr_t>(word);
  switch (pattern) {
    case MemoryPattern::kZeros:
      return 0;
    case MemoryPattern::kOnes:
      return ~uint64_t{0};
    case MemoryPattern::kStripes:
      return 0x5555555555555555;
    case MemoryPattern::kInverseStripes:
      return 0xaaaaaaaaaaaaaaaa;
    case MemoryPattern::kAddress:
      return address;
    case MemoryPattern::kInverseAddress:
      return ~address;
    case MemoryPattern::kRandom:
      return Mix(seed + index);
  }
  return 0;
}

// What was written is really written before anything is read, and nothing is known of it.
inline void ForgetMemory(const void* data) { asm volatile("" : : "r"(data) : "memory"); }

// Memory of the kernel's, not the allocator's, so that none of it was just used.
class Mapping {
 public:
  explicit Mapping(size_t bytes)
      : bytes_(bytes),
        data_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (ok()) ::munmap(data_, bytes_);
  }

  bool ok() const { return data_ != MAP_FAILED; }
  absl::Span<uint64_t> words() const {
    return {static_cast<uint64_t*>(data_), bytes_ / sizeof(uint64_t)};
  }

 private:
  const size_t bytes_;
  void* const data_;
};

}  // namespace

absl::string_view NameOf(MemoryPattern pattern) {
  switch (pattern) {
    case MemoryPattern::kZeros:
      return "zeros";
    case MemoryPattern::kOnes:
      return "ones";
    case MemoryPattern::kStripes:
      return "stripes";
    case MemoryPattern::kInverseStripes:
      return "inverse stripes";
    case MemoryPattern::kAddress:
      return "address";
    case MemoryPattern::kInverseAddress:
      return "inverse address";
    case MemoryPattern::kRandom:
      return "random";
  }
  return "unknown";
}

void WritePattern(MemoryPattern pattern, uint64_t seed, absl::Span<uint64_t> words) {
  for (size_t i = 0; i < words.size(); ++i) {
    words[i] = Expected(pattern, seed, &words[i], i);
  }
  ForgetMemory(words.data());
}

std::optional<MemoryFault> VerifyPattern(MemoryPattern pattern, uint64_t seed,
                                         absl::Span<const uint64_t> words) {
  ForgetMemory(words.data());
  std::optional<MemoryFault> fault;
  for (size_t i = 0; i < words.size(); ++i) {
    const uint64_t got = words[i];
    const uint64_t want = Expected(pattern, seed, &words[i], i);
    if (got == want) [[likely]] {
      continue;
    }
    if (!fault) fault = {i, reinterpret_cast<uintptr_t>(&words[i]), want, got, 0};
    ++fault->bad_words;
  }
  return fault;
}

std::string Describe(MemoryPattern pattern, const MemoryFault& fault, size_t words) {
  std::vector<int> bits;
  for (int bit = 0; bit < kWordBits; ++bit) {
    if (((fault.want ^ fault.got) >> bit) & 1) bits.push_back(bit);
  }
  return absl::StrFormat(
      "pattern %s: %d of %d words wrong, the first at offset %#x (address %#x, bits %s): %#018x "
      "instead of %#018x; take the node out of service and test its memory",
      NameOf(pattern), fault.bad_words, words, fault.index * sizeof(uint64_t), fault.address,
      absl::StrJoin(bits, ", "), fault.got, fault.want);
}

v1::PreflightCheck CheckMemory(int64_t bytes, uint64_t seed, const Clock* clock) {
  v1::PreflightCheck check;
  check.set_name(std::string(kMemoryPattern));
  check.set_unit("GB/s");
  const Mapping mapping(static_cast<size_t>(bytes));
  if (!mapping.ok()) {
    check.set_message(absl::StrCat("cannot have ", bytes, " bytes of memory to test: ",
                                   std::strerror(errno), "; free some, or test less"));
    return check;
  }
  const absl::Duration before = clock->Steady();
  for (const MemoryPattern pattern : kMemoryPatterns) {
    WritePattern(pattern, seed, mapping.words());
    if (const auto fault = VerifyPattern(pattern, seed, mapping.words())) {
      check.set_message(Describe(pattern, *fault, mapping.words().size()));
      return check;
    }
  }
  const double seconds = absl::ToDoubleSeconds(clock->Steady() - before);
  check.set_passed(true);
  check.set_value(2.0 * static_cast<double>(bytes) * std::size(kMemoryPatterns) / 1e9 / seconds);
  return check;
}

}  // namespace fathom::health
