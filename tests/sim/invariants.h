// What must hold after every event of a run. Each observation is checked when it is made; the first
// that breaks a rule is kept with its words.
#ifndef FATHOM_TESTS_SIM_INVARIANTS_H_
#define FATHOM_TESTS_SIM_INVARIANTS_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "proto/fathom/v1/record.pb.h"
#include "proto/fathom/v1/worker.pb.h"
#include "tests/sim/checkpoint_store.h"
#include "tests/sim/network.h"
#include "tests/sim/trace.h"

namespace fathom::sim {

int64_t SamplesPerStep(const v1::JobSpec& spec);

// A rank's training state after `step` steps, the same wherever it was computed.
uint64_t StateAfter(uint64_t before, int64_t step, int64_t cursor);
// What a job reports as its weights' hash at the end.
std::string WeightsName(uint64_t state);

class Invariants {
 public:
  Invariants(Trace* trace, const CheckpointStore* checkpoints)
      : trace_(trace), checkpoints_(checkpoints) {}

  bool broken() const { return !violation_.empty(); }
  const std::string& violation() const { return violation_; }
  void Violate(const std::string& text);

  // --- The log ---
  void OnAppended(const v1::Record& record);
  uint64_t appended() const { return appended_; }
  // An acknowledged command is durable, and its request was applied once.
  void OnAcknowledged(const std::string& request_id);

  // --- The coordinator's words ---
  void OnDesiredSent(Place node, const v1::DesiredState& desired);
  void OnReportTaken(Place node, int64_t incarnation, bool accepted);
  void OnCoordinatorStarted();
  // The daemon acts on a state that was wished when `appended` records were durable.
  void OnDesiredTaken(Place node, uint64_t appended, int64_t now_us);

  // --- Ranks ---
  void OnSpawn(Place node, int32_t device, int pid);
  void OnGone(int pid);
  void OnTrains(const std::string& job, uint64_t epoch, int32_t rank, int pid);
  void OnLeaves(int pid);
  // The first rank of this epoch commits `step`; `nodes` are those of all its ranks.
  void OnStep(const std::string& job, uint64_t epoch, int64_t step, int64_t cursor, uint64_t hash,
              const std::set<Place>& nodes, int64_t now_us);
  void OnRestored(const std::string& job, int64_t step, int64_t cursor, uint64_t hash);
  void OnPublished(const std::string& job, int64_t step, uint64_t hash);

  // --- Jobs ---
  int64_t BatchOf(const std::string& job) const;
  // The job's state after `step` steps.
  uint64_t HashOf(const std::string& job, int64_t step);
  uint64_t newest_epoch(const std::string& job) const;
  int64_t redone(const std::string& job) const;
  // Of every job that the log knows: its last state.
  const std::map<std::string, v1::JobState>& job_states() const { return states_; }

 private:
  struct JobFacts {
    int64_t steps = 0;
    int64_t batch = 0;
    std::vector<uint64_t> hash_after;  // by step
    int64_t furthest = 0;
    int64_t redone = 0;
    uint64_t newest_committing = 0;       // epoch
    std::map<uint64_t, uint64_t> epochs;  // durable plans: epoch -> records durable by then
    uint64_t newest_epoch = 0;
    uint64_t present_epoch = 0;                                             // recorded
    std::map<uint64_t, std::set<std::pair<std::string, int32_t>>> devices;  // of plans, by epoch
  };
  void CheckJobChange(const v1::Record& record);
  void CheckPlan(const v1::Plan& plan);
  void CheckPlaces(const v1::Plan& plan, JobFacts& facts);

  Trace* const trace_;
  const CheckpointStore* const checkpoints_;
  std::string violation_;
  uint64_t appended_ = 0;
  std::map<std::string, JobFacts> jobs_;
  std::map<std::string, v1::JobState> states_;
  std::set<std::string> closed_;        // nodes drained or cordoned
  std::map<std::string, int> applied_;  // request id -> times
  std::map<std::pair<Place, int32_t>, int> device_holder_;
  std::map<int, std::pair<Place, int32_t>> device_of_;
  std::map<std::tuple<std::string, uint64_t, int32_t>, int> trainer_;
  std::map<int, std::tuple<std::string, uint64_t, int32_t>> trains_;
  std::map<Place, int64_t> newest_incarnation_;
  struct Told {
    uint64_t appended = 0;
    int64_t since_us = 0;
  };
  std::map<Place, std::vector<Told>> told_;
};

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_INVARIANTS_H_
