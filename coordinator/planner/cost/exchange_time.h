// How long the tokens of one micro-batch travel to their experts and back, over the topology that
// the ranks of an expert group lie on.
//
// A token goes once to every scale-up domain that holds one of its experts, over the network to the
// rank of the same index there, and from there to each of its target ranks; the way back is the
// reverse, summing at each hop (as DeepEP does). Within one domain there is no network. Where
// the device has measured rates of such an exchange they count, else what its links reach.
//
// How many domains and ranks a token meets is an exact expectation: every set of `topk_group`
// expert groups is as likely as any other, and every choice of experts within it.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_EXCHANGE_TIME_H_
#define FATHOM_COORDINATOR_PLANNER_COST_EXCHANGE_TIME_H_

#include <cstdint>
#include <vector>

#include "common/cluster/topology.h"
#include "common/model/model_config.h"
#include "coordinator/planner/cost/op_rate.h"
#include "coordinator/planner/rank_placement.h"

namespace fathom::planner {

// Expected number of distinct sites that hold at least one expert of a token. `site_of_expert`:
// from 0, of every routed expert.
double ExpectedSites(const model::ModelConfig& config, const std::vector<int>& site_of_expert);

// What exchanges of one expert group depend on; equal ones take equally long.
struct GroupSpread {
  int ranks = 0;
  int domains = 0;            // scale-up domains that its ranks lie in
  int ranks_per_domain = 0;   // most of them in one
  double token_domains = 0;   // expected for a token, its own counted
  double token_ranks = 0;     // the same
  double remote_domains = 0;  // without its own, on average over the ranks
  cluster::Path network;      // slowest between two domains of the group
  cluster::Path scale_up;     // slowest within one
};

// `places`: of the group's ranks by expert rank; rank e holds experts [e * E / ranks, ...), in
// order. `ranks` divides the experts.
GroupSpread SpreadOf(const model::ModelConfig& config, const cluster::Topology& topology,
                     const std::vector<RankPlacement::Place>& places);

enum class ExchangeKind : uint8_t { kDispatch, kCombine };

// Of all tokens of a rank.
struct ExchangeLoad {
  ExchangeKind kind = ExchangeKind::kDispatch;
  double tokens = 0;
  double bytes_per_token = 0;
  double imbalance = 1;  // of the rank with most, over the mean
};

// `nic_share`: the pool's line rate over the profile's, at which the profile's rates were measured.
BoundedTime ExchangeTime(const v1::DeviceProfile& profile, double nic_share,
                         const GroupSpread& spread, const ExchangeLoad& load);

// What an exchange reads and writes in a device's memory, bytes: over the network a token is
// written to the sender's buffer, read by its NIC, written by the peer's, and read to be handed on;
// within the domain it is written by the peer, read, and written to its place.
double ExchangeMemoryBytes(const GroupSpread& spread, const ExchangeLoad& load);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_EXCHANGE_TIME_H_
