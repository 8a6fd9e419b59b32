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
  // Does what is desired: stops, starts, connects. Returns true if anything changed.
  bool Obey();
};

class TestCluster {
 public:
  TestCluster();

  TestNode& AddNode(const std::string& name, int devices, bool spare = false);
  // Ranks = expert * 1 of a job that trains `steps` steps.
  static v1::SubmitJobRequest JobOf(int ranks, const std::string& name = "", int64_t steps = 100);
  // Submit, commit, and the id; CHECKs that it is accepted.
  std::string Submit(int ranks, const std::string& name = "", int64_t steps = 100);

  // Appends records to the log (unless it refuses), then delivers desired states to nodes that are
  // up. False: the log refused, and the core rolled back.
  bool Commit();
  // Every node that is up obeys and reports, until nothing changes.
  void Settle();
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
