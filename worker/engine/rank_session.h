// The life of a rank process, as its daemon sees it over the channel. It outlives epochs: in each
// it listens, connects once the peers are known, loads and trains; it leaves one for the next
// together with the others at a step boundary, or drops it at once when told to or when its peers
// fail it, and then waits, held, for a later one.
//
// It ends when the job is finished or parked, with its own fault, or when it's told to stop or its
// daemon is gone.
#ifndef FATHOM_WORKER_ENGINE_RANK_SESSION_H_
#define FATHOM_WORKER_ENGINE_RANK_SESSION_H_

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "worker/agent/rank_channel.h"

namespace fathom::engine {

// Runs one rank process to its end. OK: finished, parked, left at a boundary without a place in the
// next epoch, or stopped by its daemon. An error has been reported to the daemon as
// "<STATUS_CODE>: message".
absl::Status RunRankSession(RankChannel channel, const Clock* clock);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_RANK_SESSION_H_
