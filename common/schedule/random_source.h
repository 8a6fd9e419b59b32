// Seeded numbers for searches: the same on every machine and with every library (SplitMix64).
#ifndef FATHOM_COMMON_SCHEDULE_RANDOM_SOURCE_H_
#define FATHOM_COMMON_SCHEDULE_RANDOM_SOURCE_H_

#include <cstdint>

namespace fathom::schedule {

class RandomSource {
 public:
  explicit RandomSource(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // From 0 to below `count`, which is small beside 2^32.
  int Below(int count) { return static_cast<int>((Next() >> 32) * count >> 32); }
  // From `least` to `most`, both included.
  int Between(int least, int most) { return least + Below(most - least + 1); }
  // From 0 to below 1.
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_RANDOM_SOURCE_H_
