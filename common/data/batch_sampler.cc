#include "common/data/batch_sampler.h"

#include <algorithm>
#include <bit>

#include "common/base/check.h"

namespace fathom::data {
namespace {

constexpr int kFeistelRounds = 6;

// The finaliser of SplitMix64: every input bit reaches every output bit.
uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// A bijection of 2 * half_bits bits: each round adds to one half a function of the other.
uint64_t Feistel(uint64_t value, int half_bits, uint64_t key) {
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  uint64_t left = value >> half_bits;
  uint64_t right = value & mask;
  for (int round = 0; round < kFeistelRounds; ++round) {
    const uint64_t mixed = Mix(Mix(key + static_cast<uint64_t>(round)) ^ right);
    const uint64_t next = (left ^ mixed) & mask;
    left = right;
    right = next;
  }
  return (left << half_bits) | right;
}

}  // namespace

int64_t WindowCount(int64_t tokens, const WindowShape& shape) {
  FATHOM_CHECK(shape.sequence_length > 0 && shape.mtp_depth >= 0) << shape.sequence_length;
  if (tokens < shape.tokens()) return 0;
  return (tokens - shape.tokens()) / shape.sequence_length + 1;
}

int64_t Permute(int64_t index, int64_t count, uint64_t key) {
  FATHOM_CHECK(index >= 0 && index < count) << index << " of " << count;
  const int bits = std::bit_width(static_cast<uint64_t>(count - 1));
  const int half_bits = std::max(1, (bits + 1) / 2);
  // The walk stays on the cycle of `index`, which holds `index` itself, so it ends below `count`;
  // the domain is less than four times `count` (8 for the smallest), so the walk is short.
  uint64_t value = static_cast<uint64_t>(index);
  do {
    value = Feistel(value, half_bits, key);
  } while (value >= static_cast<uint64_t>(count));
  return static_cast<int64_t>(value);
}

int64_t TrainingWindow(uint64_t seed, int64_t sample, int64_t windows) {
  FATHOM_CHECK(sample >= 0 && windows > 0) << sample << " of " << windows;
  const uint64_t pass = static_cast<uint64_t>(sample / windows);
  return Permute(sample % windows, windows, Mix(Mix(seed) ^ pass));
}

int64_t TrainingWindow(uint64_t seed, int64_t step, int64_t samples_per_step, int64_t index,
                       int64_t windows) {
  FATHOM_CHECK(index >= 0 && index < samples_per_step) << index << " of " << samples_per_step;
  return TrainingWindow(seed, step * samples_per_step + index, windows);
}

absl::Status FillSequence(const TokenFile& file, Split split, int64_t window,
                          const WindowShape& shape, absl::Span<int32_t> out) {
  FATHOM_CHECK(static_cast<int64_t>(out.size()) == shape.tokens()) << out.size();
  FATHOM_CHECK(window >= 0) << window;
  return file.CopyTokens(split, window * shape.sequence_length, out);
}

}  // namespace fathom::data
