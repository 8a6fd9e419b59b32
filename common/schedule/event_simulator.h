// How long a schedule takes, when each op has a known cost: who waits, and how many micro-batches'
// activations each rank holds. Time is in whatever unit the costs are. To time one schedule with
// many costs, or with costs by pair, keep its CompiledSchedule.
#ifndef FATHOM_COMMON_SCHEDULE_EVENT_SIMULATOR_H_
#define FATHOM_COMMON_SCHEDULE_EVENT_SIMULATOR_H_

#include <vector>

#include "absl/status/statusor.h"
#include "common/schedule/compiled_schedule.h"
#include "common/schedule/instruction.h"
#include "common/schedule/step_costs.h"

namespace fathom::schedule {

// INVALID_ARGUMENT or FAILED_PRECONDITION: the schedule fails CheckSchedule, or the costs fail
// CheckStepCosts.
absl::StatusOr<Simulation> Simulate(const Schedule& schedule, const std::vector<StageCosts>& stages,
                                    double message_time = 0);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_EVENT_SIMULATOR_H_
