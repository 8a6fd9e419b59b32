// What is measured, and against which targets.
#ifndef FATHOM_TESTS_BENCH_FLEET_SCENARIOS_H_
#define FATHOM_TESTS_BENCH_FLEET_SCENARIOS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"

namespace fathom::fleet {

struct ScenarioOptions {
  std::string coordinator;  // its program
  std::string folder = "fleet-bench";
  int nodes = 256;
  int nodes_per_channel = 1;
  double seconds = 20;
  int failures = 60;
  int jobs = 5000;
  int restart_jobs = 10'000;
  const Clock* clock = nullptr;
};

struct Figure {
  std::string scenario;
  std::string name;
  double value = 0;
  std::string unit;
  // 0: none.
  double target = 0;
  bool at_most = true;
};

// INVALID_ARGUMENT: no such scenario.
absl::Status RunScenario(const std::string& name, const ScenarioOptions& options,
                         std::vector<Figure>* figures);

std::string FiguresAsTable(const std::vector<Figure>& figures);
std::string FiguresAsJson(const std::vector<Figure>& figures);

}  // namespace fathom::fleet

#endif  // FATHOM_TESTS_BENCH_FLEET_SCENARIOS_H_
