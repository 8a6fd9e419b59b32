#include "common/schedule/named_schedules.h"

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/base/status_util.h"
#include "common/schedule/dualpipe.h"
#include "common/schedule/dualpipe_v.h"
#include "common/schedule/interleaved_one_f_one_b.h"
#include "common/schedule/one_f_one_b.h"
#include "common/schedule/zero_bubble.h"
#include "common/schedule/zero_bubble_v.h"

namespace fathom::schedule {
namespace {

struct NamedSchedule {
  const char* kind;
  absl::StatusOr<Schedule> (*make)(int ranks, int micro_batches);
  int chunks;  // 0: any number of at least 2, and `make` makes two
};

constexpr char kInterleaved[] = "interleaved-1f1b";
constexpr int kDefaultChunks = 2;

constexpr NamedSchedule kSchedules[] = {
    {"1f1b", OneFOneB, 1},
    {kInterleaved, nullptr, 0},
    {"zb1p", Zb1p, 1},
    {"zb2p", Zb2p, 1},
    {"zbv", ZbV, 2},
    {"dualpipe", DualPipe, 2},
    {"dualpipev", DualPipeV, 2},
};

std::string Plain(absl::string_view kind) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(kind), {{"-", ""}, {"_", ""}});
}

absl::StatusOr<Schedule> Named(absl::StatusOr<Schedule> schedule, const char* kind) {
  if (!schedule.ok()) return WithContext(schedule.status(), kind);
  return schedule;
}

}  // namespace

std::vector<std::string> ScheduleKinds() {
  std::vector<std::string> kinds;
  for (const NamedSchedule& named : kSchedules) kinds.push_back(named.kind);
  return kinds;
}

absl::StatusOr<Schedule> MakeSchedule(absl::string_view kind, int ranks, int micro_batches,
                                      int chunks) {
  for (const NamedSchedule& named : kSchedules) {
    if (Plain(kind) != Plain(named.kind)) continue;
    if (named.make == nullptr) {
      const int taken = chunks == 0 ? kDefaultChunks : chunks;
      return Named(InterleavedOneFOneB(ranks, micro_batches, taken), named.kind);
    }
    if (chunks != 0 && chunks != named.chunks) {
      return absl::InvalidArgumentError(absl::StrCat(
          named.kind, ": chunks: ", chunks, "; a rank has ", named.chunks,
          named.chunks == 1 ? " chunk" : " chunks", "; any number of at least 2: ", kInterleaved));
    }
    return Named(named.make(ranks, micro_batches), named.kind);
  }
  return absl::InvalidArgumentError(absl::StrCat("no schedule of kind \"", kind, "\"; there is ",
                                                 absl::StrJoin(ScheduleKinds(), ", "),
                                                 ", and from given costs, searched"));
}

}  // namespace fathom::schedule
