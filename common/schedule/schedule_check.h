// Whether a schedule is one that trains: complete, in order, and free of deadlock.
#ifndef FATHOM_COMMON_SCHEDULE_SCHEDULE_CHECK_H_
#define FATHOM_COMMON_SCHEDULE_SCHEDULE_CHECK_H_

#include "absl/status/status.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

// INVALID_ARGUMENT names the rank, the instruction and what is wrong, unless
// - every stage runs the forward of every micro-batch of every direction once, and its backward
//   once, either whole or as Bi and W (no backward at all in a schedule of kind "forward_only");
// - on each rank the micro-batches of a direction come in order, so that gradients are summed in
//   one fixed order; a backward comes after its forward; W runs the oldest deferred entry, none is
//   left;
// - each channel's messages are sent and taken in the same order.
// FAILED_PRECONDITION: ranks would wait for each other for ever when each channel holds at most
// `slots_per_channel` messages (0: any number) until the instruction that takes one has ended.
absl::Status CheckSchedule(const Schedule& schedule, int slots_per_channel = 0);

// The part of it that looks at each rank alone; Replay tells the rest.
absl::Status CheckScheduleLists(const Schedule& schedule);

// Most messages that any channel can hold at once, however fast or slow the ranks are: with so many
// slots no send ever waits. The schedule must pass CheckSchedule.
int MaxInFlight(const Schedule& schedule);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_SCHEDULE_CHECK_H_
