// The states of a job and the changes allowed between them:
//
//              +----------------------------------------------+
//              |                                              v
//   PENDING --planned--> STARTING --all train--> RUNNING --> COMPLETED
//      |                  |    ^                  |  ^
//      |                  |    |            failed|  |all train
//      |                  +----|--failed--> RECOVERING (a new epoch each time)
//      |                                     |
//      +---- cancelled or given up ----------+--> CANCELLED, FAILED    (from every state but the
//      last)
//
// An active job that is parked (its state saved, its devices given back) goes back to PENDING, or
// to SUSPENDED if its user wished so, which a waiting job can be too; from there it goes to
// PENDING.
//
// A job that recovers may fail again (RECOVERING to RECOVERING), and COMPLETED follows from
// STARTING and RECOVERING too, as short jobs end before they are seen to run. COMPLETED, FAILED and
// CANCELLED are final. Planning is part of the decision that starts a job, so PLANNING is never
// seen.
#ifndef FATHOM_COORDINATOR_CORE_JOB_STATE_H_
#define FATHOM_COORDINATOR_CORE_JOB_STATE_H_

#include <string>

#include "proto/fathom/v1/operator.pb.h"

namespace fathom {

// Ended for good.
bool IsFinal(v1::JobState state);

// Holds devices, or wants them back: STARTING, RUNNING, RECOVERING.
bool IsActive(v1::JobState state);

// The one place that says which change is allowed.
bool MayChange(v1::JobState from, v1::JobState to);

// "RUNNING"
std::string NameOfState(v1::JobState state);
// "READY"
std::string NameOfState(v1::NodeState state);
// "TRAINING"
std::string NameOfState(v1::RankState state);

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_JOB_STATE_H_
