// A simulated schedule as the timeline that pictures and traces are made of.
#ifndef FATHOM_CLI_SCHEDULE_TIMELINE_H_
#define FATHOM_CLI_SCHEDULE_TIMELINE_H_

#include "common/schedule/event_simulator.h"
#include "common/schedule/instruction.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::cli {

// `simulation` is `schedule`'s; a second is its unit of time.
v1::Timeline TimelineOf(const schedule::Schedule& schedule, const schedule::Simulation& simulation);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_SCHEDULE_TIMELINE_H_
