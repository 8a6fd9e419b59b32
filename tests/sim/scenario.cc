#include "tests/sim/scenario.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/sim/event_queue.h"
#include "tests/sim/random.h"

namespace fathom::sim {
namespace {

void AddCluster(Random& random, Scenario* scenario) {
  const int64_t nodes = random.Between(3, 6);
  for (int64_t i = 0; i < nodes; ++i) {
    NodePlan node;
    node.devices = static_cast<int>(random.Between(1, 3));
    node.spare = i > 1 && random.Chance(25);
    scenario->nodes.push_back(node);
  }
}

int DevicesOf(const Scenario& scenario) {
  int devices = 0;
  for (const NodePlan& node : scenario.nodes) devices += node.spare ? 0 : node.devices;
  return devices;
}

void AddJobs(Random& random, Scenario* scenario) {
  const int64_t jobs = random.Chance(10) ? random.Between(4, 8) : random.Between(1, 3);
  const int devices = DevicesOf(*scenario);
  for (int64_t i = 0; i < jobs; ++i) {
    JobPlan job;
    job.name = absl::StrCat("job", i);
    const auto ranks = static_cast<int>(random.Between(1, std::min(devices, 8)));
    job.replicas = random.Chance(40) ? static_cast<int>(random.Between(1, ranks)) : 1;
    job.experts = std::max(1, ranks / job.replicas);
    job.micro_batches = random.Between(1, 4);
    job.steps = random.Between(15, 40);
    job.checkpoint_every = random.Between(0, 2) * 6;
    job.priority = random.Chance(20) ? static_cast<int>(random.Between(-2, 2)) : 0;
    scenario->jobs.push_back(job);
    Command submit;
    submit.job = static_cast<int>(i);
    submit.at_us = random.Between(0, random.Chance(50) ? 500 * kMs : 4 * kSecond);
    submit.repeats = random.Chance(30) ? static_cast<int>(random.Between(1, 3)) : 0;
    scenario->commands.push_back(submit);
  }
}

Place AnyNode(Random& random, const Scenario& scenario) {
  return static_cast<Place>(random.Between(0, static_cast<int64_t>(scenario.nodes.size()) - 1));
}

FaultKind AnyCoordinatorFault(Random& random) {
  static constexpr FaultKind kKinds[] = {
      FaultKind::kCoordinatorCrash,
      FaultKind::kCoordinatorStop,
      FaultKind::kStore,
      FaultKind::kStore,
      FaultKind::kWallClock,
      FaultKind::kStreamReset,
      FaultKind::kLateReport,
  };
  return kKinds[random.Next() % std::size(kKinds)];
}

void AddFault(Random& random, Scenario* scenario) {
  static constexpr FaultKind kKinds[] = {
      FaultKind::kNodeCrash,       FaultKind::kNodeCrash,
      FaultKind::kNodeLoss,        FaultKind::kNodeStop,
      FaultKind::kSlowNode,        FaultKind::kRankCrash,
      FaultKind::kRankCrash,       FaultKind::kTornCommit,
      FaultKind::kStreamReset,     FaultKind::kDeafNode,
      FaultKind::kMuteNode,        FaultKind::kCutFromCoordinator,
      FaultKind::kStore,           FaultKind::kCoordinatorCrash,
      FaultKind::kCoordinatorStop, FaultKind::kStore,
      FaultKind::kCutBetweenNodes, FaultKind::kWallClock,
      FaultKind::kLateReport,      FaultKind::kStore,
  };
  Fault fault;
  fault.kind = scenario->only_coordinator ? AnyCoordinatorFault(random)
                                          : kKinds[random.Next() % std::size(kKinds)];
  // Mostly while the first jobs start and train.
  fault.at_us =
      random.Between(200 * kMs, random.Chance(65) ? 4 * kSecond : scenario->faults_end_us);
  // Shorter than a lease, or longer.
  fault.length_us =
      random.Chance(50) ? random.Between(50, 1500) * kMs : random.Between(1500, 6000) * kMs;
  fault.node = AnyNode(random, *scenario);
  fault.other = AnyNode(random, *scenario);
  if (fault.kind == FaultKind::kStore) fault.detail = random.Between(1, 5);
  if (fault.kind == FaultKind::kWallClock) {
    fault.detail = random.Between(-3600, 3600) * kSecond;
  }
  scenario->faults.push_back(fault);
}

void AddNodeCommand(Random& random, Scenario* scenario, bool only_drains) {
  Command command;
  const int64_t kind = only_drains ? 0 : random.Between(0, 9);
  command.kind = kind < 6   ? CommandKind::kDrain
                 : kind < 8 ? CommandKind::kCordon
                            : CommandKind::kUndrain;
  command.at_us = random.Between(500 * kMs, scenario->faults_end_us);
  command.node = AnyNode(random, *scenario);
  if (random.Chance(25)) command.other = AnyNode(random, *scenario);
  command.repeats = random.Chance(20) ? 1 : 0;
  scenario->commands.push_back(command);
  if (command.kind != CommandKind::kUndrain && random.Chance(50)) {
    command.kind = CommandKind::kUndrain;
    command.at_us += random.Between(200, 4000) * kMs;
    scenario->commands.push_back(command);
  }
}

void AddJobCommand(Random& random, Scenario* scenario) {
  Command command;
  const int64_t kind = random.Between(0, 9);
  command.kind = kind < 3 ? CommandKind::kCancel : CommandKind::kSuspend;
  command.at_us = random.Between(500 * kMs, scenario->faults_end_us);
  command.job =
      static_cast<int>(random.Between(0, static_cast<int64_t>(scenario->jobs.size()) - 1));
  command.repeats = random.Chance(20) ? 1 : 0;
  scenario->commands.push_back(command);
  if (command.kind == CommandKind::kSuspend && random.Chance(70)) {
    command.kind = CommandKind::kResume;
    command.at_us += random.Between(100, 4000) * kMs;
    scenario->commands.push_back(command);
  }
}

}  // namespace

Scenario MakeScenario(uint64_t seed) {
  Random random(Mix(0x5eed, seed));
  Scenario scenario;
  scenario.seed = seed;
  scenario.faults_end_us = random.Between(3, 9) * kSecond;
  scenario.only_drains = seed % 8 == 0;
  scenario.only_coordinator = seed % 8 == 4;
  AddCluster(random, &scenario);
  AddJobs(random, &scenario);
  const int64_t node_commands = scenario.only_drains ? random.Between(1, 3)
                                : random.Chance(40)  ? random.Between(1, 3)
                                                     : 0;
  for (int64_t i = 0; i < node_commands; ++i) {
    AddNodeCommand(random, &scenario, scenario.only_drains);
  }
  if (!scenario.only_coordinator && random.Chance(30)) AddJobCommand(random, &scenario);
  if (scenario.only_drains) return scenario;
  const int64_t faults = random.Between(0, 5);
  for (int64_t i = 0; i < faults; ++i) AddFault(random, &scenario);
  return scenario;
}

}  // namespace fathom::sim
