// Many simulated nodes as clients of one coordinator, over its real gRPC services: a Synchronize
// stream each, reports once per heartbeat and at once after a change. Also the operator's calls
// that the bench makes.
#ifndef FATHOM_TESTS_BENCH_FLEET_FLEET_CLIENT_H_
#define FATHOM_TESTS_BENCH_FLEET_FLEET_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/operator.pb.h"
#include "tests/bench/fleet/simulated_node.h"

namespace fathom::fleet {

struct FleetOptions {
  std::string address;
  std::vector<NodeShape> nodes;
  int nodes_per_channel = 1;  // connections are shared by so many streams
  absl::Duration heartbeat = absl::Seconds(1);
  bool finish_at_once = false;
  const Clock* clock = nullptr;
};

// When a desired state brought a node a job's epoch for the first time.
struct Arrival {
  int node = 0;
  uint64_t epoch = 0;
  bool had_job = false;  // ranks of an earlier epoch were there
  absl::Duration at;     // on the clock's steady side
};

class FleetClient {
 public:
  // Connects all nodes and begins to report.
  explicit FleetClient(FleetOptions options);
  ~FleetClient();

  int size() const;

  // --- Faults ---
  // The node's stream breaks, and it is heard no more until Revive.
  void Kill(int node);
  void Revive(int node);
  // Ranks of each of these nodes drop their epoch and blame `lost`.
  void Blame(const std::vector<int>& nodes, int lost);
  // A rank on the node dies. False: none trains there.
  bool FailRank(int node);

  // --- What the nodes see ---
  std::vector<Arrival> Arrivals(const std::string& job);  // since the last call
  // Nodes whose ranks of the job all train in this epoch or a later one.
  int TrainingNodes(const std::string& job, uint64_t epoch);
  std::vector<int> NodesOf(const std::string& job);
  // Waits until `done`, looking again after each desired state that arrives. False: the time is up.
  bool Await(const std::function<bool()>& done, absl::Duration limit);
  int64_t reports() const;  // sent so far
  int64_t EndedJobs();      // that finished here, and whose nodes were told so

  // --- The operator's calls ---
  absl::StatusOr<v1::SubmitJobResponse> Submit(const v1::SubmitJobRequest& request);
  absl::StatusOr<v1::JobStatus> GetJob(const std::string& job);
  absl::StatusOr<int64_t> CountJobs();  // that the coordinator knows; also: it answers
  // Many, with at most `unfinished` accepted ones that have not ended.
  absl::Status SubmitMany(const std::vector<v1::SubmitJobRequest>& requests, int64_t unfinished);
  // Jobs in states that are not final.
  absl::StatusOr<int64_t> CountUnfinished();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Until the coordinator answers a call, or the limit. Returns how many jobs it knows.
absl::StatusOr<int64_t> AwaitAnswer(const std::string& address, absl::Duration limit);

}  // namespace fathom::fleet

#endif  // FATHOM_TESTS_BENCH_FLEET_FLEET_CLIENT_H_
