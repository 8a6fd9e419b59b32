// A whole step of all ranks of a job on machines whose cores they share.
//
// Every rank has a program: work, and messages that it gives and waits for. Ranks that can run
// share their machine's cores equally (processor sharing, as a fair scheduler comes close to); one
// rank uses one core at most, for the CPU backend has one thread. A rank that waits takes no core.
// A group meets where each of its members waits until all have come as far (the exchange of tokens
// among the expert ranks, reductions): each arrival may carry bytes' worth of time until the others
// see it.
#ifndef FATHOM_COORDINATOR_PLANNER_CALIBRATION_SHARED_CORES_H_
#define FATHOM_COORDINATOR_PLANNER_CALIBRATION_SHARED_CORES_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace fathom::planner {

struct SharedAction {
  enum class Kind : uint8_t {
    kWork,  // `seconds` of a core that nobody shares
    kPost,  // a message into channel `index`, there after `seconds`
    kTake,  // waits for the channel's next message
    kJoin,  // tells group `index`, which hears of it after `seconds`
    kMeet,  // waits until every member of the group has joined as often as this rank
    kMark,  // notes the time, under `index`
  };
  Kind kind = Kind::kWork;
  int index = 0;
  double seconds = 0;
};

struct SharedMachine {
  double cores = 1;
  // How much longer work takes when two or more cores are busy: they share caches and memory, or
  // are the two threads of one physical core. 1: nothing.
  double slowdown = 1;
  // The same while more ranks can run than there are cores: taking turns, each finds its caches
  // filled by another.
  double turns_slowdown = 1;
};

struct SharedRank {
  int machine = 0;
  std::vector<SharedAction> program;
};

struct SharedGroup {
  std::vector<int> members;  // ranks
};

struct SharedTimes {
  struct Mark {
    double at = 0;
    double waited = 0;  // up to then
  };
  struct Rank {
    double finish = 0;
    double work = 0;     // seconds of a core of its own
    double waiting = 0;  // for others, until the end of the step
    std::vector<Mark> marks;
  };
  double makespan = 0;
  double core_seconds = 0;  // that cores were busy, on all machines
  std::vector<Rank> ranks;
};

// Channels are numbered from 0 to `channels` - 1; each has one sender and one receiver and holds
// any number of messages. INVALID_ARGUMENT: an index out of range, a time that is negative or no
// number. FAILED_PRECONDITION: ranks wait for each other for ever; says which rank waits at which
// action.
absl::StatusOr<SharedTimes> SimulateShared(const std::vector<SharedMachine>& machines,
                                           const std::vector<SharedRank>& ranks, int channels,
                                           const std::vector<SharedGroup>& groups);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_CALIBRATION_SHARED_CORES_H_
