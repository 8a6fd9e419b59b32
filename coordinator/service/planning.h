// The planner and the plan's checks as the core asks for them.
#ifndef FATHOM_COORDINATOR_SERVICE_PLANNING_H_
#define FATHOM_COORDINATOR_SERVICE_PLANNING_H_

#include "coordinator/core/placement.h"

namespace fathom {

PlanningFunctions RealPlanning();

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_SERVICE_PLANNING_H_
