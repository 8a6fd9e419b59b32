// A node's daemon and its ranks as the coordinator sees them, without processes: ranks do at once
// what their node's desired state asks. No I/O, clocks or threads.
//
// A rank listens as soon as it is listed, and trains as soon as its peers are. Step numbers come
// from outside, so that all ranks of a job agree.
#ifndef FATHOM_TESTS_BENCH_FLEET_SIMULATED_NODE_H_
#define FATHOM_TESTS_BENCH_FLEET_SIMULATED_NODE_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "proto/fathom/v1/worker.pb.h"

namespace fathom::fleet {

struct NodeShape {
  std::string name;
  std::string failure_domain;
  int devices = 8;
  bool spare = false;
};

class SimulatedNode {
 public:
  // `finish_at_once`: a rank that trains has finished with the next report.
  SimulatedNode(NodeShape shape, bool finish_at_once);

  // What is, with ranks that train at `step`.
  v1::NodeReport Report(int64_t step, int64_t now_ms);
  // Something has changed by itself since the last report.
  bool wants_report() const { return wants_report_; }
  // True if anything changed, and so wants a report.
  bool Obey(const v1::DesiredState& desired, int64_t step, int64_t now_ms);

  // Its ranks that train drop their epoch, as their connection to that node broke.
  void Blame(const std::string& node, int64_t now_ms);
  // One of its ranks dies. False: it has none that trains.
  bool FailRank();
  // The daemon and its ranks die, and a new daemon comes up.
  void Restart();

  const std::string& name() const { return shape_.name; }
  // Of the job's ranks here: the newest epoch that trains; 0: none.
  uint64_t TrainingEpoch(const std::string& job) const;
  bool HasJob(const std::string& job) const;
  // Jobs whose rank 0 finished here and was let go.
  int64_t ended_jobs() const { return ended_jobs_; }

 private:
  using Key = std::pair<std::string, uint64_t>;  // job, epoch
  using Ranks = std::map<int32_t, v1::RankStatus>;

  bool Start(const v1::DesiredJob& job, int64_t now_ms);
  bool Advance(const v1::DesiredJob& job, Ranks* ranks, int64_t step, int64_t now_ms);

  const NodeShape shape_;
  const bool finish_at_once_;
  int64_t incarnation_ = 1;
  uint64_t version_ = 0;
  bool wants_report_ = false;
  int64_t ended_jobs_ = 0;
  std::string preflight_;  // the id of the newest done
  std::map<Key, Ranks> ranks_;
};

}  // namespace fathom::fleet

#endif  // FATHOM_TESTS_BENCH_FLEET_SIMULATED_NODE_H_
