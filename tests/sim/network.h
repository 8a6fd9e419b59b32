// Who reaches whom, and how long it takes. Directed: a may reach b while b can't reach a.
#ifndef FATHOM_TESTS_SIM_NETWORK_H_
#define FATHOM_TESTS_SIM_NETWORK_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/sim/random.h"

namespace fathom::sim {

// A node's number, or kCoordinator.
using Place = int;
inline constexpr Place kCoordinator = -1;

class Network {
 public:
  Network(int nodes, Random* random);

  void SetOpen(Place from, Place to, bool open);
  void Heal();

  bool Open(Place from, Place to) const { return open_[Index(from, to)]; }
  bool BothWays(Place a, Place b) const { return Open(a, b) && Open(b, a); }
  // Of one message, in microseconds; grows where a place is slow.
  int64_t DelayUs(Place from, Place to);
  void SetSlowness(Place place, int64_t factor) { slowness_[place + 1] = factor; }
  int64_t Slowness(Place place) const { return slowness_[place + 1]; }

 private:
  size_t Index(Place from, Place to) const {
    return static_cast<size_t>((from + 1) * places_ + to + 1);
  }

  const int places_;
  Random* const random_;
  std::vector<bool> open_;
  std::vector<int64_t> slowness_;
};

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_NETWORK_H_
