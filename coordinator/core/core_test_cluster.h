// A cluster for tests of the core: nodes that obey their desired states, a log that may refuse, and
// a clock that moves when told. Nothing runs by itself.
#ifndef FATHOM_COORDINATOR_CORE_CORE_TEST_CLUSTER_H_
#define FATHOM_COORDINATOR_CORE_CORE_TEST_CLUSTER_H_

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "coordinator/core/coordinator_core.h"

namespace fathom {

// Places ranks on the free devices in the order given; refuses one shape.
inline constexpr int32_t kUnplannablePipeline = 13;
// A step takes so long for each rank; plans of more ranks aren't predicted.
inline constexpr double kPredictedSecondsPerRank = 0.1;
inline constexpr int kPredictedRanksMax = 8;
PlanningFunctions SimplePlanning();

struct TestNode {
  using RankKey = std::tuple<std::string, uint64_t, int32_t>;  // job, epoch, rank
  std::string name;
  int devices = 0;
  bool spare = false;
  bool up = true;  // reports reach the coordinator, desired states reach it
  int64_t incarnation = 1;
  v1::DesiredState desired;
  std::map<RankKey, v1::RankStatus> ranks;

  v1::NodeReport Report() const;
  // Does what is desired: stops, starts, holds, parks, moves to a later epoch. Returns true if
  // anything changed. Ranks of a later epoch than the first stay LOADING until
  // TestCluster::Connect.
  bool Obey();

 private:
  void Start(const v1::Plan& plan, int32_t rank);
  // With the plan of an earlier epoch of its job that is desired too.
  bool SharesDevices(const v1::Plan& later) const;
};

class TestCluster {
 public:
  explicit TestCluster(const v1::Detectors& detectors = {});

  TestNode& AddNode(const std::string& name, int devices, bool spare = false);
  // Ranks = expert * replicas of a job that trains `steps` steps of 12 micro-batches per lane.
  static v1::SubmitJobRequest JobOf(int ranks, const std::string& name = "", int64_t steps = 100,
                                    int replicas = 1);
  // Submit, commit, and the id; CHECKs that it is accepted.
  std::string Submit(int ranks, const std::string& name = "", int64_t steps = 100,
                     int replicas = 1);
  // The same for a drain.
  v1::DrainNodeResponse Drain(const std::string& node, const std::string& replacement = "",
                              double deadline_s = 0);

  // Appends records to the log (unless it refuses), then delivers desired states to nodes that are
  // up. False: the log refused, and the core rolled back.
  bool Commit();
  // Every node that is up obeys and reports, until nothing changes.
  void Settle();
  // Ranks of epochs that are LOADING as a whole go on to TRAINING.
  bool Connect();
  void ReportAll();
  void Report(TestNode& node);
  void Advance(int64_t ms, bool tick = true);
  // Ranks of the job's newest epoch.
  std::vector<v1::RankStatus*> Ranks(const std::string& job);
  v1::RankStatus& Rank(const std::string& job, int32_t rank);
  void StepTo(const std::string& job, int64_t step);
  void Checkpoint(const std::string& job, int64_t step);
  void Finish(const std::string& job);

  v1::JobStatus Job(const std::string& job) const;
  std::string State(const std::string& job) const;  // "RUNNING"
  // "a0 a1 b0": node and device of each rank.
  std::string Placement(const std::string& job) const;
  std::vector<std::string> Events(const std::string& kind) const;  // their messages

  // A new core from the log alone; the nodes go on as they are, and know nothing of it yet.
  void RestartCoordinator();
  // The fingerprint of a state folded from the log.
  std::string Replayed() const;

  std::unique_ptr<CoordinatorCore> core;
  std::vector<v1::Record> log;
  std::map<std::string, TestNode> nodes;
  Moment now{1'700'000'000'000, 50'000};
  bool log_refuses = false;

 private:
  CoreOptions options_;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_CORE_TEST_CLUSTER_H_
