// The searched schedule beside the best named one of the same placement and memory over the grid of
// 200 cases, as Markdown. Run with `bazel run //tests/bench/schedule:search_grid_table [EFFORT]`.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/schedule/search_grid.h"
#include "common/schedule/searched_schedule.h"

namespace fathom::schedule {
namespace {

struct Row {
  int cases = 0;
  int quicker = 0;
  int at_bound = 0;        // nothing could be quicker
  int named_at_bound = 0;  // than the best named one
  double gain = 0;
  double most = 0;
  double above_bound = 0;
};

void Add(const SearchedSchedule& found, Row& row) {
  const double makespan = found.simulation.makespan;
  const double gain = 1 - makespan / found.named_makespan;
  ++row.cases;
  row.quicker += gain > 1e-9;
  row.at_bound += makespan <= found.bound * (1 + 1e-9);
  row.named_at_bound += found.named_makespan <= found.bound * (1 + 1e-9);
  row.gain += gain;
  row.most = std::max(row.most, gain);
  row.above_bound += makespan / found.bound - 1;
}

void Print(const char* what, const std::map<std::string, Row>& rows) {
  std::cout << "| " << what
            << " | cases | quicker | at the bound | named at the bound | mean gain | greatest | "
               "mean above the bound |\n|---|---|---|---|---|---|---|---|\n";
  for (const auto& [name, row] : rows) {
    std::cout << absl::StrFormat("| %s | %d | %d | %d | %d | %.2f%% | %.2f%% | %.2f%% |\n", name,
                                 row.cases, row.quicker, row.at_bound, row.named_at_bound,
                                 100 * row.gain / row.cases, 100 * row.most,
                                 100 * row.above_bound / row.cases);
  }
  std::cout << "\n";
}

int Run(int64_t effort) {
  std::map<std::string, Row> placements, profiles, pairs, all;
  for (int index = 0; index < kGridCases; ++index) {
    SearchRequest request = GridCase(index);
    request.effort = effort;
    const auto found = SearchSchedule(request);
    if (!found.ok()) {
      std::cerr << "case " << index << ": " << found.status() << "\n";
      return EXIT_FAILURE;
    }
    Add(*found, placements[GridPlacement(index)]);
    Add(*found, profiles[GridProfile(index)]);
    Add(*found, pairs[index % 3 == 0 ? "pairs save 15%" : "pairs save nothing"]);
    Add(*found, all["all"]);
  }
  Print("placement", placements);
  Print("stage times", profiles);
  Print("overlap", pairs);
  Print("", all);
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace fathom::schedule

int main(int argc, char** argv) {
  int64_t effort = fathom::schedule::kQuickEffort;
  if (argc > 2 || (argc == 2 && !absl::SimpleAtoi(argv[1], &effort))) {
    std::cerr << "usage: search_grid_table [EFFORT]\n";
    return EXIT_FAILURE;
  }
  return fathom::schedule::Run(effort);
}
