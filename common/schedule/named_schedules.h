// All schedules by name.
#ifndef FATHOM_COMMON_SCHEDULE_NAMED_SCHEDULES_H_
#define FATHOM_COMMON_SCHEDULE_NAMED_SCHEDULES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

// "1f1b", "interleaved-1f1b", "zb1p", ...: each is its schedule's kind.
std::vector<std::string> ScheduleKinds();

// `kind`: one of ScheduleKinds, in capitals or not, with or without - and _. `chunks`: stages on
// each rank; 0: as the kind has it, and two where it takes any number. INVALID_ARGUMENT: there is
// no such kind, or it does not take these numbers; says the rule.
absl::StatusOr<Schedule> MakeSchedule(absl::string_view kind, int ranks, int micro_batches,
                                      int chunks = 0);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_NAMED_SCHEDULES_H_
