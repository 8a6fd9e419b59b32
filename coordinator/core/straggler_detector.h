// Finds the rank that is slower than its plan says, where it really matters. Pure.
//
// Each rank's own busy time in a step (what it does not spend waiting for others) is set against
// what is expected of it: the median of the ranks with the same work in the same step, or where
// those are fewer than three, the median of all, each divided by its share of the planned cost.
// A rank is named when it takes more than kStragglerFactor times that, and stands out of the
// scatter of its fellows (median absolute deviation), in kStragglerSteps steps in a row. With two
// ranks alone the faster one is the measure.
#ifndef FATHOM_COORDINATOR_CORE_STRAGGLER_DETECTOR_H_
#define FATHOM_COORDINATOR_CORE_STRAGGLER_DETECTOR_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "proto/fathom/v1/worker.pb.h"

namespace fathom {

inline constexpr double kStragglerFactor = 1.5;
inline constexpr int kStragglerSteps = 3;
inline constexpr double kStragglerDeviations = 6;

// Seconds of the step that are the rank's own.
double BusySeconds(const v1::StepReport& step);

struct Straggler {
  int32_t rank = 0;
  int64_t step = 0;
  double busy_s = 0;
  double expected_s = 0;
};

class StragglerDetector {
 public:
  // `cost`: of each rank's stages, in any unit; `group`: ranks of equal number have the same work.
  StragglerDetector(std::vector<double> cost, std::vector<int32_t> group);

  // The ranks' newest steps, in rank order. A step counts once all ranks have gone beyond the last
  // one that counted. The slowest of those that are named now; nothing if there is none.
  std::optional<Straggler> Watch(const std::vector<const v1::StepReport*>& steps);

 private:
  struct Measure {
    double expected = 0;  // per cost
    double scatter = 0;
  };
  static Measure MeasureOf(std::vector<double> per_cost);

  std::vector<double> cost_;
  std::vector<int32_t> group_;
  std::map<int32_t, std::vector<size_t>> members_;  // by group
  std::vector<int> slow_in_a_row_;
  int64_t counted_step_ = 0;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_STRAGGLER_DETECTOR_H_
