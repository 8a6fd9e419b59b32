// For tests of recovery: the epochs of a job one after another, every rank a thread with real
// windows, on memories of state that outlive the epochs as a process's would.
#ifndef FATHOM_WORKER_ENGINE_EPOCH_THREADS_H_
#define FATHOM_WORKER_ENGINE_EPOCH_THREADS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "proto/fathom/v1/plan.pb.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/engine/rank_parts.h"
#include "worker/engine/state_memory.h"
#include "worker/engine/train_loop.h"

namespace fathom::engine {

// What a rank process keeps, by rank; null: keeps nothing beyond the epoch.
using Memories = std::vector<std::unique_ptr<StateMemory>>;
Memories FreshMemories(int ranks);

struct EpochSetting {
  v1::Plan plan;
  int64_t stop_after = 0;      // steps done
  bool shared_memory = false;  // between all ranks, whatever nodes the plan says
  std::string checkpoint_directory;
  // From this operation of its window on (puts, signals and waits, counted from 0) the victim gets
  // errors and its peers nothing.
  int victim = -1;
  int64_t dies_at = 0;
  // After Restore and after every step, on the rank's thread; an error ends the rank.
  std::function<absl::Status(RankParts& parts, TrainLoop& loop)> between;
};

struct RankOutcome {
  absl::Status status;
  int64_t steps_done = 0;
  int64_t operations = 0;
  v1::RestoreReport restored;
  std::vector<v1::StepReport> steps;
  uint64_t state_hash = 0;  // of masters, moments and biases at the end
};

// Memories are used by the ranks of the same numbers.
std::vector<RankOutcome> RunEpoch(const EpochSetting& setting, const Memories& memories);

// The bytes of every tensor of masters, moments and biases, put together from the ranks' shards.
// Ranks may add theirs at once.
class TensorCollector {
 public:
  void Add(const ShardState& state);
  // By tensor; those of which a part is missing are a test failure.
  std::map<std::string, std::string> Tensors() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::string> bytes_;                           // guarded by mutex_
  std::map<std::string, std::set<std::pair<int64_t, int64_t>>> have_;  // guarded by mutex_
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_EPOCH_THREADS_H_
