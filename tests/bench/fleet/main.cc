// Measures a real coordinator against a simulated fleet over its gRPC services:
//
//   main --coordinator PROGRAM [--scenario heartbeats|failures|jobs|restart]... [--nodes 256] ...
//
// Prints a table, and with --json FILE the same figures for machines.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "common/base/atomic_file.h"
#include "common/base/real_clock.h"
#include "tests/bench/fleet/scenarios.h"

int main(int argc, char** argv) {
  using fathom::fleet::Figure;
  fathom::fleet::ScenarioOptions options;
  std::vector<std::string> scenarios;
  std::string json_file;
  CLI::App app("Measures a coordinator against a simulated fleet.");
  app.add_option("--coordinator", options.coordinator, "The fathom-coordinator to run")->required();
  app.add_option("--scenario", scenarios, "heartbeats, failures, jobs, restart; default all");
  app.add_option("--nodes", options.nodes, "Nodes of 8 ranks");
  app.add_option("--nodes-per-channel", options.nodes_per_channel, "Streams on one connection");
  app.add_option("--seconds", options.seconds, "Of counting heartbeats");
  app.add_option("--failures", options.failures, "Nodes to lose, and ranks");
  app.add_option("--jobs", options.jobs, "Small jobs to run to their end");
  app.add_option("--restart-jobs", options.restart_jobs, "Jobs in the log of the restart");
  app.add_option("--folder", options.folder, "For state; must be on the disk that counts");
  app.add_option("--json", json_file, "File for the figures");
  CLI11_PARSE(app, argc, argv);
  const fathom::RealClock clock;
  options.clock = &clock;
  if (scenarios.empty()) scenarios = {"heartbeats", "failures", "jobs", "restart"};
  std::vector<Figure> figures;
  for (const std::string& scenario : scenarios) {
    const absl::Status status = fathom::fleet::RunScenario(scenario, options, &figures);
    if (!status.ok()) {
      std::cerr << scenario << ": " << status << "\n";
      return 1;
    }
  }
  std::cout << fathom::fleet::FiguresAsTable(figures);
  if (json_file.empty()) return 0;
  const absl::Status written =
      fathom::WriteFileAtomically(json_file, fathom::fleet::FiguresAsJson(figures));
  if (!written.ok()) std::cerr << written << "\n";
  return written.ok() ? 0 : 1;
}
