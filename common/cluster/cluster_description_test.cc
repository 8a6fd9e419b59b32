#include "common/cluster/cluster_description.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/config_loader.h"
#include "common/cluster/device_profiles.h"

namespace fathom::cluster {
namespace {

using ::testing::HasSubstr;

v1::ClusterDescription Parse(const std::string& yaml) {
  v1::ClusterDescription cluster;
  const absl::Status status = LoadYaml(yaml, "test", &cluster);
  EXPECT_TRUE(status.ok()) << status;
  return cluster;
}

// One pool of `nodes` H800 nodes called p.
v1::ClusterDescription OnePool(int nodes) {
  return Parse(absl::StrCat("spec: {pools: [{name: p, device: h800, nodes: ", nodes, "}]}"));
}

std::string Refusal(const v1::ClusterDescription& cluster) {
  const auto resolved = ResolveCluster(cluster);
  EXPECT_FALSE(resolved.ok());
  EXPECT_TRUE(absl::IsInvalidArgument(resolved.status()));
  return std::string(resolved.status().message());
}

v1::Switch& AddSwitch(v1::ClusterDescription& cluster, const std::string& name,
                      const std::vector<std::string>& uplinks,
                      const std::vector<std::string>& nodes) {
  v1::Switch& added = *cluster.mutable_spec()->mutable_fabric()->add_switches();
  added.set_name(name);
  for (const std::string& uplink : uplinks) added.add_uplinks(uplink);
  for (const std::string& node : nodes) added.add_nodes(node);
  return added;
}

TEST(ResolveClusterTest, EveryExample_LoadsAndIsWholeAfterOneRound) {
  for (const char* name :
       {"h800-256", "h100-128", "gb200-nvl72", "cloudmatrix-384", "mixed", "laptop"}) {
    v1::ClusterDescription given;
    const absl::Status status =
        LoadYamlFile(absl::StrCat("deploy/examples/", name, ".yaml"), &given);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(given.kind(), "Cluster");
    EXPECT_EQ(given.metadata().name(), name);
    const auto resolved = ResolveCluster(given);
    ASSERT_TRUE(resolved.ok()) << name << ": " << resolved.status();
    const auto again = ResolveCluster(*resolved);
    ASSERT_TRUE(again.ok()) << name << ": " << again.status();
    EXPECT_EQ(again->SerializeAsString(), resolved->SerializeAsString()) << name;
    v1::ClusterDescription read_back;
    ASSERT_TRUE(LoadYaml(ToYaml(*resolved), name, &read_back).ok());
    EXPECT_EQ(read_back.SerializeAsString(), resolved->SerializeAsString()) << name;
  }
}

TEST(ResolveClusterTest, WhatIsLeftOut_TakesTheProfilesAndTheDefaults) {
  const auto resolved = ResolveCluster(Parse("spec: {pools: [{device: H800, nodes: 2}]}"));
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->metadata().name(), "cluster");
  const v1::Pool& pool = resolved->spec().pools(0);
  EXPECT_EQ(pool.name(), "h800");
  EXPECT_EQ(pool.device(), "h800");
  EXPECT_EQ(pool.devices_per_node(), 8);
  EXPECT_EQ(pool.scale_up_devices(), 8);
  EXPECT_EQ(pool.nics_per_node(), 8);
  EXPECT_EQ(pool.nic_gigabits_per_second(), 400);
  EXPECT_EQ(pool.nodes_per_leaf(), 32);
  EXPECT_EQ(pool.nodes_per_failure_domain(), 32);
  EXPECT_EQ(pool.dollars_per_device_hour(), 2);
  EXPECT_EQ(pool.cores_per_node(), 8);
  const v1::Fabric& fabric = resolved->spec().fabric();
  EXPECT_EQ(fabric.kind(), "infiniband");
  EXPECT_EQ(fabric.planes(), 1);
  EXPECT_EQ(fabric.oversubscription(), 1);
  EXPECT_EQ(fabric.same_leaf_latency_us(), 2.8);
  EXPECT_EQ(fabric.other_leaf_latency_us(), 3.7);
  EXPECT_EQ(fabric.efficiency(), 1);
  ASSERT_EQ(resolved->spec().profiles_size(), 1);
  EXPECT_EQ(resolved->spec().profiles(0).SerializeAsString(),
            FindProfile("h800")->SerializeAsString());
  // A node with more devices than the profile's domain is a domain of its own.
  const auto wide =
      ResolveCluster(Parse("spec: {pools: [{device: cpu, nodes: 1, devices_per_node: 4}]}"));
  EXPECT_EQ(wide->spec().pools(0).scale_up_devices(), 4);
  // A machine's own domain doesn't span machines, a rack's does.
  const auto narrow = ResolveCluster(Parse(
      "spec: {pools: [{device: h100, nodes: 2, devices_per_node: 4}, {device: gb200-nvl72, nodes: "
      "18, devices_per_node: 4}, {device: gb200-nvl72, name: x, nodes: 9, devices_per_node: "
      "16}]}"));
  EXPECT_EQ(narrow->spec().pools(0).scale_up_devices(), 4);
  EXPECT_EQ(narrow->spec().pools(1).scale_up_devices(), 72);
  EXPECT_EQ(narrow->spec().pools(2).scale_up_devices(), 64);
  const auto roce =
      ResolveCluster(Parse("spec: {pools: [{device: h20, nodes: 1}], fabric: {kind: RoCE}}"));
  EXPECT_EQ(roce->spec().fabric().same_leaf_latency_us(), 3.6);
  EXPECT_EQ(roce->spec().fabric().other_leaf_latency_us(), 5.6);
}

TEST(ResolveClusterTest, ProfileOfABuiltInKind_ReplacesWhatItGivesAlone) {
  const auto resolved = ResolveCluster(Parse(R"(
spec:
  pools: [{device: h800, nodes: 1}]
  profiles:
    - kind: H800
      memory_bytes: 64000000000
      rates: [{op: memory, rate: 2500}]
)"));
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const v1::DeviceProfile& profile = resolved->spec().profiles(0);
  const v1::DeviceProfile built_in = *FindProfile("h800");
  EXPECT_EQ(profile.memory_bytes(), 64000000000);
  EXPECT_EQ(profile.bf16_tflops(), built_in.bf16_tflops());
  EXPECT_EQ(profile.rates_size(), built_in.rates_size());
  for (const v1::MeasuredRate& rate : profile.rates()) {
    if (rate.op() != "memory") continue;
    EXPECT_EQ(rate.rate(), 2500);
    EXPECT_EQ(rate.source(), "given in the cluster file");
  }
  for (const v1::Source& source : profile.sources()) {
    EXPECT_EQ(source.text() == "given in the cluster file", source.figure() == "memory_bytes")
        << source.figure();
  }
}

TEST(ResolveClusterTest, ProfileOfANewKind_NeedsItsFigures) {
  const std::string file = R"(
spec:
  pools: [{device: npu-1, nodes: 1}]
  profiles:
    - {kind: npu-1, bf16_tflops: 100, fp32_tflops: 10, memory_bytes: 1000, compute_units: 4,
       memory_gigabytes_per_second: 100, scale_up_devices: 8, scale_up_gigabytes_per_second: 10,
       scale_up_effective_gigabytes_per_second: 8, nic_gigabits_per_second: 100, watts: 1)";
  EXPECT_TRUE(ResolveCluster(Parse(file + "}")).ok());
  EXPECT_THAT(Refusal(Parse(file + ", rates: [{op: memory, rate: 101}]}")),
              HasSubstr("spec.profiles[0]: device profile npu-1: rates[0] (memory ): rate: 101"));
  EXPECT_THAT(Refusal(Parse("spec: {pools: [{device: x, nodes: 1}], profiles: [{kind: x}]}")),
              HasSubstr("device profile x: bf16_tflops: 0; give a positive number"));
  EXPECT_THAT(Refusal(Parse("spec: {pools: [{device: h800, nodes: 1}], "
                            "profiles: [{kind: h800}, {kind: H800}]}")),
              HasSubstr("spec.profiles[1].kind: h800 stands there twice"));
}

TEST(ResolveClusterTest, BadFields_AreNamedWithTheNearestThatWouldDo) {
  struct Case {
    const char* spec;
    const char* says;
  };
  const std::string pool = "pools: [{name: p, device: h800, nodes: 4}]";
  for (const Case& c : std::vector<Case>{
           {"", "spec.pools: empty; a cluster has at least one pool"},
           {"pools: [{name: p, nodes: 1}]", "spec.pools[0].device: missing"},
           {"pools: [{device: h8000, nodes: 1}]", "did you mean h800?"},
           {"pools: [{device: h800}]", "spec.pools[0] (h800).nodes: 0; give at least 1"},
           {"pools: [{device: h800, nodes: -3}]", "nodes: -3; give at least 1"},
           {"pools: [{device: h800, nodes: 5000}]", "nodes: 5000; give at most 4096"},
           {"pools: [{name: a, device: h800, nodes: 4000}, {name: b, device: h20, nodes: 97}]",
            "spec.pools: 4097 nodes in all; give at most 4096"},
           {"pools: [{name: a, device: h800, nodes: 1}, {name: a, device: h20, nodes: 1}]",
            "spec.pools[1].name: a is also pool 0's; call it a-1"},
           {"pools: [{name: 'A b', device: h800, nodes: 1}]", "\"A b\"; take small letters"},
           {"pools: [{device: h800, nodes: 1, devices_per_node: 65}]", "give at most 64"},
           {"pools: [{device: h800, nodes: 1, devices_per_node: -1}]", "give at least 1"},
           {"pools: [{device: h800, nodes: 1, scale_up_devices: 4}]",
            "scale_up_devices: 4 is no whole number of nodes of 8 devices; give 8"},
           {"pools: [{device: h800, nodes: 9, scale_up_devices: 20}]", "give 16"},
           {"pools: [{device: h800, nodes: 1, nics_per_node: -2}]", "nics_per_node: -2"},
           {"pools: [{device: h800, nodes: 1, nic_gigabits_per_second: -400}]",
            "nic_gigabits_per_second: -400; give a positive number"},
           {"pools: [{device: h800, nodes: 1, nic_gigabits_per_second: 1e-300}]",
            "nic_gigabits_per_second: 1e-300; give a number from 1e-06 to 1e+09"},
           {"pools: [{device: h800, nodes: 1, dollars_per_device_hour: 1e308}]",
            "dollars_per_device_hour: 1e+308; give at most 1e+09"},
           {"P, fabric: {efficiency: 1e-300}", "efficiency: 1e-300; give a number from 1e-06"},
           {"P, fabric: {oversubscription: 1e300}", "oversubscription: 1e+300; give a number from"},
           {"P, fabric: {other_leaf_latency_us: 1e300}", "other_leaf_latency_us: 1e+300; give a"},
           {"pools: [{device: h800, nodes: 1, nodes_per_leaf: -1}]", "nodes_per_leaf: -1"},
           {"pools: [{device: h800, nodes: 1, nodes_per_failure_domain: -1}]",
            "nodes_per_failure_domain: -1"},
           {"pools: [{device: h800, nodes: 1, dollars_per_device_hour: -2}]",
            "dollars_per_device_hour: -2; give 0 or more"},
           {"pools: [{device: h800, nodes: 1, host_memory_bytes: -2}]", "host_memory_bytes: -2"},
           {"pools: [{device: h800, nodes: 1, cores_per_node: -1}]", "cores_per_node: -1"},
           {"pools: [{device: h800, nodes: 4, spares: 4}]",
            "spares: 4 of 4 nodes; give 0 or more, at most 3"},
           {"pools: [{device: cpu, nodes: 1, shared_cores: -1}]", "shared_cores: -1"},
           {"P, fabric: {kind: infinband}", "spec.fabric.kind: infinband"},
           {"P, fabric: {kind: infinband}", "nearest is infiniband"},
           {"P, fabric: {planes: 9}", "a node of p has 8 NICs and would miss some; give at most 8"},
           {"P, fabric: {planes: -1}", "spec.fabric.planes: -1"},
           {"P, fabric: {oversubscription: 0.5}", "give 1 where the uplinks carry it all"},
           {"P, fabric: {oversubscription: -1}", "give a positive number"},
           {"P, fabric: {same_leaf_latency_us: -1}", "same_leaf_latency_us: -1"},
           {"P, fabric: {other_leaf_latency_us: -1}", "other_leaf_latency_us: -1"},
           {"P, fabric: {efficiency: 1.5}", "efficiency: 1.5; give at most 1"},
           {"P, storage: {write_gigabytes_per_second: -1}", "storage.write_gigabytes_per_second"},
           {"P, storage: {read_gigabytes_per_second: -1}", "storage.read_gigabytes_per_second"}}) {
    std::string spec = c.spec;
    if (spec.rfind("P,", 0) == 0) spec = pool + spec.substr(1);
    EXPECT_THAT(Refusal(Parse("spec: {" + spec + "}")), HasSubstr(c.says)) << spec;
  }
  v1::ClusterDescription infinite = OnePool(1);
  infinite.mutable_spec()->mutable_fabric()->set_efficiency(
      std::numeric_limits<double>::infinity());
  EXPECT_THAT(Refusal(infinite), HasSubstr("efficiency: inf"));
}

TEST(SwitchesTest, BadNetworks_AreNamedWithTheNearestThatWouldDo) {
  const auto refusal = [](const std::function<void(v1::ClusterDescription&)>& add) {
    v1::ClusterDescription cluster = OnePool(4);
    add(cluster);
    return Refusal(cluster);
  };
  using C = v1::ClusterDescription;
  EXPECT_THAT(refusal([](C& c) { AddSwitch(c, "", {}, {"p-[0-3]"}); }),
              HasSubstr("spec.fabric.switches[0].name: missing"));
  EXPECT_THAT(refusal([](C& c) {
                AddSwitch(c, "a", {}, {"p-[0-1]"});
                AddSwitch(c, "a", {}, {"p-[2-3]"});
              }),
              HasSubstr("switches[1].name: a is also switch 0's"));
  EXPECT_THAT(refusal([](C& c) {
                AddSwitch(c, "spine", {}, {});
                AddSwitch(c, "leaf", {"spline"}, {"p-[0-3]"});
              }),
              HasSubstr("(leaf).uplinks: no switch spline; did you mean spine?"));
  EXPECT_THAT(refusal([](C& c) {
                AddSwitch(c, "spine", {}, {});
                AddSwitch(c, "leaf", {"spine", "spine"}, {"p-[0-3]"});
              }),
              HasSubstr("spine stands there twice"));
  EXPECT_THAT(refusal([](C& c) { AddSwitch(c, "leaf", {}, {"p-[0-4]"}); }),
              HasSubstr("(leaf).nodes: no node p-4; there is p-[0-3]"));
  EXPECT_THAT(refusal([](C& c) { AddSwitch(c, "leaf", {}, {"p-[0-1]"}); }),
              HasSubstr("node p-2 and 1 more are under no switch; add them to a leaf's nodes"));
  EXPECT_THAT(refusal([](C& c) { AddSwitch(c, "leaf", {}, {"p-[0-2]"}); }),
              HasSubstr("node p-3 is under no switch; add it"));
  EXPECT_THAT(refusal([](C& c) {
                AddSwitch(c, "a", {}, {"p-[0-2]"});
                AddSwitch(c, "b", {}, {"p-[2-3]"});
              }),
              HasSubstr("(b).nodes: p-2 is already under a"));
  EXPECT_THAT(refusal([](C& c) {
                AddSwitch(c, "spine", {}, {});
                AddSwitch(c, "idle", {"spine"}, {});
                AddSwitch(c, "leaf", {"spine"}, {"p-[0-3]"});
              }),
              HasSubstr("switches[1] (idle): nothing is under it"));
  EXPECT_THAT(refusal([](C& c) {
                AddSwitch(c, "left", {}, {});
                AddSwitch(c, "right", {}, {});
                AddSwitch(c, "a", {"left"}, {"p-[0-1]"});
                AddSwitch(c, "b", {"right"}, {"p-[2-3]"});
              }),
              HasSubstr("b and a reach no top switch in common; add an uplink from b to left"));
  for (const char* range :
       {"p-[0-3", "p-[3-0]", "p-[a-b]", "p-[]", "p-[0]", "p-[0-9999]", "p-[-1-3]", "p-[0-3]x"}) {
    EXPECT_THAT(refusal([&](C& c) { AddSwitch(c, "leaf", {}, {range}); }),
                HasSubstr("write a name or a range such as pool-[0-31]"))
        << range;
  }
}

// Whether uplinks lead from a switch to another, found by plain search.
bool Leads(const v1::Fabric& fabric, const std::string& from, const std::string& to) {
  std::set<std::string> seen = {from};
  std::vector<std::string> open = {from};
  while (!open.empty()) {
    const std::string name = open.back();
    open.pop_back();
    if (name == to) return true;
    for (const v1::Switch& one : fabric.switches()) {
      if (one.name() != name) continue;
      for (const std::string& uplink : one.uplinks()) {
        if (seen.insert(uplink).second) open.push_back(uplink);
      }
    }
  }
  return false;
}

// A chain of switches with random uplinks past some, and one uplink back down over `length`.
v1::ClusterDescription ChainWithCycle(int switches, int length, std::mt19937& random) {
  v1::ClusterDescription cluster = OnePool(4);
  AddSwitch(cluster, "s-0", {}, {});  // the top one; the last has the nodes
  for (int i = 1; i < switches; ++i) {
    v1::Switch& one = AddSwitch(cluster, absl::StrCat("s-", i), {absl::StrCat("s-", i - 1)}, {});
    if (i >= 3 && random() % 3 == 0) one.add_uplinks(absl::StrCat("s-", random() % (i - 1)));
  }
  auto* all = cluster.mutable_spec()->mutable_fabric()->mutable_switches();
  all->Mutable(switches - 1)->add_nodes("p-[0-3]");
  EXPECT_TRUE(ResolveCluster(cluster).ok()) << ResolveCluster(cluster).status();
  const int from = static_cast<int>(random() % (switches - length + 1));
  all->Mutable(from)->add_uplinks(absl::StrCat("s-", from + length - 1));
  std::shuffle(all->begin(), all->end(), random);
  return cluster;
}

TEST(SwitchesTest, CycleOfAnyLength_IsFoundAndTheUplinkNamedClosesIt) {
  constexpr int kSwitches = 24;
  std::mt19937 random(7);
  for (int length = 1; length <= kSwitches; ++length) {
    v1::ClusterDescription cluster = ChainWithCycle(kSwitches, length, random);
    int dropped = 0;
    // Ways past the chain make more cycles than one; each piece of advice must hold.
    for (;; ++dropped) {
      ASSERT_LT(dropped, 3 * kSwitches);
      const auto resolved = ResolveCluster(cluster);
      const std::string message(resolved.status().message());
      if (message.find("is a cycle of") == std::string::npos) break;
      const size_t at = message.find("the uplink from ") + 16;
      const size_t to = message.find(" to ", at);
      const std::string lower = message.substr(at, to - at);
      const std::string upper = message.substr(to + 4, message.find(" closes") - to - 4);
      v1::Fabric& fabric = *cluster.mutable_spec()->mutable_fabric();
      EXPECT_TRUE(Leads(fabric, upper, lower)) << message;
      for (v1::Switch& one : *fabric.mutable_switches()) {
        if (one.name() != lower) continue;
        auto* uplinks = one.mutable_uplinks();
        const auto found = std::find(uplinks->begin(), uplinks->end(), upper);
        ASSERT_NE(found, uplinks->end()) << message;
        uplinks->erase(found);
      }
    }
    EXPECT_GT(dropped, 0) << "a cycle of " << length << " went unseen";
    const v1::Fabric& fabric = cluster.spec().fabric();
    for (const v1::Switch& one : fabric.switches()) {
      for (const std::string& uplink : one.uplinks()) {
        EXPECT_FALSE(Leads(fabric, uplink, one.name())) << "still a cycle, of " << length;
      }
    }
  }
}

TEST(SwitchesTest, LongestCycleAndLongestChain_AreTakenInStride) {
  v1::ClusterDescription cluster = OnePool(1);
  for (int i = 0; i < 4096; ++i) {
    AddSwitch(cluster, absl::StrCat("s", i), {absl::StrCat("s", (i + 1) % 4096)}, {});
  }
  auto* switches = cluster.mutable_spec()->mutable_fabric()->mutable_switches();
  switches->Mutable(0)->add_nodes("p-0");
  EXPECT_THAT(Refusal(cluster), HasSubstr("s0 -> s1 -> s2 -> s3 -> s4 -> s5 -> s6 -> s7 -> ... "
                                          "-> s0 is a cycle of 4096"));
  switches->Mutable(4095)->clear_uplinks();
  EXPECT_TRUE(ResolveCluster(cluster).ok());
  AddSwitch(cluster, "more", {}, {});
  EXPECT_THAT(Refusal(cluster), HasSubstr("switches: 4097 of them; give at most 4096"));
}

}  // namespace
}  // namespace fathom::cluster
