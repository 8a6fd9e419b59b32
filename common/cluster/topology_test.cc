#include "common/cluster/topology.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/config_loader.h"
#include "common/cluster/cluster_description.h"

namespace fathom::cluster {
namespace {

Topology Of(const v1::ClusterDescription& given) {
  auto resolved = ResolveCluster(given);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return Topology(resolved.ok() ? resolved->spec() : v1::ClusterSpec());
}

Topology Example(const std::string& name) {
  v1::ClusterDescription given;
  const absl::Status status = LoadYamlFile("deploy/examples/" + name + ".yaml", &given);
  EXPECT_TRUE(status.ok()) << status;
  return Of(given);
}

Topology Parsed(const std::string& yaml) {
  v1::ClusterDescription given;
  const absl::Status status = LoadYaml(yaml, "test", &given);
  EXPECT_TRUE(status.ok()) << status;
  return Of(given);
}

void ExpectPath(const Path& path, Hop hop, double gigabytes_per_second, double latency_us) {
  EXPECT_EQ(path.hop, hop);
  EXPECT_DOUBLE_EQ(path.gigabytes_per_second, gigabytes_per_second);
  EXPECT_DOUBLE_EQ(path.latency_us, latency_us);
}

TEST(TopologyTest, ThePublishedCluster_HasEightLeavesOfThirtyTwoNodes) {
  const Topology topology = Example("h800-256");
  EXPECT_EQ(topology.nodes().size(), 256u);
  EXPECT_EQ(topology.devices(), 2048);
  EXPECT_EQ(topology.leaves(), 8);
  std::map<int, int> nodes_of_leaf;
  std::set<int> scale_up_domains;
  for (const TopologyNode& node : topology.nodes()) {
    ++nodes_of_leaf[node.leaf];
    scale_up_domains.insert(node.scale_up_domain);
    EXPECT_EQ(node.leaf, node.failure_domain);
    EXPECT_EQ(node.devices, 8);
  }
  EXPECT_EQ(scale_up_domains.size(), 256u);
  ASSERT_EQ(nodes_of_leaf.size(), 8u);
  for (const auto& [leaf, nodes] : nodes_of_leaf) EXPECT_EQ(nodes, 32) << leaf;
  EXPECT_EQ(topology.nodes()[255].name, "h800-255");
  EXPECT_EQ(topology.profile_of(255).kind(), "h800");
}

TEST(TopologyTest, PathsOfThePublishedCluster_AreItsPublishedRates) {
  const Topology topology = Example("h800-256");
  ExpectPath(topology.Between(0, 3, 0, 3), Hop::kSameDevice, 3350, 0);
  ExpectPath(topology.Between(0, 0, 0, 7), Hop::kScaleUp, 160, 3.33);
  ExpectPath(topology.Between(0, 5, 31, 5), Hop::kSameLeaf, 50, 2.8);
  ExpectPath(topology.Between(0, 5, 32, 5), Hop::kOtherLeaf, 50, 3.7);
  // Eight planes: to another local index it takes a hop over NVLink as well.
  ExpectPath(topology.Between(0, 5, 31, 6), Hop::kSameLeaf, 50, 2.8 + 3.33);
  for (int a = 0; a < 256; a += 17) {
    for (int b = 0; b < 256; b += 13) {
      const Path there = topology.Between(a, 1, b, 2);
      const Path back = topology.Between(b, 2, a, 1);
      EXPECT_EQ(there.hop, back.hop);
      EXPECT_EQ(there.gigabytes_per_second, back.gigabytes_per_second);
      EXPECT_EQ(there.latency_us, back.latency_us);
    }
  }
}

TEST(TopologyTest, OversubscriptionAndEfficiency_TakeTheirShare) {
  const Topology topology = Parsed(
      "spec: {pools: [{name: p, device: h100, nodes: 5, nodes_per_leaf: 2, nics_per_node: 4}], "
      "fabric: {oversubscription: 2, efficiency: 0.9}}");
  EXPECT_EQ(topology.leaves(), 3);
  // Four NICs of 50 GB/s for eight devices.
  ExpectPath(topology.Between(0, 0, 1, 1), Hop::kSameLeaf, 50 * 0.5 * 0.9, 2.8);
  ExpectPath(topology.Between(1, 0, 2, 0), Hop::kOtherLeaf, 50 * 0.5 * 0.9 / 2, 3.7);
  EXPECT_EQ(topology.nodes()[4].leaf, 2);
}

TEST(TopologyTest, Planes_ArePassedByWhoSharesANic) {
  // Two NICs a device: 0 has planes 0 and 1, as has 2; 1 has 2 and 3.
  const Topology two = Parsed(
      "spec: {pools: [{name: p, device: h100, nodes: 2, devices_per_node: 4, nics_per_node: 8}], "
      "fabric: {planes: 4}}");
  ExpectPath(two.Between(0, 0, 1, 2), Hop::kSameLeaf, 100, 2.8);
  ExpectPath(two.Between(0, 0, 1, 1), Hop::kSameLeaf, 100, 2.8 + 3.33);
  // Half a NIC a device: 0 and 1 share plane 0.
  const Topology half = Parsed(
      "spec: {pools: [{name: p, device: h100, nodes: 2, nics_per_node: 4}], fabric: {planes: 4}}");
  ExpectPath(half.Between(0, 0, 1, 1), Hop::kSameLeaf, 25, 2.8);
  ExpectPath(half.Between(0, 0, 1, 2), Hop::kSameLeaf, 25, 2.8 + 3.33);
}

TEST(TopologyTest, ScaleUpDomain_SpansNodes) {
  const Topology racks = Example("gb200-nvl72");
  EXPECT_EQ(racks.devices(), 288);
  ExpectPath(racks.Between(0, 0, 17, 3), Hop::kScaleUp, 726, 3.33);
  ExpectPath(racks.Between(17, 0, 18, 0), Hop::kOtherLeaf, 50, 3.7);
  const Topology matrix = Example("cloudmatrix-384");
  EXPECT_EQ(matrix.devices(), 384);
  EXPECT_EQ(matrix.Between(0, 0, 47, 7).hop, Hop::kScaleUp);
  EXPECT_EQ(matrix.nodes()[47].failure_domain, 11);
}

TEST(TopologyTest, SpareNodes_AreThePoolsLastAndCountForNoDevices) {
  const Topology topology = Example("h100-128");
  EXPECT_EQ(topology.devices(), 126 * 8);
  EXPECT_FALSE(topology.nodes()[125].spare);
  EXPECT_TRUE(topology.nodes()[126].spare);
  EXPECT_TRUE(topology.nodes()[127].spare);
}

TEST(TopologyTest, NamedSwitches_SayWhichLeafIsWhose) {
  const Topology mixed = Example("mixed");
  EXPECT_EQ(mixed.leaves(), 3);
  EXPECT_EQ(mixed.devices(), 80 * 8);
  EXPECT_EQ(mixed.nodes()[31].leaf, 0);
  EXPECT_EQ(mixed.nodes()[32].leaf, 1);
  EXPECT_EQ(mixed.nodes()[64].leaf, 2);
  EXPECT_EQ(mixed.nodes()[64].name, "h20-0");
  EXPECT_EQ(mixed.nodes()[64].pool, 1);
  EXPECT_EQ(mixed.profile_of(64).kind(), "h20");
  EXPECT_NE(mixed.nodes()[63].failure_domain, mixed.nodes()[64].failure_domain);
  EXPECT_EQ(mixed.Between(0, 0, 64, 0).hop, Hop::kOtherLeaf);
  // One leaf for nodes of both pools, in any order.
  const Topology shared = Parsed(R"(
spec:
  pools: [{name: a, device: h800, nodes: 2}, {name: b, device: a100, nodes: 2}]
  fabric:
    switches:
      - {name: x, uplinks: [top], nodes: [b-1, a-0]}
      - {name: top}
      - {name: y, uplinks: [top], nodes: ["a-[1-1]", b-0]}
)");
  EXPECT_EQ(shared.leaves(), 2);
  // As fast as the slower side's NIC.
  ExpectPath(shared.Between(0, 0, 3, 0), Hop::kSameLeaf, 25, 2.8);
  ExpectPath(shared.Between(0, 0, 2, 0), Hop::kOtherLeaf, 25, 3.7);
  ExpectPath(shared.Between(0, 0, 1, 0), Hop::kOtherLeaf, 50, 3.7);
}

TEST(TopologyTest, Laptop_TalksOverTcp) {
  const Topology laptop = Example("laptop");
  EXPECT_EQ(laptop.devices(), 8);
  EXPECT_EQ(laptop.pool_of(3).shared_cores(), 2);
  EXPECT_EQ(laptop.Between(0, 0, 0, 1).hop, Hop::kScaleUp);
  ExpectPath(laptop.Between(0, 0, 3, 1), Hop::kSameLeaf, 10.0 / 8 * 0.94, 30);
  EXPECT_EQ(laptop.nodes()[3].failure_domain, 3);
}

TEST(TopologyTest, LargestCluster_IsMadeWhole) {
  const Topology topology = Parsed(
      "spec: {pools: [{name: p, device: h800, nodes: 4000}, {name: q, device: h20, nodes: 96}]}");
  EXPECT_EQ(topology.nodes().size(), 4096u);
  EXPECT_EQ(topology.leaves(), 125 + 3);
  EXPECT_EQ(topology.devices(), 4096 * 8);
  int64_t other_leaf = 0;
  for (int node = 0; node < 4096; ++node) {
    other_leaf += topology.Between(0, 0, node, 0).hop == Hop::kOtherLeaf ? 1 : 0;
  }
  EXPECT_EQ(other_leaf, 4096 - 32);
}

}  // namespace
}  // namespace fathom::cluster
