// Plans simple and quick enough for thousands of simulated jobs: ranks go on free devices in order,
// a new plan leaves every rank where it may stay.
#ifndef FATHOM_TESTS_SIM_SIM_PLANNING_H_
#define FATHOM_TESTS_SIM_SIM_PLANNING_H_

#include "coordinator/core/placement.h"

namespace fathom::sim {

PlanningFunctions SimPlanning();

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_SIM_PLANNING_H_
