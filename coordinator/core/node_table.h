// The nodes as they last reported, and whose lease has run out. Volatile: after a restart the nodes
// report again, and those that plans still name are expected for one lease.
//
// Two doubts before a node is called lost. When this program itself stood still (a suspended
// machine), all leases are extended by that pause; when most nodes fall silent at once (for half a
// lease), the fault is likelier on this side, and they get kMassSilenceLeases leases instead of
// one.
#ifndef FATHOM_COORDINATOR_CORE_NODE_TABLE_H_
#define FATHOM_COORDINATOR_CORE_NODE_TABLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/ids.h"
#include "proto/fathom/v1/cluster.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom {

// One moment on both clocks (common/base/clock.h).
struct Moment {
  int64_t wall_ms = 0;
  int64_t steady_ms = 0;
};

struct NodeEntry {
  v1::NodeReport report;  // newest; of an EXPECTED node only its name
  v1::NodeState state = v1::NODE_STATE_EXPECTED;
  std::string reason;
  int64_t last_seen_ms = 0;  // wall; 0: never
  int64_t last_seen_steady_ms = 0;
  bool connected = false;  // its stream is open

  bool IsUp() const { return state == v1::NODE_STATE_READY || state == v1::NODE_STATE_SPARE; }
};

// What a report changed.
struct NodeNews {
  bool came_up = false;  // the node was not up
  bool ranks = false;    // processes came, went or changed their state; or its devices did
};

class NodeTable {
 public:
  static constexpr int kMassSilenceLeases = 3;
  static constexpr int kMassSilenceNodesMin = 3;  // below, most nodes are too few to tell by

  explicit NodeTable(int64_t lease_ms) : lease_ms_(lease_ms) {}

  // INVALID_ARGUMENT: the report makes no sense. FAILED_PRECONDITION: a newer incarnation has
  // reported. RESOURCE_EXHAUSTED: too many nodes. Then nothing changes.
  absl::Status Report(const v1::NodeReport& report, Moment now, NodeNews* news);
  void Disconnect(const NodeName& name, int64_t incarnation);
  // Named by a plan, and not heard of yet.
  void Expect(const NodeName& name, Moment now);

  // Nodes that are lost from now on, with the reason in their entries.
  std::vector<NodeName> ExpireLeases(Moment now);
  // Lost before its lease ran out, as other signs say so; until it reports again.
  void Suspect(const NodeName& name, const std::string& reason);
  // At the last ExpireLeases most nodes were silent: likelier the fault of this side.
  bool MostAreSilent() const { return most_are_silent_; }

  const std::map<NodeName, NodeEntry>& nodes() const { return nodes_; }
  // Rises whenever what nodes offer, run or have passed changes, or whether they are up.
  uint64_t version() const { return version_; }
  const NodeEntry* Find(const NodeName& name) const;
  bool IsUp(const NodeName& name) const;

 private:
  absl::Status MakeRoom();

  const int64_t lease_ms_;
  std::map<NodeName, NodeEntry> nodes_;
  int64_t last_check_steady_ms_ = -1;
  bool most_are_silent_ = false;
  uint64_t version_ = 1;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_NODE_TABLE_H_
