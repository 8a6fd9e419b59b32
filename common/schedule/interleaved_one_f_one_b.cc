#include "common/schedule/interleaved_one_f_one_b.h"

#include <algorithm>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/schedule/rank_list.h"

namespace fathom::schedule {

absl::StatusOr<Schedule> InterleavedOneFOneB(int ranks, int micro_batches, int chunks) {
  FATHOM_RETURN_IF_ERROR(CheckScheduleSize(ranks, micro_batches, chunks));
  if (ranks < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("pipeline ranks: ", ranks, "; interleaving needs at least 2"));
  }
  if (chunks < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunks: ", chunks, "; interleaving needs at least 2"));
  }
  if (micro_batches % ranks != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("micro-batches: ", micro_batches, " on ", ranks,
                     " pipeline ranks; interleaving takes them in groups of ", ranks, ": choose ",
                     (micro_batches / ranks + 1) * ranks));
  }
  Schedule schedule = OneWaySchedule("interleaved-1f1b", ranks, micro_batches, chunks);
  const int passes = micro_batches * chunks;
  // The chunk whose turn it is in the n-th forward; backwards take them in reverse.
  auto chunk_of = [&](int n) { return n / ranks % chunks; };
  std::vector<RankList::Track> tracks;
  for (int chunk = 0; chunk < chunks; ++chunk) tracks.push_back({0, chunk});
  for (int rank = 0; rank < ranks; ++rank) {
    RankList list(tracks, micro_batches);
    int ahead = std::min(passes, 2 * (ranks - 1 - rank) + (chunks - 1) * ranks + 1);
    for (int n = 0; n < ahead; ++n) list.Forward(chunk_of(n));
    for (int n = 0; n < passes; ++n) {
      list.Backward(chunks - 1 - chunk_of(n));
      if (ahead < passes) list.Forward(chunk_of(ahead++));
    }
    schedule.lists.push_back(list.Finish());
  }
  return schedule;
}

}  // namespace fathom::schedule
