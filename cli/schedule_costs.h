// Costs of a pipeline's ops as they are written on the command line or in a file: one number for
// all stages, or one for each.
#ifndef FATHOM_CLI_SCHEDULE_COSTS_H_
#define FATHOM_CLI_SCHEDULE_COSTS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/schedule/step_costs.h"

namespace fathom::cli {

// `costs`: "F=1,B=1,W=1,FB=3", any of them, for all stages; B is the gradient for the input, a full
// backward is B and W, FB alone is F, B and W. `stage_costs`: empty, or what differs by stage as
// "F=1,2,1;B=1,2,1", or the path of a file with a line for each. Gives one entry for all stages, or
// one for each. INVALID_ARGUMENT: no such form, or lists of different lengths; ReadFile's codes.
absl::StatusOr<std::vector<schedule::StageCosts>> ParseScheduleCosts(
    const std::string& costs, const std::string& stage_costs);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_SCHEDULE_COSTS_H_
