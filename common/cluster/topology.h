// The cluster as the planner sees it: nodes, what each is part of, and what lies between two
// devices. Made from a resolved ClusterSpec; pure.
//
// Nodes stand pool by pool in the file's order; the last ones of a pool are its spares. Leaves,
// failure domains and scale-up domains are runs of neighbouring nodes of one pool, unless the
// cluster names its switches. A device uses its share of its node's NICs, NIC i being in plane
// i mod planes; to a device on other planes traffic takes one more hop inside a node.
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

  // Devices of a node beyond its own count are no devices; nor are nodes beyond nodes().
  Path Between(int node_a, int device_a, int node_b, int device_b) const;

 private:
  bool SharesPlane(int node_a, int device_a, int node_b, int device_b) const;

  v1::ClusterSpec spec_;
  std::vector<TopologyNode> nodes_;
  std::vector<int> profile_of_pool_;       // index into spec_.profiles
  std::vector<double> nic_share_of_pool_;  // GB/s per device, fabric's efficiency counted
  int leaves_ = 0;
};

}  // namespace fathom::cluster

#endif  // FATHOM_COMMON_CLUSTER_TOPOLOGY_H_
