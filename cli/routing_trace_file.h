// The file that `fathomctl experts traffic` reads: what a run's router chose.
//
//   {"experts": 256, "groups": 8, "topk_group": 4,
//    "layers": [{"ranks": [[[3, 17, ...], ...], ...]}, ...]}
//
// By layer, expert rank and token: the experts that the token chose, all of them distinct. "groups"
// and "topk_group" may be left out: one group, and no limit.
#ifndef FATHOM_CLI_ROUTING_TRACE_FILE_H_
#define FATHOM_CLI_ROUTING_TRACE_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/planner/routing_traffic.h"

namespace fathom::cli {

// INVALID_ARGUMENT: not that; the message names layer, rank and token. FAILED_PRECONDITION: more
// than can be planned. What planner::CheckTrace refuses is refused, too.
absl::StatusOr<planner::RoutingTrace> ParseRoutingTrace(absl::string_view text,
                                                        const std::string& source_name);

// ReadFile's codes, too.
absl::StatusOr<planner::RoutingTrace> LoadRoutingTrace(const std::string& path);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_ROUTING_TRACE_FILE_H_
