// From what the ranks of a new epoch hold in memory to who sends which bytes to whom. Pure: every
// rank computes the same answer from the same inventories.
//
// Taken is the newest step of which every piece of every shard of the new layout lives somewhere. A
// shard that exists whole, of the same layout, is taken as one; otherwise it is put together from
// pieces of others, which may be of other layouts.
#ifndef FATHOM_WORKER_ENGINE_RESTORE_PLAN_H_
#define FATHOM_WORKER_ENGINE_RESTORE_PLAN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "worker/engine/state_layout.h"
#include "worker/engine/state_memory.h"

namespace fathom::engine {

// A whole shard in a rank's memory.
struct StateOffer {
  std::shared_ptr<const StateLayout> layout;
  int shard = 0;
  int64_t step = 0;
  uint64_t epoch = 0;  // that made it
  uint64_t hash = 0;
  bool own = false;     // not a ward's
  bool struck = false;  // known to be bad
};

using Inventory = std::vector<StateOffer>;  // of one rank

struct StateSegment {
  int64_t from_offset = 0;  // bytes, in the source's shard
  int64_t to_offset = 0;    // in the target's
  int64_t bytes = 0;
};

struct StateTransfer {
  int from = 0;   // rank; may be the target itself
  int entry = 0;  // index in that rank's inventory
  int to = 0;
  bool whole = false;  // the source is this very shard
  std::vector<StateSegment> segments;

  int64_t bytes() const;
};

struct RestorePlan {
  int64_t step = 0;
  // In an order such that ranks that each work off theirs one after another never wait in a circle.
  std::vector<StateTransfer> transfers;
};

struct RestoreQuestion {
  std::shared_ptr<const StateLayout> target;
  std::vector<std::string> nodes;  // by rank of the target: near sources are preferred
  std::vector<Inventory> inventories;
  std::vector<RestorePoint> history;  // merged
  int64_t at_least = 0;               // older steps are of no use
};

struct RestoreAnswer {
  std::optional<RestorePlan> plan;
  // Without one: of the newest step found, what is missing; empty where nobody has anything.
  std::string missing;
};

RestoreAnswer PlanRestore(const RestoreQuestion& question);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_RESTORE_PLAN_H_
