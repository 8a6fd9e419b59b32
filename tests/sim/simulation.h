// One seed's run: the real coordinator core and node daemons' cores, modelled rank processes, a
// network and a log that fail, an operator with a command line, all on one virtual clock.
#ifndef FATHOM_TESTS_SIM_SIMULATION_H_
#define FATHOM_TESTS_SIM_SIMULATION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/checkpoint_store.h"
#include "tests/sim/event_queue.h"
#include "tests/sim/invariants.h"
#include "tests/sim/network.h"
#include "tests/sim/random.h"
#include "tests/sim/rank_model.h"
#include "tests/sim/scenario.h"
#include "tests/sim/sim_coordinator.h"
#include "tests/sim/sim_node.h"
#include "tests/sim/streams.h"
#include "tests/sim/trace.h"

namespace fathom::sim {

struct RunResult {
  std::string violation;  // empty: all held
  uint64_t trace_hash = 0;
  int64_t events = 0;
  int64_t virtual_us = 0;
  int64_t records = 0;
  int64_t steps_redone = 0;
  int64_t epochs = 0;
};

class Simulation {
 public:
  // `verbose`: every event is printed.
  Simulation(Scenario scenario, bool verbose);
  RunResult Run();

 private:
  void BuildNodes();
  void ConnectStreams();
  void ScheduleAll();

  // --- Faults ---
  void Strike(const Fault& fault);
  void StrikeNode(const Fault& fault);
  void StrikeNetwork(const Fault& fault);
  void StrikeCoordinator(const Fault& fault);
  void Cut(Place from, Place to, int64_t length_us);
  void MendAll();

  // --- The operator ---
  void Issue(const Command& command, const std::string& request_id, int repeats);
  // The command's own status; NOT durable yet.
  absl::Status Apply(CoordinatorCore& core, Moment now, const Command& command,
                     const std::string& request_id);
  void OnAnswer(const Command& command, const std::string& request_id, const absl::Status& result);
  v1::SubmitJobRequest SubmitRequest(const JobPlan& job, const std::string& request_id) const;
  void TidyUp();

  bool AllDone() const;
  void CheckAtEnd();
  std::string WhatIsLeft() const;
  std::string NameOf(Place node) const { return nodes_[node]->name(); }

  const Scenario scenario_;
  EventQueue queue_;
  Random random_;
  Trace trace_;
  CheckpointStore checkpoints_;
  Invariants invariants_;
  Network network_;
  Streams streams_;
  RankModel ranks_;
  std::vector<std::unique_ptr<SimNode>> nodes_;
  std::unique_ptr<SimCoordinator> coordinator_;

  int64_t start_us_ = 0;
  bool mended_ = false;
  int requests_ = 0;
  std::map<int, std::string> id_of_;    // of accepted jobs
  std::set<std::string> answered_;      // requests
  std::set<int> cancelled_;             // jobs somebody asked to cancel
  std::map<int, std::string> refused_;  // submissions, and why
};

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_SIMULATION_H_
