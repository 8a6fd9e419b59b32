// How long to wait before the next try: doubling from a shortest to a longest time, each wait drawn
// from the upper half of its step, so that the nodes of a cluster don't return in one wave.
#ifndef FATHOM_WORKER_AGENT_BACKOFF_H_
#define FATHOM_WORKER_AGENT_BACKOFF_H_

#include <algorithm>
#include <cstdint>
#include <random>

#include "absl/time/time.h"

namespace fathom {

class Backoff {
 public:
  Backoff(absl::Duration shortest, absl::Duration longest, uint64_t seed)
      : shortest_(shortest), longest_(longest), step_(shortest), random_(seed) {}

  absl::Duration Next() {
    const absl::Duration step = step_;
    step_ = std::min(2 * step_, longest_);
    return step * std::uniform_real_distribution<double>(0.5, 1.0)(random_);
  }

  // After a success.
  void Reset() { step_ = shortest_; }

 private:
  const absl::Duration shortest_;
  const absl::Duration longest_;
  absl::Duration step_;
  std::mt19937_64 random_;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_BACKOFF_H_
