// The planner and the plan's checks as the core asks for them.
#ifndef FATHOM_COORDINATOR_SERVICE_PLANNING_H_
#define FATHOM_COORDINATOR_SERVICE_PLANNING_H_

#include <vector>

#include "coordinator/core/placement.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom {

// `profiles` take the place of built-in ones of their kinds.
PlanningFunctions RealPlanning(std::vector<v1::DeviceProfile> profiles = {});

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_SERVICE_PLANNING_H_
