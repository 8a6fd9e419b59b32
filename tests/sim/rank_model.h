// Rank processes as far as the coordinator and the daemons can tell them from real ones: they obey
// RankStart, RankPeers, RankHold, RankPark and RankStop (worker.proto, docs/recovery.md), connect
// when all ranks of an epoch are there and reach each other, take steps in lockstep, keep the
// newest two steps of their own shard and of their ward's, save checkpoints, and report events.
//
// The training state is a step number, a data cursor and a hash chained over both. Everything that
// the processes of one epoch do together is one World, which sees all of them at once; what each
// process may know is in its Process.
#ifndef FATHOM_TESTS_SIM_RANK_MODEL_H_
#define FATHOM_TESTS_SIM_RANK_MODEL_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "proto/fathom/v1/worker.pb.h"
#include "tests/sim/checkpoint_store.h"
#include "tests/sim/event_queue.h"
#include "tests/sim/invariants.h"
#include "tests/sim/network.h"
#include "tests/sim/random.h"
#include "tests/sim/trace.h"

namespace fathom::sim {

struct RankModelOptions {
  EventQueue* queue = nullptr;
  Network* network = nullptr;
  Random* random = nullptr;
  Trace* trace = nullptr;
  Invariants* invariants = nullptr;
  CheckpointStore* checkpoints = nullptr;
  int64_t step_us = 100 * kMs;
  // To the node's daemon.
  std::function<void(Place node, int pid, const v1::RankEvent& event)> emit;
  std::function<void(Place node, int pid, bool exit_code_zero)> exited;
};

class RankModel {
 public:
  explicit RankModel(RankModelOptions options) : options_(std::move(options)) {}

  // --- What a daemon does with its ranks ---
  int Spawn(Place node);
  void Send(int pid, const v1::RankCommand& command);
  void Kill(int pid);

  // --- Faults ---
  void NodeDown(Place node);  // its processes are gone, and nobody hears of it
  void Crash(int pid);        // one process
  // SIGSTOP and SIGCONT of all processes of a node.
  void SetNodeStopped(Place node, bool stopped);
  void NetworkChanged();
  // At the next step that a world with a rank on `node` commits, only some of its ranks commit it;
  // then `crash` is called.
  void TearNextCommit(Place node, std::function<void()> crash);

  void ForgetTears() { torn_.clear(); }

  std::vector<int> PidsOn(Place node) const;
  bool AnyAliveOf(const std::string& job) const;

 private:
  enum class Phase { kListening, kConnecting, kLoading, kTraining, kHeld };

  // A place in one epoch.
  struct Seat {
    uint64_t epoch = 0;
    int32_t rank = -1;  // -1: leaves with the others
    std::shared_ptr<const v1::Plan> plan;
    std::string directory;
    Phase phase = Phase::kListening;
    std::vector<std::string> table;  // endpoints by rank, once known
    bool park = false;
  };
  struct Piece {
    int32_t layout = 0;  // ranks of its epoch
    int32_t shard = 0;
    int64_t step = 0;
    uint64_t hash = 0;
  };
  struct Process {
    int pid = 0;
    Place node = 0;
    bool alive = true;
    bool stopped = false;
    bool ending = false;
    std::optional<Seat> seat;
    std::optional<Seat> next;
    std::vector<Piece> memory;
    std::vector<v1::RankCommand> inbox;  // unread while stopped
    std::string endpoint;
  };
  using WorldKey = std::pair<std::string, uint64_t>;  // job, epoch
  enum class Stage { kGathering, kLoading, kTraining, kSaving, kOver };
  struct World {
    WorldKey key;
    std::shared_ptr<const v1::Plan> plan;
    std::string directory;
    std::vector<int> pids;  // by rank; 0: not here yet
    Stage stage = Stage::kGathering;
    int64_t step = 0;
    uint64_t hash = 0;
    int64_t cursor = 0;  // samples
    int64_t saving_step = 0;
    int64_t saved_at_us = 0;
    int64_t saved_step = 0;
    int64_t stalled_since_us = 0;
    bool parking = false;
    bool moving = false;  // saves before it moves on
  };

  Process* Find(int pid);
  World* WorldOf(const Process& process);
  void After(int64_t delay_us, EventQueue::Action action) {
    options_.queue->After(delay_us, std::move(action));
  }

  void Obey(Process& process, const v1::RankCommand& command);
  void Start(Process& process, const v1::RankStart& start);
  void TakePeers(Process& process, const v1::RankPeers& peers);
  void Hold(Process& process, uint64_t epoch, const std::string& reason, const std::string& blamed);
  void TellHeld(const Process& process, uint64_t epoch, const std::string& reason,
                const std::string& blamed);
  void Diagnose(const Process& process, uint64_t token);
  void End(Process& process, bool zero, int64_t delay_us);
  void Remove(Process& process);

  void Connect(Process& process);
  void TryGather(World& world);
  void Load(const WorldKey& key);
  // The newest whole state that memory or disk has.
  void Restore(World& world, std::string* source);
  bool NewestInMemory(const World& world, Piece* newest);
  void ScheduleStep(const World& world);
  void StepEnd(const WorldKey& key);
  bool StallsOn(World& world);
  void Commit(World& world);
  void CopyToBuddy(const World& world, const Process& process, int64_t step);
  void CommitOn(World& world, Process& process);
  bool Tear(World& world);
  void AtBoundary(World& world);
  bool MoveOn(World& world);
  void Save(World& world);
  void AwaitSave(const WorldKey& key);
  void Publish(World& world);
  void FinishAll(World& world);
  void ParkAll(World& world);
  void Break(World& world, const std::string& why, const std::string& blamed, bool at_once);
  bool IsRunnable(const Process& process) const { return process.alive && !process.stopped; }
  bool Intact(const World& world, std::string* blamed);
  void Remember(Process& process, const Piece& piece);

  void Emit(const Process& process, uint64_t epoch, v1::RankEvent event);
  int64_t WallMs() const { return (kWallStartUs + options_.queue->now_us()) / kMs; }

  RankModelOptions options_;
  int next_pid_ = 1;
  std::map<int, Process> processes_;
  std::map<WorldKey, World> worlds_;
  std::map<Place, std::function<void()>> torn_;
};

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_RANK_MODEL_H_
