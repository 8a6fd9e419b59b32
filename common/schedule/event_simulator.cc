#include "common/schedule/event_simulator.h"

#include "common/base/status_util.h"

namespace fathom::schedule {

absl::StatusOr<Simulation> Simulate(const Schedule& schedule, const std::vector<StageCosts>& stages,
                                    double message_time) {
  FATHOM_ASSIGN_OR_RETURN(const CompiledSchedule compiled, CompiledSchedule::Make(schedule));
  return compiled.Simulate({stages, message_time, {}});
}

}  // namespace fathom::schedule
