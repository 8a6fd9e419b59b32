// What the tokens of a recorded routing put on every link, by where the experts lie. (What a
// routing would do on average, if all experts were as likely: common/model/expert_traffic.)
//
// A token goes once over the network to every scale-up domain that holds one of its experts, from
// its device to the device of the same index there, and from that to each device of the domain that
// holds one; in its own domain straight to each. The way back is the reverse, summing at each hop,
// so its bytes on a link are those of the way there with out and in exchanged. A domain is a node
// where scale-up links end there; a device's index counts the group's devices of its domain, and
// begins again where the target domain has fewer.
//
// Of an expert with copies a token takes the one on its own device, else in its own domain, else in
// a domain it visits anyway (for an expert with one copy, or one chosen before), else any; among
// several of them the device with the fewest tokens so far in this layer, the first of equals.
//
// Times are those of the slowest link at the rate transfers reach, without latency: nothing else
// uses the links, and hops overlap. The uplink of a leaf is what the group's own devices have a
// share in: their NICs' rates over the oversubscription. Pure and deterministic.
#ifndef FATHOM_COORDINATOR_PLANNER_ROUTING_TRAFFIC_H_
#define FATHOM_COORDINATOR_PLANNER_ROUTING_TRAFFIC_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/cluster/topology.h"
#include "coordinator/planner/rank_placement.h"

namespace fathom::planner {

// The tokens of one expert rank in one layer, each with the experts it chose.
class RoutedTokens {
 public:
  void Add(absl::Span<const int> experts);
  size_t size() const { return ends_.size(); }
  absl::Span<const int> operator[](size_t token) const;

 private:
  std::vector<int> experts_;
  std::vector<size_t> ends_;  // of each token's, in experts_
};

struct RoutingTrace {
  int experts = 0;
  int groups = 1;      // of experts, in equal runs
  int topk_group = 0;  // groups that a token may choose from, and nodes it should visit; 0: any
  std::vector<std::vector<RoutedTokens>> layers;  // by layer, then expert rank

  int ranks() const { return layers.empty() ? 0 : static_cast<int>(layers.front().size()); }
};

// INVALID_ARGUMENT, naming layer, rank and token: no layer or rank, layers of unlike many ranks, a
// token without experts, an expert that is none or chosen twice, more groups than may be chosen
// from, groups that don't divide the experts. FAILED_PRECONDITION: more experts or ranks than can
// be planned.
absl::Status CheckTrace(const RoutingTrace& trace);

// By layer: the expert of each slot, device by device.
using SlotsOfLayers = std::vector<std::vector<int>>;

// One copy of each expert, in equal runs; one layer, which stands for all. INVALID_ARGUMENT: the
// ranks don't divide the experts.
absl::StatusOr<SlotsOfLayers> EqualRuns(int experts, int ranks);

// The first `ranks` devices of the first pool, node by node, without its spares.
// RESOURCE_EXHAUSTED: it has fewer.
absl::StatusOr<std::vector<RankPlacement::Place>> FirstDevices(const cluster::Topology& topology,
                                                               int ranks);

enum class LinkKind : uint8_t { kNic, kScaleUp, kUplink };

// Both ways of it have this rate.
struct Link {
  LinkKind kind = LinkKind::kNic;
  std::string name;  // "h800-3 device 5 NIC", "h800-3 device 5 scale-up", "leaf 1 uplink"
  double gigabytes_per_second = 0;
};

// Where the ranks of one expert group lie, and the links they use.
class GroupLinks {
 public:
  // `places`: by expert rank, distinct devices of the topology.
  GroupLinks(const cluster::Topology& topology, const std::vector<RankPlacement::Place>& places);

  int ranks() const { return static_cast<int>(domain_of_rank_.size()); }
  int domains() const { return static_cast<int>(ranks_of_domain_.size()); }
  int domain_of(int rank) const { return domain_of_rank_[rank]; }
  int leaf_of(int rank) const { return leaf_of_rank_[rank]; }
  // Of the domain, the rank that takes in what `rank` sends there.
  int Counterpart(int rank, int domain) const;

  const std::vector<Link>& links() const { return links_; }
  size_t nic(int rank) const { return static_cast<size_t>(rank); }  // indices into links()
  size_t scale_up(int rank) const { return static_cast<size_t>(ranks() + rank); }
  size_t uplink(int leaf) const { return static_cast<size_t>(2 * ranks() + leaf); }

 private:
  // Domains and leaves of the group, numbered from 0 as its ranks meet them.
  std::vector<int> domain_of_rank_;
  std::vector<int> index_of_rank_;  // among its domain's
  std::vector<int> leaf_of_rank_;
  std::vector<std::vector<int>> ranks_of_domain_;
  std::vector<Link> links_;
};

struct LinkBytes {
  int64_t out = 0;
  int64_t in = 0;
};

// One way of all tokens.
struct ExchangeTraffic {
  std::vector<LinkBytes> links;  // as GroupLinks::links()
  double seconds = 0;            // of the slowest link; of several layers, the sum
  // The link that takes longest and whether on its way out; empty: nothing travels.
  std::string busiest;
  double nic_max_over_mean = 0;  // over NICs and both ways; 0: nothing is on them
};

struct LayerTraffic {
  ExchangeTraffic dispatch;
  ExchangeTraffic combine;
  int64_t tokens = 0;
  std::vector<int64_t> device_tokens;  // by rank: tokens of its experts, counted for each expert
  double device_max_over_mean = 0;
  double domains_per_token = 0;  // mean; its own counts if it holds one of its experts
  int domains_max = 0;
  int64_t tokens_over_limit = 0;  // that visit more domains than topk_group; 0 if any may
};

struct RoutingTraffic {
  std::vector<LayerTraffic> layers;
  LayerTraffic total;
};

struct TokenSizes {
  int64_t dispatch = 0;  // bytes of a token on its way, and back
  int64_t combine = 0;
};

// `slots`: of every layer, or one layer for all; slots are dealt to the group's ranks in equal
// runs. CheckTrace's codes; INVALID_ARGUMENT: the group has not the trace's ranks, slots that the
// ranks don't divide, a layer without slots or an expert without one, sizes that are not positive
// or above limits::kMaxBytesOfToken.
absl::StatusOr<RoutingTraffic> PredictRoutingTraffic(const RoutingTrace& trace,
                                                     const SlotsOfLayers& slots,
                                                     const GroupLinks& group,
                                                     const TokenSizes& sizes);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_ROUTING_TRAFFIC_H_
