// How long a schedule takes, when each op has a known cost: who waits, and how many micro-batches'
// activations each rank holds. Time is in whatever unit the costs are.
#ifndef FATHOM_COMMON_SCHEDULE_EVENT_SIMULATOR_H_
#define FATHOM_COMMON_SCHEDULE_EVENT_SIMULATOR_H_

#include <vector>

#include "absl/status/statusor.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

// Of one stage.
struct StageCosts {
  double forward = 1;
  double backward = 2;  // input and weights
  double backward_input = 1;
  double weight = 1;
  double overlapped = 3;  // a forward with a full backward. Of two stages with different costs, the
                          // pair saves the mean of what each would save.
};

struct SimulatedRank {
  double finish = 0;
  double busy = 0;
  double idle = 0;    // makespan - busy
  int peak_live = 0;  // micro-batches with activations held, one for each chunk: from the forward's
                      // start until the backward's end, or the end of W when that is deferred
  std::vector<double> starts;  // of each instruction
  std::vector<double> ends;
};

struct Simulation {
  double makespan = 0;
  std::vector<SimulatedRank> ranks;
};

// `stages`: costs of each stage, or one entry for all. `message_time`: from the end of the
// instruction that sends until the receiver can start. INVALID_ARGUMENT or FAILED_PRECONDITION: the
// schedule fails CheckSchedule; INVALID_ARGUMENT: another number of costs, one that is negative or
// no number.
absl::StatusOr<Simulation> Simulate(const Schedule& schedule, const std::vector<StageCosts>& stages,
                                    double message_time = 0);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_EVENT_SIMULATOR_H_
