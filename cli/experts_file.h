// The file that `fathomctl experts plan` reads: measured loads of a model's experts, the shape to
// place them on, and where they are now.
//
//   {"loads": [[90, 132, ...], ...], "replicas": 16, "groups": 4, "nodes": 2, "devices": 8,
//    "current": [[5, 6, ...], ...]}      one row per layer; "current" may be left out
#ifndef FATHOM_CLI_EXPERTS_FILE_H_
#define FATHOM_CLI_EXPERTS_FILE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/planner/expert_placement.h"

namespace fathom::cli {

struct ExpertsFile {
  planner::ExpertShape shape;
  std::vector<std::vector<double>> loads;  // by layer, then expert
  std::vector<std::vector<int>> current;   // by layer, then slot; empty: nothing is placed yet
};

// INVALID_ARGUMENT: not that; the message says where. Whether the shape can be placed at all is
// left to the planner.
absl::StatusOr<ExpertsFile> ParseExpertsFile(absl::string_view text,
                                             const std::string& source_name);

// "-": standard input. ReadFile's codes, too.
absl::StatusOr<ExpertsFile> LoadExpertsFile(const std::string& path);

// What `experts plan -o json` prints: the expert of each slot, layer by layer. INVALID_ARGUMENT:
// not that; ReadFile's codes.
absl::StatusOr<std::vector<std::vector<int>>> LoadPlacementFile(const std::string& path);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_EXPERTS_FILE_H_
