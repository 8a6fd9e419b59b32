// The cluster as the planner sees it: nodes, what each is part of, and what lies between two
// devices. Made from a resolved ClusterSpec; pure.
#ifndef FATHOM_COMMON_CLUSTER_TOPOLOGY_H_
#define FATHOM_COMMON_CLUSTER_TOPOLOGY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::cluster {

struct TopologyNode {
  std::string name;
  int pool = 0;  // index into ClusterSpec.pools
  int devices = 0;
  int leaf = 0;             // index, over the whole cluster
  int failure_domain = 0;   // index, over the whole cluster
  int scale_up_domain = 0;  // index, over the whole cluster; nodes of one domain share it
  bool spare = false;
};

enum class Hop : uint8_t { kSameDevice, kScaleUp, kSameLeaf, kOtherLeaf };

// Between two devices, one way, for one of the pairs that use it at once.
struct Path {
  Hop hop = Hop::kSameDevice;
  double gigabytes_per_second = 0;  // what transfers reach, efficiency and oversubscription counted
  double latency_us = 0;
};

class Topology {
 public:
  // `spec`: resolved (ResolveCluster).
  explicit Topology(v1::ClusterSpec spec);

  const v1::ClusterSpec& spec() const { return spec_; }
  const std::vector<TopologyNode>& nodes() const { return nodes_; }
  const v1::Pool& pool_of(int node) const;
  const v1::DeviceProfile& profile_of(int node) const;
  int leaves() const { return leaves_; }
  int devices() const;  // of nodes that are no spares

  Path Between(int node_a, int device_a, int node_b, int device_b) const;

 private:
  v1::ClusterSpec spec_;
  std::vector<TopologyNode> nodes_;
  std::vector<int> profile_of_pool_;  // index into spec_.profiles
  int leaves_ = 0;
};

}  // namespace fathom::cluster

#endif  // FATHOM_COMMON_CLUSTER_TOPOLOGY_H_
