// The one source of chance in a simulation: the same seed gives the same numbers on every machine.
#ifndef FATHOM_TESTS_SIM_RANDOM_H_
#define FATHOM_TESTS_SIM_RANDOM_H_

#include <cstdint>

namespace fathom::sim {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // SplitMix64.
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  // In [low, high], both included.
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(Next() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int percent) { return Between(0, 99) < percent; }

 private:
  uint64_t state_;
};

// Folds `value` into `hash`.
inline uint64_t Mix(uint64_t hash, uint64_t value) {
  return Random(hash ^ (value * 0xd6e8feb86659fd93ull)).Next();
}

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_RANDOM_H_
