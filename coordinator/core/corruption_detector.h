// Silent corruption: ranks that hold the same weights must have the same hash of them after the
// same step. Pure.
//
// Of three or more, a minority is to blame. Of two that differ, or of halves, it can't be told
// which is right: both are suspects.
#ifndef FATHOM_COORDINATOR_CORE_CORRUPTION_DETECTOR_H_
#define FATHOM_COORDINATOR_CORE_CORRUPTION_DETECTOR_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "proto/fathom/v1/worker.pb.h"

namespace fathom {

// Whether a rank's last words say that its own memory or arithmetic can't be trusted.
bool SpeaksOfCorruption(const std::string& message);

struct WeightsDiffer {
  int64_t step = 0;
  std::vector<int32_t> ranks;  // to blame, or suspects
  bool blamed = false;
};

class CorruptionDetector {
 public:
  // `group`: by rank; ranks of equal number hold the same weights.
  explicit CorruptionDetector(const std::vector<int32_t>& group);

  // The ranks' newest steps, in rank order; they may be of different steps. The oldest step whose
  // hashes differ, once per group and step; nothing if all that is known agrees.
  std::optional<WeightsDiffer> Watch(const std::vector<const v1::StepReport*>& steps);

 private:
  struct Step {
    std::map<int32_t, std::map<int32_t, uint64_t>> hashes;  // by group, then rank
    std::set<int32_t> judged;                               // groups
  };

  std::vector<int32_t> group_;
  std::map<int32_t, size_t> members_;  // by group
  std::vector<int64_t> seen_step_;     // by rank
  std::map<int64_t, Step> steps_;      // the newest few
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_CORRUPTION_DETECTOR_H_
