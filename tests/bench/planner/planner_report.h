// What planning costs, and what it foretells of the published run and of every example cluster, as
// Markdown for docs/results/planner.md. Times are medians of repeated runs on one thread.
#ifndef FATHOM_TESTS_BENCH_PLANNER_PLANNER_REPORT_H_
#define FATHOM_TESTS_BENCH_PLANNER_PLANNER_REPORT_H_

#include <string>

#include "common/base/clock.h"

namespace fathom {

// `folder`: deploy/examples. Not 0 where the published job is refused.
int PrintPlannerReport(const std::string& folder, const Clock& clock);

}  // namespace fathom

#endif  // FATHOM_TESTS_BENCH_PLANNER_PLANNER_REPORT_H_
