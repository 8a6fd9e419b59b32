#include "common/cluster/topology.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/cluster/switch_graph.h"

namespace fathom::cluster {
namespace {

int Groups(int members, int size) { return (members + size - 1) / size; }

// First and one past the last NIC of a device's share.
std::pair<int, int> NicsOf(const v1::Pool& pool, int device) {
  const int first = device * pool.nics_per_node() / pool.devices_per_node();
  const int end = (device + 1) * pool.nics_per_node() / pool.devices_per_node();
  return {first, std::max(end, first + 1)};
}

}  // namespace

Topology::Topology(v1::ClusterSpec spec) : spec_(std::move(spec)) {
  const auto leaf_of_node = LeavesOfNodes(spec_);
  FATHOM_CHECK(leaf_of_node.ok()) << leaf_of_node.status().ToString();
  const bool switches = !spec_.fabric().switches().empty();
  int failure_domains = 0;
  int scale_up_domains = 0;
  for (int p = 0; p < spec_.pools_size(); ++p) {
    const v1::Pool& pool = spec_.pools(p);
    const auto profile =
        std::find_if(spec_.profiles().begin(), spec_.profiles().end(),
                     [&](const v1::DeviceProfile& one) { return one.kind() == pool.device(); });
    FATHOM_CHECK(profile != spec_.profiles().end()) << pool.device();
    FATHOM_CHECK(pool.devices_per_node() > 0 && pool.nics_per_node() > 0) << pool.name();
    profile_of_pool_.push_back(static_cast<int>(profile - spec_.profiles().begin()));
    nic_share_of_pool_.push_back(pool.nic_gigabits_per_second() / 8 * pool.nics_per_node() /
                                 pool.devices_per_node() * spec_.fabric().efficiency());
    const int nodes_per_domain = std::max(pool.scale_up_devices() / pool.devices_per_node(), 1);
    for (int i = 0; i < pool.nodes(); ++i) {
      TopologyNode node;
      node.name = NodeName(pool, i);
      node.pool = p;
      node.devices = pool.devices_per_node();
      node.leaf = switches ? (*leaf_of_node)[nodes_.size()] : leaves_ + i / pool.nodes_per_leaf();
      node.failure_domain = failure_domains + i / pool.nodes_per_failure_domain();
      node.scale_up_domain = scale_up_domains + i / nodes_per_domain;
      node.spare = i >= pool.nodes() - pool.spares();
      nodes_.push_back(std::move(node));
    }
    if (!switches) leaves_ += Groups(pool.nodes(), pool.nodes_per_leaf());
    failure_domains += Groups(pool.nodes(), pool.nodes_per_failure_domain());
    scale_up_domains += Groups(pool.nodes(), nodes_per_domain);
  }
  if (switches) {
    leaves_ = 1 + *std::max_element(leaf_of_node->begin(), leaf_of_node->end());
  }
}

const v1::Pool& Topology::pool_of(int node) const { return spec_.pools(nodes_[node].pool); }

const v1::DeviceProfile& Topology::profile_of(int node) const {
  return spec_.profiles(profile_of_pool_[nodes_[node].pool]);
}

int Topology::devices() const {
  int devices = 0;
  for (const TopologyNode& node : nodes_) devices += node.spare ? 0 : node.devices;
  return devices;
}

bool Topology::SharesPlane(int node_a, int device_a, int node_b, int device_b) const {
  const int planes = spec_.fabric().planes();
  const auto [first_a, end_a] = NicsOf(pool_of(node_a), device_a);
  const auto [first_b, end_b] = NicsOf(pool_of(node_b), device_b);
  for (int a = first_a; a < std::min(end_a, first_a + planes); ++a) {
    for (int b = first_b; b < std::min(end_b, first_b + planes); ++b) {
      if (a % planes == b % planes) return true;
    }
  }
  return false;
}

Path Topology::Between(int node_a, int device_a, int node_b, int device_b) const {
  const TopologyNode& a = nodes_[node_a];
  const TopologyNode& b = nodes_[node_b];
  const v1::DeviceProfile& profile = profile_of(node_a);
  if (node_a == node_b && device_a == device_b) {
    return {Hop::kSameDevice, profile.memory_gigabytes_per_second(), 0};
  }
  if (a.scale_up_domain == b.scale_up_domain) {
    return {Hop::kScaleUp, profile.scale_up_effective_gigabytes_per_second(),
            profile.scale_up_latency_us()};
  }
  const v1::Fabric& fabric = spec_.fabric();
  Path path;
  path.gigabytes_per_second = std::min(nic_share_of_pool_[a.pool], nic_share_of_pool_[b.pool]);
  if (a.leaf == b.leaf) {
    path.hop = Hop::kSameLeaf;
    path.latency_us = fabric.same_leaf_latency_us();
  } else {
    path.hop = Hop::kOtherLeaf;
    path.gigabytes_per_second /= fabric.oversubscription();
    path.latency_us = fabric.other_leaf_latency_us();
  }
  if (fabric.planes() > 1 && !SharesPlane(node_a, device_a, node_b, device_b)) {
    path.gigabytes_per_second =
        std::min(path.gigabytes_per_second, profile.scale_up_effective_gigabytes_per_second());
    path.latency_us += profile.scale_up_latency_us();
  }
  return path;
}

}  // namespace fathom::cluster
