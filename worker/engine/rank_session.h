// The life of a rank process, as its daemon sees it over the channel: started with a plan,
// listening, connected once the peers are known, training, finished or failed. Told to stop, or
// left by its daemon, it ends at once.
#ifndef FATHOM_WORKER_ENGINE_RANK_SESSION_H_
#define FATHOM_WORKER_ENGINE_RANK_SESSION_H_

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "worker/agent/rank_channel.h"

namespace fathom::engine {

// Runs one rank to its end. OK: finished, or stopped by its daemon. An error has been reported to
// the daemon as "<STATUS_CODE>: message".
absl::Status RunRankSession(RankChannel channel, const Clock* clock);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_RANK_SESSION_H_
