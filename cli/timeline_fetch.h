// The step that the ranks of a job recorded last, collected from the daemons of their nodes.
#ifndef FATHOM_CLI_TIMELINE_FETCH_H_
#define FATHOM_CLI_TIMELINE_FETCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::cli {

// GET http://<metrics_address>/timelines/<job>/<epoch>/<rank>. NOT_FOUND: it has recorded none yet.
// UNAVAILABLE: the node's daemon can't be reached. INTERNAL: it answered otherwise, or with what is
// no timeline.
absl::StatusOr<v1::Timeline> FetchTimeline(const std::string& metrics_address,
                                           const std::string& job, uint64_t epoch, int rank);

// One timeline of one step: ranks' times count from the first one's beginning. Ranks record the
// same steps, so those of a rank that was asked a moment later, of a newer step, show that the
// others have one as well: FAILED_PRECONDITION, and the caller fetches again. Where the nodes'
// clocks are so far apart that ranks would seem to be in different steps, each counts from its own
// beginning.
absl::StatusOr<v1::Timeline> JoinTimelines(const std::vector<v1::Timeline>& of_ranks);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_TIMELINE_FETCH_H_
