// A routing's bytes on links: by hand, against a plain account of every token, and what must hold
// for any routing.
#include "coordinator/planner/routing_traffic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/cluster/cluster_description.h"
#include "common/model/expert_traffic.h"
#include "coordinator/planner/expert_placement.h"

namespace fathom::planner {
namespace {

using Places = std::vector<RankPlacement::Place>;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint32_t kSeed = 20250713;
constexpr TokenSizes kSizes = {100, 30};

cluster::Topology Cluster(int nodes, int devices, int nodes_per_leaf, int scale_up_devices = 0,
                          double oversubscription = 1) {
  v1::ClusterDescription given;
  v1::Pool* pool = given.mutable_spec()->add_pools();
  pool->set_name("h800");
  pool->set_device("h800");
  pool->set_nodes(nodes);
  pool->set_devices_per_node(devices);
  pool->set_nodes_per_leaf(nodes_per_leaf);
  pool->set_scale_up_devices(scale_up_devices);
  given.mutable_spec()->mutable_fabric()->set_oversubscription(oversubscription);
  const auto resolved = cluster::ResolveCluster(given);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return cluster::Topology(resolved->spec());
}

Places First(const cluster::Topology& topology, int ranks) {
  const auto places = FirstDevices(topology, ranks);
  EXPECT_TRUE(places.ok()) << places.status();
  return *places;
}

RoutingTraffic Predict(const RoutingTrace& trace, const SlotsOfLayers& slots,
                       const GroupLinks& group, const TokenSizes& sizes = kSizes) {
  const auto traffic = PredictRoutingTraffic(trace, slots, group, sizes);
  EXPECT_TRUE(traffic.ok()) << traffic.status();
  return traffic.ok() ? *traffic : RoutingTraffic();
}

// By rank and token of one layer.
using Choices = std::vector<std::vector<std::vector<int>>>;

RoutingTrace TraceOf(int experts, const std::vector<Choices>& layers) {
  RoutingTrace trace;
  trace.experts = experts;
  for (const Choices& layer : layers) {
    trace.layers.emplace_back(layer.size());
    for (size_t rank = 0; rank < layer.size(); ++rank) {
      for (const std::vector<int>& token : layer[rank]) trace.layers.back()[rank].Add(token);
    }
  }
  return trace;
}

// Bytes by link and way, those above 0.
using Named = std::map<std::string, int64_t>;

Named NamedOf(const GroupLinks& group, const ExchangeTraffic& exchange) {
  Named named;
  for (size_t i = 0; i < group.links().size(); ++i) {
    const LinkBytes& bytes = exchange.links[i];
    if (bytes.out > 0) named[absl::StrCat(group.links()[i].name, " out")] = bytes.out;
    if (bytes.in > 0) named[absl::StrCat(group.links()[i].name, " in")] = bytes.in;
  }
  return named;
}

// The account of the header's rules, token by token and message by message.
class PlainAccount {
 public:
  PlainAccount(const cluster::Topology& topology, const Places& places)
      : device_tokens(places.size()), topology_(topology), places_(places) {}

  void Token(int source, const std::vector<int>& experts, const std::vector<int>& slots) {
    std::set<int> devices;
    std::set<int> domains;
    const auto take = [&](int rank) {
      ++device_tokens[rank];
      devices.insert(rank);
      domains.insert(Domain(rank));
    };
    std::vector<std::set<int>> copies;
    for (const int expert : experts) {
      copies.emplace_back();
      for (size_t slot = 0; slot < slots.size(); ++slot) {
        if (slots[slot] == expert)
          copies.back().insert(static_cast<int>(slot / (slots.size() / places_.size())));
      }
    }
    for (const auto& ranks : copies) {
      if (ranks.size() == 1) take(*ranks.begin());
    }
    for (const auto& ranks : copies) {
      if (ranks.size() > 1) take(Choose(source, ranks, domains));
    }
    domains_of_tokens.push_back(static_cast<int>(domains.size()));
    for (const int domain : domains) {
      const int relay = domain == Domain(source) ? source : Peer(source, domain);
      if (relay != source) {
        Send(source, relay, "NIC");
        if (Leaf(source) != Leaf(relay)) {
          Message(absl::StrCat("leaf ", Leaf(source), " uplink"),
                  absl::StrCat("leaf ", Leaf(relay), " uplink"));
        }
      }
      for (const int device : devices) {
        if (Domain(device) == domain && device != relay) Send(relay, device, "scale-up");
      }
    }
  }

  Named dispatch;
  Named combine;
  std::vector<int64_t> device_tokens;
  std::vector<int> domains_of_tokens;

 private:
  int Choose(int source, const std::set<int>& ranks, const std::set<int>& domains) const {
    if (ranks.contains(source)) return source;
    std::vector<int> own, visited, all(ranks.begin(), ranks.end());
    for (const int rank : ranks) {
      if (Domain(rank) == Domain(source)) own.push_back(rank);
      if (domains.contains(Domain(rank))) visited.push_back(rank);
    }
    const std::vector<int>& among = !own.empty() ? own : !visited.empty() ? visited : all;
    int best = among.front();
    for (const int rank : among) {
      if (device_tokens[rank] < device_tokens[best]) best = rank;
    }
    return best;
  }

  int Domain(int rank) const { return topology_.nodes()[places_[rank].node].scale_up_domain; }
  int Leaf(int rank) const { return topology_.nodes()[places_[rank].node].leaf; }

  int Peer(int source, int domain) const {
    std::vector<int> here, there;
    for (int rank = 0; rank < static_cast<int>(places_.size()); ++rank) {
      if (Domain(rank) == Domain(source)) here.push_back(rank);
      if (Domain(rank) == domain) there.push_back(rank);
    }
    const auto index = std::find(here.begin(), here.end(), source) - here.begin();
    return there[static_cast<size_t>(index) % there.size()];
  }

  void Send(int from, int to, const std::string& link) {
    const auto name = [&](int rank) {
      return absl::StrCat(topology_.nodes()[places_[rank].node].name, " device ",
                          places_[rank].device, " ", link);
    };
    Message(name(from), name(to));
  }

  void Message(const std::string& from, const std::string& to) {
    dispatch[from + " out"] += kSizes.dispatch;
    dispatch[to + " in"] += kSizes.dispatch;
    combine[to + " out"] += kSizes.combine;
    combine[from + " in"] += kSizes.combine;
  }

  const cluster::Topology& topology_;
  const Places places_;
};

// `tokens` for each rank, each with `chosen` experts, all of `topk_group` groups drawn before; the
// greater the weight the likelier an expert.
Choices Route(int ranks, int tokens, int chosen, const std::vector<double>& weights,
              std::mt19937& random, int groups = 1, int topk_group = 1) {
  const int group_size = static_cast<int>(weights.size()) / groups;
  Choices choices(ranks);
  for (auto& rank : choices) {
    for (int token = 0; token < tokens; ++token) {
      std::vector<int> order(groups);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      std::vector<double> open(weights.size(), 0.0);
      for (int g = 0; g < topk_group; ++g) {
        const auto begin = weights.begin() + order[g] * group_size;
        std::copy(begin, begin + group_size, open.begin() + order[g] * group_size);
      }
      rank.emplace_back();
      for (int i = 0; i < chosen; ++i) {
        const int expert = std::discrete_distribution<int>(open.begin(), open.end())(random);
        rank.back().push_back(expert);
        open[expert] = 0;
      }
    }
  }
  return choices;
}

TEST(RoutingTrafficTest, TwoTokensByHand_LieOnTheLinksTheyTake) {
  // An expert on each of two devices of two nodes, each node under a leaf of its own.
  const cluster::Topology topology = Cluster(2, 2, 1, 0, 2);
  const GroupLinks group(topology, First(topology, 4));
  const RoutingTrace trace = TraceOf(4, {{{{0, 3}}, {}, {}, {{2}}}});
  const RoutingTraffic traffic = Predict(trace, *EqualRuns(4, 4), group);
  const LayerTraffic& layer = traffic.layers.at(0);
  EXPECT_EQ(NamedOf(group, layer.dispatch), (Named{{"h800-0 device 0 NIC out", 100},
                                                   {"h800-1 device 0 NIC in", 100},
                                                   {"leaf 0 uplink out", 100},
                                                   {"leaf 1 uplink in", 100},
                                                   {"h800-1 device 0 scale-up out", 100},
                                                   {"h800-1 device 1 scale-up in", 100},
                                                   {"h800-1 device 1 scale-up out", 100},
                                                   {"h800-1 device 0 scale-up in", 100}}));
  EXPECT_EQ(NamedOf(group, layer.combine), (Named{{"h800-0 device 0 NIC in", 30},
                                                  {"h800-1 device 0 NIC out", 30},
                                                  {"leaf 0 uplink in", 30},
                                                  {"leaf 1 uplink out", 30},
                                                  {"h800-1 device 0 scale-up out", 30},
                                                  {"h800-1 device 1 scale-up in", 30},
                                                  {"h800-1 device 1 scale-up out", 30},
                                                  {"h800-1 device 0 scale-up in", 30}}));
  EXPECT_EQ(layer.tokens, 2);
  EXPECT_THAT(layer.device_tokens, ElementsAre(1, 0, 1, 1));
  EXPECT_DOUBLE_EQ(layer.device_max_over_mean, 4.0 / 3);
  EXPECT_DOUBLE_EQ(layer.domains_per_token, 1.5);
  EXPECT_EQ(layer.domains_max, 2);
  // Two of the eight ways of the NICs carry it all. The uplink of two NICs, halved by
  // oversubscription, is as fast as one.
  EXPECT_DOUBLE_EQ(layer.dispatch.nic_max_over_mean, 4);
  const double rate = topology.Between(0, 0, 1, 0).gigabytes_per_second * 2;
  EXPECT_DOUBLE_EQ(layer.dispatch.seconds, 100 / (rate * 1e9));
  EXPECT_EQ(layer.dispatch.busiest, "h800-0 device 0 NIC out");
  EXPECT_DOUBLE_EQ(layer.combine.seconds, 30 / (rate * 1e9));
  EXPECT_EQ(layer.combine.busiest, "h800-0 device 0 NIC in");
}

TEST(RoutingTrafficTest, Links_AreAsFastAsTheTopologySays) {
  const cluster::Topology topology = Cluster(4, 8, 2, 0, 4);
  const GroupLinks group(topology, First(topology, 24));
  EXPECT_EQ(group.domains(), 3);
  ASSERT_EQ(group.links().size(), 24u + 24u + 2u);
  for (int rank = 0; rank < 24; ++rank) {
    EXPECT_DOUBLE_EQ(group.links()[group.nic(rank)].gigabytes_per_second,
                     topology.Between(0, rank % 8, 1, rank % 8).gigabytes_per_second);
    EXPECT_DOUBLE_EQ(group.links()[group.scale_up(rank)].gigabytes_per_second,
                     topology.Between(0, 0, 0, 1).gigabytes_per_second);
  }
  // Leaf 0 has 16 of its devices, leaf 1 has 8.
  const double other_leaf = topology.Between(0, 0, 3, 0).gigabytes_per_second;
  EXPECT_DOUBLE_EQ(group.links()[group.uplink(0)].gigabytes_per_second, 16 * other_leaf);
  EXPECT_DOUBLE_EQ(group.links()[group.uplink(1)].gigabytes_per_second, 8 * other_leaf);
}

TEST(RoutingTrafficTest, CopyOfAnExpert_IsTheNearestAndThenTheLeastLoaded) {
  const cluster::Topology topology = Cluster(3, 2, 4);
  const GroupLinks group(topology, First(topology, 6));
  // Expert 0 is on ranks 0, 1 and 4; 1 on 3 and 5; 2 on 2; 3 on 5 alone.
  const SlotsOfLayers slots = {{0, 0, 0, 0, 2, 2, 1, 1, 0, 0, 1, 3}};
  const auto tokens = [&](const Choices& choices) {
    return Predict(TraceOf(4, {choices}), slots, group).total.device_tokens;
  };
  EXPECT_THAT(tokens({{}, {{0}, {0}}, {}, {}, {}, {}}), ElementsAre(0, 2, 0, 0, 0, 0));
  // From node 2, its own copy; from node 1, by turns; with expert 3, the node it visits anyway.
  EXPECT_THAT(tokens({{}, {}, {}, {}, {}, {{0}, {0}}}), ElementsAre(0, 0, 0, 0, 2, 0));
  EXPECT_THAT(tokens({{}, {}, {{0}, {0}, {0}, {0}}, {}, {}, {}}), ElementsAre(2, 1, 0, 0, 1, 0));
  EXPECT_THAT(tokens({{}, {}, {{0, 3}, {0, 3}}, {}, {}, {}}), ElementsAre(0, 0, 0, 0, 2, 2));
  EXPECT_THAT(tokens({{{1, 3}, {1, 3}, {1}}, {}, {}, {}, {}, {}}), ElementsAre(0, 0, 0, 1, 0, 4));
}

TEST(RoutingTrafficTest, AnySmallCase_IsWhatAPlainAccountSays) {
  std::mt19937 random(kSeed);
  for (int round = 0; round < 60; ++round) {
    const int devices = 1 + round % 4;
    const int scale_up = round % 3 == 0 ? 2 * devices : 0;
    const cluster::Topology topology = Cluster(4, devices, 1 + round % 3, scale_up);
    Places places = First(topology, 4 * devices);
    // Any of the devices in any order, too.
    if (round % 2 == 1) {
      std::shuffle(places.begin(), places.end(), random);
      places.resize(1 + random() % places.size());
    }
    const int ranks = static_cast<int>(places.size());
    const int experts = 4 + static_cast<int>(random() % 9);
    const int chosen = 1 + static_cast<int>(random() % 4);
    const int slots_per_rank = (experts + ranks - 1) / ranks + static_cast<int>(random() % 3);
    SlotsOfLayers slots;
    std::vector<Choices> layers;
    for (int layer = 0; layer < 2; ++layer) {
      layers.push_back(Route(ranks, static_cast<int>(random() % 6), chosen,
                             std::vector<double>(experts, 1.0), random));
      slots.emplace_back();
      for (int slot = 0; slot < ranks * slots_per_rank; ++slot) {
        slots.back().push_back(slot < experts ? slot : static_cast<int>(random() % experts));
      }
      std::shuffle(slots.back().begin(), slots.back().end(), random);
    }
    const GroupLinks group(topology, places);
    const RoutingTraffic traffic = Predict(TraceOf(experts, layers), slots, group);
    ASSERT_EQ(traffic.layers.size(), 2u);
    Named total;
    double seconds = 0;
    for (size_t layer = 0; layer < 2; ++layer) {
      PlainAccount account(topology, places);
      for (int rank = 0; rank < ranks; ++rank) {
        for (const auto& token : layers[layer][rank]) account.Token(rank, token, slots[layer]);
      }
      const LayerTraffic& found = traffic.layers[layer];
      SCOPED_TRACE(absl::StrCat("seed ", kSeed, ", round ", round, ", layer ", layer));
      ASSERT_EQ(NamedOf(group, found.dispatch), account.dispatch);
      ASSERT_EQ(NamedOf(group, found.combine), account.combine);
      ASSERT_EQ(found.device_tokens, account.device_tokens);
      const auto& domains = account.domains_of_tokens;
      ASSERT_EQ(found.tokens, static_cast<int64_t>(domains.size()));
      if (domains.empty()) continue;
      EXPECT_NEAR(found.domains_per_token * static_cast<double>(domains.size()),
                  std::accumulate(domains.begin(), domains.end(), 0), 1e-9);
      EXPECT_EQ(found.domains_max, *std::max_element(domains.begin(), domains.end()));
      for (const auto& [name, bytes] : account.dispatch) total[name] += bytes;
      double slowest = 0;
      for (const Link& link : group.links()) {
        for (const char* way : {" out", " in"}) {
          const auto bytes = account.dispatch.find(link.name + way);
          if (bytes == account.dispatch.end()) continue;
          slowest = std::max(
              slowest, static_cast<double>(bytes->second) / (link.gigabytes_per_second * 1e9));
        }
      }
      EXPECT_DOUBLE_EQ(found.dispatch.seconds, slowest);
      seconds += slowest;
    }
    EXPECT_EQ(NamedOf(group, traffic.total.dispatch), total);
    EXPECT_DOUBLE_EQ(traffic.total.dispatch.seconds, seconds);
    EXPECT_EQ(traffic.total.tokens, traffic.layers[0].tokens + traffic.layers[1].tokens);
  }
}

TEST(RoutingTrafficTest, WhatLeavesALink_ArrivesAtOneOfItsKindAndReturns) {
  std::mt19937 random(kSeed);
  const cluster::Topology topology = Cluster(8, 8, 4);
  const GroupLinks group(topology, First(topology, 64));
  const RoutingTrace trace =
      TraceOf(256, {Route(64, 40, 8, std::vector<double>(256, 1.0), random)});
  const RoutingTraffic traffic = Predict(trace, *EqualRuns(256, 64), group);
  std::map<LinkKind, std::pair<int64_t, int64_t>> sums;
  for (size_t i = 0; i < group.links().size(); ++i) {
    const LinkBytes& there = traffic.total.dispatch.links[i];
    const LinkBytes& back = traffic.total.combine.links[i];
    sums[group.links()[i].kind].first += there.out;
    sums[group.links()[i].kind].second += there.in;
    EXPECT_EQ(there.out * kSizes.combine, back.in * kSizes.dispatch) << group.links()[i].name;
    EXPECT_EQ(there.in * kSizes.combine, back.out * kSizes.dispatch) << group.links()[i].name;
  }
  ASSERT_EQ(sums.size(), 3u);
  for (const auto& [kind, sum] : sums) {
    EXPECT_GT(sum.first, 0);
    EXPECT_EQ(sum.first, sum.second) << static_cast<int>(kind);
  }
  const auto& tokens = traffic.total.device_tokens;
  EXPECT_EQ(std::accumulate(tokens.begin(), tokens.end(), int64_t{0}), 64 * 40 * 8);
  // Every pass through a NIC is one of a domain that is not the token's own.
  const double visits = traffic.total.domains_per_token * 64 * 40;
  EXPECT_LT(static_cast<double>(sums[LinkKind::kNic].first) / kSizes.dispatch, visits);
}

TEST(RoutingTrafficTest, OneScaleUpDomain_UsesNoNetwork) {
  std::mt19937 random(kSeed);
  const cluster::Topology topology = Cluster(4, 4, 1, 16);
  const GroupLinks group(topology, First(topology, 16));
  const RoutingTrace trace = TraceOf(32, {Route(16, 9, 3, std::vector<double>(32, 1.0), random)});
  const RoutingTraffic traffic = Predict(trace, *EqualRuns(32, 16), group);
  for (int rank = 0; rank < 16; ++rank) {
    EXPECT_EQ(traffic.total.dispatch.links[group.nic(rank)].out, 0);
    EXPECT_EQ(traffic.total.combine.links[group.nic(rank)].out, 0);
  }
  EXPECT_EQ(traffic.total.dispatch.nic_max_over_mean, 0);
  EXPECT_THAT(traffic.total.dispatch.busiest, HasSubstr("scale-up"));
  EXPECT_EQ(traffic.total.domains_max, 1);
}

TEST(RoutingTrafficTest, RoutingAtRandom_VisitsAsManyNodesAsTheExpectationSays) {
  model::ModelConfig config;
  config.n_routed_experts = 64;
  config.num_experts_per_tok = 6;
  config.n_group = 8;
  config.topk_group = 4;
  for (const int nodes : {2, 8, 16}) {
    std::mt19937 random(kSeed);
    const cluster::Topology topology = Cluster(nodes, 4, 4);
    const int ranks = 4 * nodes;
    const int tokens = 16'000 / ranks;
    RoutingTrace trace = TraceOf(
        64, {Route(ranks, tokens, 6, std::vector<double>(64, 1.0), random, config.n_group, 4)});
    trace.groups = 8;
    trace.topk_group = 4;
    const GroupLinks group(topology, First(topology, ranks));
    const LayerTraffic total = Predict(trace, *EqualRuns(64, ranks), group).total;
    const double expected = model::NodesPerToken(config, ranks, 4);
    // A token visits 1 to 6 nodes: of such a number the standard deviation is 2.5 at most.
    const double error = 4 * 2.5 / std::sqrt(16'000.0);
    EXPECT_NEAR(total.domains_per_token, expected, error) << "seed " << kSeed << ", " << nodes;
    // Tokens come from all nodes alike, so one in `nodes` of those visits is at home.
    int64_t crossed = 0;
    for (int rank = 0; rank < ranks; ++rank) crossed += total.dispatch.links[group.nic(rank)].out;
    EXPECT_NEAR(static_cast<double>(crossed) / kSizes.dispatch / (ranks * tokens),
                expected * (nodes - 1) / nodes, error);
    // A node that holds whole groups is visited for one of four groups; half a group is not.
    if (nodes <= 8) {
      EXPECT_EQ(total.tokens_over_limit, 0);
      EXPECT_LE(total.domains_max, 4);
    } else {
      EXPECT_GT(total.tokens_over_limit, 0);
      EXPECT_GT(total.domains_max, 4);
    }
  }
}

TEST(RoutingTrafficTest, SkewedTrace_IsNoLessEvenWithAPlacementOfItsOwnLoads) {
  std::normal_distribution<double> normal;
  for (uint32_t seed = kSeed; seed < kSeed + 8; ++seed) {
    std::mt19937 random(seed);
    std::vector<double> weights;
    for (int e = 0; e < 64; ++e) weights.push_back(std::exp(normal(random)));
    const cluster::Topology topology = Cluster(4, 4, 4);
    const GroupLinks group(topology, First(topology, 16));
    const Choices choices = Route(16, 100, 4, weights, random, 8, 4);
    const RoutingTrace trace = TraceOf(64, {choices});
    const LayerTraffic runs = Predict(trace, *EqualRuns(64, 16), group).total;
    std::vector<double> loads(64, 0.0);
    for (const auto& rank : choices) {
      for (const auto& token : rank) {
        for (const int expert : token) ++loads[expert];
      }
    }
    for (const int replicas : {64, 80, 96}) {
      const auto placed = PlaceExperts(loads, {64, replicas, 8, 4, 16}, {}, {});
      ASSERT_TRUE(placed.ok()) << placed.status();
      const LayerTraffic better = Predict(trace, {placed->physical_to_logical}, group).total;
      EXPECT_LE(better.device_max_over_mean, runs.device_max_over_mean)
          << "seed " << seed << ", " << replicas << " replicas";
      if (replicas == 64) {
        // Nothing to choose from: the planner's own account.
        EXPECT_NEAR(better.device_max_over_mean, placed->device_max_over_mean, 1e-12);
      }
    }
  }
}

TEST(RoutingTrafficTest, NoTokens_AreNoTraffic) {
  const cluster::Topology topology = Cluster(2, 2, 1);
  const GroupLinks group(topology, First(topology, 4));
  const LayerTraffic total = Predict(TraceOf(4, {Choices(4)}), *EqualRuns(4, 4), group).total;
  EXPECT_EQ(total.tokens, 0);
  EXPECT_EQ(total.dispatch.seconds, 0);
  EXPECT_EQ(total.dispatch.busiest, "");
  EXPECT_EQ(total.device_max_over_mean, 0);
  EXPECT_EQ(total.domains_per_token, 0);
}

TEST(RoutingTrafficTest, WrongTrace_IsRefusedByLayerRankAndToken) {
  const auto refused = [](const RoutingTrace& trace) {
    const absl::Status status = CheckTrace(trace);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  const Choices good = {{{0, 1}, {2}}, {{3}}};
  EXPECT_TRUE(CheckTrace(TraceOf(4, {good})).ok());
  EXPECT_EQ(refused(TraceOf(4, {good, {{{0}}, {{1}, {4}}}})),
            "layer 1, rank 1: token 1 chooses expert 4, but experts are 0 to 3");
  EXPECT_EQ(refused(TraceOf(4, {{{{-1}}}})),
            "layer 0, rank 0: token 0 chooses expert -1, but experts are 0 to 3");
  EXPECT_EQ(refused(TraceOf(4, {{{{2, 1, 2}}}})),
            "layer 0, rank 0: token 0 chooses expert 2 twice");
  EXPECT_EQ(refused(TraceOf(4, {{{{2}, {}}}})), "layer 0, rank 0: token 1 chooses no expert");
  EXPECT_EQ(refused(TraceOf(4, {good, {{{0}}}})), "layer 1 has 1 ranks, but layer 0 has 2");
  EXPECT_EQ(refused(TraceOf(4, {})), "it has no layers");
  EXPECT_EQ(refused(TraceOf(4, {{}})), "layer 0 has no ranks");
  EXPECT_THAT(refused(TraceOf(0, {good})), HasSubstr("must be positive"));
  RoutingTrace groups = TraceOf(4, {good});
  groups.groups = 3;
  EXPECT_EQ(refused(groups), "3 groups don't divide 4 experts");
  groups.groups = 4;
  groups.topk_group = 5;
  EXPECT_EQ(refused(groups), "topk_group is 5, of 4 groups");
  groups.topk_group = 1;
  EXPECT_EQ(refused(groups),
            "layer 0, rank 0: token 0 chooses experts of 2 groups, but topk_group is 1");
  EXPECT_EQ(CheckTrace(TraceOf(5000, {good})).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CheckTrace(TraceOf(4, {Choices(1025)})).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(RoutingTrafficTest, WrongPlacementOrGroup_IsRefused) {
  const cluster::Topology topology = Cluster(2, 2, 1);
  const GroupLinks group(topology, First(topology, 2));
  const RoutingTrace trace = TraceOf(4, {{{{0}}, {{3}}}, {{{0}}, {{3}}}});
  const auto refused = [&](const SlotsOfLayers& slots, const TokenSizes& sizes = kSizes) {
    const auto traffic = PredictRoutingTraffic(trace, slots, group, sizes);
    EXPECT_EQ(traffic.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(traffic.status().message());
  };
  EXPECT_EQ(refused({{0, 1, 2, 3}, {0, 1, 2, 2}}),
            "layer 1: expert 3 has no slot in the placement");
  EXPECT_EQ(refused({{0, 1, 2, 3, 0}}),
            "layer 0: the placement has 5 slots, which 2 ranks don't share equally");
  EXPECT_EQ(refused({{}}), "layer 0: the placement has 0 slots, which 2 ranks don't share equally");
  EXPECT_EQ(refused({{0, 1, 2, 4}}),
            "layer 0: slot 3 of the placement holds 4, but experts are 0 to 3");
  EXPECT_EQ(refused({}), "the placement has 0 layers, but the trace has 2");
  EXPECT_THAT(refused({{0, 1, 2, 3}}, {0, 5}), HasSubstr("a token of 0 bytes"));
  EXPECT_THAT(refused({{0, 1, 2, 3}}, {5, int64_t{1} << 40}), HasSubstr("bytes; it may have"));
  EXPECT_EQ(PredictRoutingTraffic(TraceOf(4, {Choices(3)}), *EqualRuns(4, 4), group, kSizes)
                .status()
                .message(),
            "the trace has 3 ranks, but the group has 2");
  EXPECT_EQ(FirstDevices(topology, 5).status().message(),
            "the trace has 5 ranks, but pool 'h800' has 4 devices besides its spares");
  EXPECT_THAT(std::string(EqualRuns(6, 4).status().message()), HasSubstr("4 ranks don't share 6"));
}

}  // namespace
}  // namespace fathom::planner
