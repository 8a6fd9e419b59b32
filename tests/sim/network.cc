#include "tests/sim/network.h"

#include <algorithm>

namespace fathom::sim {

Network::Network(int nodes, Random* random)
    : places_(nodes + 1), random_(random), slowness_(static_cast<size_t>(nodes) + 1, 1) {
  open_.assign(static_cast<size_t>(places_) * places_, true);
}

void Network::SetOpen(Place from, Place to, bool open) { open_[Index(from, to)] = open; }

void Network::Heal() { std::fill(open_.begin(), open_.end(), true); }

int64_t Network::DelayUs(Place from, Place to) {
  // Mostly half a millisecond; now and then a burst of retransmissions.
  const int64_t base =
      random_->Chance(3) ? random_->Between(20'000, 120'000) : random_->Between(200, 900);
  return base * std::max(Slowness(from), Slowness(to));
}

}  // namespace fathom::sim
