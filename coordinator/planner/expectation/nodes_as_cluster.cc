#include "coordinator/planner/expectation/nodes_as_cluster.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/cluster/cluster_description.h"
#include "common/cluster/device_profiles.h"

namespace fathom::planner {
namespace {

constexpr char kCpu[] = "cpu";
constexpr char kTopSwitch[] = "top";

// Nodes that one pool can describe.
struct Key {
  std::string device;
  std::string machine;  // of nodes that share one's cores
  int devices = 0;
  int nics = 0;
  double nic_gigabits_per_second = 0;
  int cores = 0;

  friend auto operator<=>(const Key&, const Key&) = default;
};

Key KeyOf(const v1::Node& node) {
  Key key;
  key.device = node.devices(0).kind();
  key.devices = node.devices_size();
  key.nics = node.nics_size();
  if (key.nics > 0) key.nic_gigabits_per_second = node.nics(0).gigabits_per_second();
  key.cores = node.cores();
  if (key.device == kCpu) key.machine = node.machine();
  return key;
}

v1::Pool PoolOf(const Key& key, int index, int nodes) {
  v1::Pool pool;
  pool.set_name(absl::StrCat("pool", index));
  pool.set_device(key.device);
  pool.set_nodes(nodes);
  pool.set_devices_per_node(key.devices);
  pool.set_nics_per_node(key.nics);
  pool.set_nic_gigabits_per_second(key.nic_gigabits_per_second);
  if (key.device != kCpu || key.cores <= 0) return pool;
  if (key.machine.empty()) {
    pool.set_cores_per_node(key.cores);
  } else {
    pool.set_shared_cores(key.cores);
  }
  return pool;
}

// The leaves that nodes name; those that name none are under one of their own. None named: no
// switches, and the defaults hold.
void AddSwitches(const std::map<std::string, std::vector<std::string>>& nodes_of_leaf,
                 v1::ClusterSpec* spec) {
  if (nodes_of_leaf.size() == 1 && nodes_of_leaf.begin()->first.empty()) return;
  v1::Fabric& fabric = *spec->mutable_fabric();
  fabric.add_switches()->set_name(kTopSwitch);
  for (const auto& [leaf, nodes] : nodes_of_leaf) {
    v1::Switch& one = *fabric.add_switches();
    one.set_name(absl::StrCat("leaf-", leaf));
    one.add_uplinks(kTopSwitch);
    for (const std::string& node : nodes) one.add_nodes(node);
  }
}

}  // namespace

absl::StatusOr<ReportedCluster> ClusterOfNodes(const std::vector<v1::Node>& nodes,
                                               const std::vector<v1::DeviceProfile>& profiles) {
  std::map<Key, std::vector<const v1::Node*>> alike;
  for (const v1::Node& node : nodes) {
    if (node.devices().empty()) {
      return absl::InvalidArgumentError(absl::StrCat("node ", node.name(), " has no devices"));
    }
    alike[KeyOf(node)].push_back(&node);
  }
  if (alike.empty()) return absl::InvalidArgumentError("there are no nodes");

  v1::ClusterDescription description;
  v1::ClusterSpec& spec = *description.mutable_spec();
  for (const v1::DeviceProfile& profile : profiles) *spec.add_profiles() = profile;
  std::map<std::string, int> index_of;
  std::map<std::string, std::vector<std::string>> nodes_of_leaf;
  for (const auto& [key, members] : alike) {
    const bool given = std::any_of(profiles.begin(), profiles.end(), [&](const auto& profile) {
      return profile.kind() == key.device;
    });
    if (!given && !cluster::FindProfile(key.device).ok()) {
      return absl::NotFoundError(absl::StrCat(
          "node ", members.front()->name(), " has devices of kind '", key.device,
          "', of which there is no profile; give the coordinator one with --device-profiles"));
    }
    const v1::Pool pool = PoolOf(key, spec.pools_size(), static_cast<int>(members.size()));
    for (size_t i = 0; i < members.size(); ++i) {
      nodes_of_leaf[members[i]->leaf()].push_back(absl::StrCat(pool.name(), "-", i));
      const int index = static_cast<int>(index_of.size());
      index_of[members[i]->name()] = index;
    }
    *spec.add_pools() = pool;
  }
  AddSwitches(nodes_of_leaf, &spec);
  if (alike.begin()->first.device == kCpu) spec.mutable_fabric()->set_kind("tcp");
  FATHOM_ASSIGN_OR_RETURN(v1::ClusterDescription resolved, cluster::ResolveCluster(description));
  return ReportedCluster{cluster::Topology(std::move(*resolved.mutable_spec())),
                         std::move(index_of)};
}

}  // namespace fathom::planner
