// Who starts next, who is parked for whom, and what every waiting job waits for. Pure.
//
// The order: jobs that recover come before everything, then higher priority, then who queued first.
// Priority is strict: a job doesn't age, so one of low priority may wait for as long as higher ones
// come. A job gets all its devices at once or none (gang).
//
// In that order each job takes free devices. The first that finds too few may have others parked:
// the fewest, of those the lowest in priority, of those the newest; only jobs of lower priority
// that allow it and have run for kRunBeforePreemptionMs, or jobs of no higher priority whose time
// slice is over; and only if that is enough. If it isn't, this job is the head, and those behind it
// are only started where that can't delay it (EASY backfill): they end before enough devices are
// expected to come free for it, or need no more than it will leave over then. A running job without
// an expected end never ends in this calculation.
//
// A job over its user's quota is passed over, and holds up nobody.
//
// Devices are counted, not told apart: a job for which no plan was found although devices enough
// were free is handed in again with `cannot`, and is then the head.
#ifndef FATHOM_COORDINATOR_CORE_QUEUE_POLICY_H_
#define FATHOM_COORDINATOR_CORE_QUEUE_POLICY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/base/ids.h"

namespace fathom {

// A job that has just begun is not parked again at once.
inline constexpr int64_t kRunBeforePreemptionMs = 60'000;

struct WaitingJob {
  JobId id;
  std::string user;
  int32_t priority = 0;
  int64_t queued_ms = 0;
  int64_t number = 0;         // order of submission, between equals
  int64_t devices = 0;        // that it still needs
  double expected_hours = 0;  // of what is left of it; 0: not known
  bool recovering = false;    // placed by others, so never started here; and no quota holds it up
  std::string cannot;         // not empty: why there is no plan though devices are free
};

struct RunningJob {
  JobId id;
  std::string user;
  int32_t priority = 0;
  int64_t number = 0;
  int64_t devices = 0;  // held, as quotas count
  int64_t frees = 0;    // that a waiting job can use once this one is gone
  bool preemptible = true;
  bool can_park = true;          // all its ranks train
  bool parking = false;          // asked to already
  int64_t running_since_ms = 0;  // since it last left the queue; 0: it doesn't train yet
  double time_slice_s = 0;       // 0: none
  int64_t expected_end_ms = 0;   // 0: not known
  // Its first steps will tell soon: until then nobody overtakes on the strength of its end.
  bool end_known_soon = false;
};

struct Quotas {
  std::map<std::string, int64_t> devices_of;  // by user; "*": everybody without an entry
  // -1: none.
  int64_t Of(const std::string& user) const;
};

struct QueueInput {
  std::vector<WaitingJob> waiting;
  std::vector<RunningJob> running;
  int64_t free_devices = 0;   // that a new job could have now
  int64_t total_devices = 0;  // free or not
  Quotas quotas;
  int64_t now_ms = 0;  // on the same clock as the other times
};

struct QueuedJob {
  JobId id;
  bool start = false;
  bool over_quota = false;
  bool promised = false;  // all its devices are free or being given back
  JobId behind;           // the head that it is behind, if any
  std::string waits_for;  // empty if it starts
};

struct Parking {
  JobId job;
  JobId for_job;
  bool slice_over = false;  // because its time slice is over
};

struct QueueDecision {
  std::vector<QueuedJob> order;  // all that wait, first one first
  std::vector<Parking> parkings;
};

QueueDecision DecideQueue(const QueueInput& input);

// "needs 8 devices, the cluster has 4: 4 missing; start more worker daemons".
std::string ShortageOf(int64_t needed, int64_t free, int64_t total);

// "45 s", "12 min", "2.5 h".
std::string TimeInWords(double seconds);

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_QUEUE_POLICY_H_
