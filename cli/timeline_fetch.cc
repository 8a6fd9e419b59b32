#include "cli/timeline_fetch.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/common_start.h"
#include "cli/log_fetch.h"
#include "common/base/status_util.h"

namespace fathom::cli {

absl::StatusOr<v1::Timeline> FetchTimeline(const std::string& metrics_address,
                                           const std::string& job, uint64_t epoch, int rank) {
  FATHOM_ASSIGN_OR_RETURN(const std::string bytes, FetchFromNode(metrics_address, "timelines", job,
                                                                 absl::StrCat(epoch, "/", rank)));
  v1::Timeline timeline;
  if (!timeline.ParseFromString(bytes) || timeline.ranks_size() != 1) {
    return absl::InternalError(absl::StrCat("node at ", metrics_address,
                                            ": what it keeps for rank ", rank, " of ", job,
                                            " is no timeline"));
  }
  return timeline;
}

absl::StatusOr<v1::Timeline> JoinTimelines(const std::vector<v1::Timeline>& of_ranks) {
  if (of_ranks.empty()) return absl::InvalidArgumentError("no rank's timeline to join");
  v1::Timeline joined = of_ranks.front();
  joined.clear_ranks();
  for (const v1::Timeline& one : of_ranks) {
    if (one.step() != joined.step() || one.epoch() != joined.epoch()) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank ", one.ranks(0).rank(), " has recorded step ", one.step(), ", rank ",
                       of_ranks.front().ranks(0).rank(), " step ", joined.step(), "; ask again"));
    }
    *joined.add_ranks() = one.ranks(0);
  }
  return WithCommonStart(std::move(joined));
}

}  // namespace fathom::cli
