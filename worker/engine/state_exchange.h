// The start of an epoch: its ranks tell each other what state they hold in memory, work out the
// newest step of which all of it lives (restore_plan), and send each other what is missing.
//
// What is used is checked against the hash it was made with: at its source before it is sent, on
// the way message by message, and whole where a whole shard arrived. What is found bad is struck
// out, and all work it out again from what is left.
#ifndef FATHOM_WORKER_ENGINE_STATE_EXCHANGE_H_
#define FATHOM_WORKER_ENGINE_STATE_EXCHANGE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/engine/rank_parts.h"

namespace fathom::engine {

// All ranks of the epoch together. Restores the newest state in memory that is of step `at_least`
// or later: the optimizer's current buffer holds it, the routers' biases are set, weights are not.
// The report's source is then "memory"; it is empty where memory doesn't have such a state, and its
// note says why. Errors: as the transport.
absl::StatusOr<v1::RestoreReport> RestoreFromMemory(RankParts* parts, int64_t at_least);

// All ranks agreed that this epoch goes on from the state after `step`, from wherever it came.
void RecordRestore(RankParts* parts, int64_t step);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_STATE_EXCHANGE_H_
