// What a seed means: the cluster, the jobs, the operator's commands and the faults, with their
// times.
#ifndef FATHOM_TESTS_SIM_SCENARIO_H_
#define FATHOM_TESTS_SIM_SCENARIO_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/sim/network.h"

namespace fathom::sim {

enum class FaultKind {
  kNodeCrash,  // restarted after `length_us`
  kNodeLoss,   // restarted after `length_us` without its disk
  kNodeStop,   // SIGSTOP of daemon and ranks for `length_us`
  kSlowNode,   // its steps and messages take longer
  kRankCrash,
  kTornCommit,  // a node dies within a step's commit
  kStreamReset,
  kCutFromCoordinator,  // both ways
  kDeafNode,            // hears nothing of the coordinator
  kMuteNode,            // isn't heard by it
  kCutBetweenNodes,     // one way
  kCoordinatorCrash,
  kCoordinatorStop,
  kStore,       // `detail` is a StoreFault
  kWallClock,   // jumps by `detail` microseconds
  kLateReport,  // a report is handled twice
};

struct Fault {
  FaultKind kind = FaultKind::kNodeCrash;
  int64_t at_us = 0;
  int64_t length_us = 0;
  Place node = 0;
  Place other = 0;
  int64_t detail = 0;
};

enum class CommandKind { kSubmit, kCancel, kSuspend, kResume, kDrain, kUndrain, kCordon };

struct Command {
  CommandKind kind = CommandKind::kSubmit;
  int64_t at_us = 0;
  int job = 0;  // by number in the scenario
  Place node = 0;
  Place other = -1;  // drain: the replacement; -1: any
  int repeats = 0;   // after its answer
};

struct JobPlan {
  std::string name;
  int experts = 1;
  int replicas = 1;
  int64_t micro_batches = 1;
  int64_t steps = 20;
  int64_t checkpoint_every = 10;
  int priority = 0;
};

struct NodePlan {
  int devices = 1;
  bool spare = false;
};

struct Scenario {
  uint64_t seed = 0;
  std::vector<NodePlan> nodes;
  std::vector<JobPlan> jobs;
  std::vector<Command> commands;
  std::vector<Fault> faults;
  int64_t faults_end_us = 0;  // all is mended then
  // Only drains and suspensions disturb: no step may be lost or redone.
  bool only_drains = false;
  // Only the coordinator fails: no rank may notice.
  bool only_coordinator = false;
};

Scenario MakeScenario(uint64_t seed);

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_SCENARIO_H_
