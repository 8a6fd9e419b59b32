// Prints the planner's report: bazel-bin/tests/bench/planner/planner_bench [FOLDER OF EXAMPLES]
#include "common/base/real_clock.h"
#include "tests/bench/planner/planner_report.h"

int main(int argc, char** argv) {
  return fathom::PrintPlannerReport(argc > 1 ? argv[1] : "deploy/examples", fathom::RealClock());
}
