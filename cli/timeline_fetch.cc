#include "cli/timeline_fetch.h"

#include <httplib.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cli/log_fetch.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

double LengthOf(const v1::RankTimes& times) {
  return times.instructions().empty() ? 0 : times.instructions().rbegin()->end_s();
}

}  // namespace

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
  int64_t first_us = of_ranks.front().ranks(0).begin_us();
  int64_t last_us = first_us;
  double longest_s = 0;
  for (const v1::Timeline& one : of_ranks) {
    if (one.step() != joined.step() || one.epoch() != joined.epoch()) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank ", one.ranks(0).rank(), " has recorded step ", one.step(), ", rank ",
                       of_ranks.front().ranks(0).rank(), " step ", joined.step(), "; ask again"));
    }
    first_us = std::min(first_us, one.ranks(0).begin_us());
    last_us = std::max(last_us, one.ranks(0).begin_us());
    longest_s = std::max(longest_s, LengthOf(one.ranks(0)));
    *joined.add_ranks() = one.ranks(0);
  }
  const bool same_clock = static_cast<double>(last_us - first_us) < 1e6 * longest_s;
  for (v1::RankTimes& rank : *joined.mutable_ranks()) {
    const double shift_s = same_clock ? 1e-6 * static_cast<double>(rank.begin_us() - first_us) : 0;
    for (v1::TimedInstruction& timed : *rank.mutable_instructions()) {
      timed.set_start_s(timed.start_s() + shift_s);
      timed.set_end_s(timed.end_s() + shift_s);
    }
  }
  return joined;
}

}  // namespace fathom::cli
