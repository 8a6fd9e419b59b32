#include "coordinator/planner/cost/reduce_time.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <utility>

namespace fathom::planner {
namespace {

constexpr double kGiga = 1e9;
constexpr double kMicro = 1e-6;

void KeepSlower(const cluster::Path& path, cluster::Path* slowest) {
  const bool first = slowest->gigabytes_per_second == 0;
  if (first || path.gigabytes_per_second < slowest->gigabytes_per_second) {
    slowest->hop = path.hop;
    slowest->gigabytes_per_second = path.gigabytes_per_second;
  }
  slowest->latency_us = std::max(slowest->latency_us, path.latency_us);
}

double Seconds(double bytes, const cluster::Path& path) {
  return bytes <= 0 ? 0 : bytes / (path.gigabytes_per_second * kGiga);
}

}  // namespace

RingShape RingOf(const cluster::Topology& topology,
                 const std::vector<RankPlacement::Place>& places) {
  // By domain: its first member's place, and how many.
  std::map<int, std::pair<RankPlacement::Place, int>> domains;
  RingShape out;
  out.ranks = static_cast<int>(places.size());
  for (const RankPlacement::Place& place : places) {
    const int domain = topology.nodes()[place.node].scale_up_domain;
    const auto [found, added] = domains.emplace(domain, std::make_pair(place, 0));
    ++found->second.second;
    if (added) continue;
    const RankPlacement::Place& first = found->second.first;
    KeepSlower(topology.Between(first.node, first.device, place.node, place.device), &out.scale_up);
  }
  out.domains = static_cast<int>(domains.size());
  out.ranks_per_domain = out.ranks;
  for (auto it = domains.begin(); it != domains.end(); ++it) {
    out.ranks_per_domain = std::min(out.ranks_per_domain, it->second.second);
    auto next = std::next(it);
    if (next == domains.end()) next = domains.begin();
    if (next == it) continue;
    const RankPlacement::Place& from = it->second.first;
    const RankPlacement::Place& to = next->second.first;
    KeepSlower(topology.Between(from.node, from.device, to.node, to.device), &out.network);
  }
  return out;
}

double ReduceScatterSeconds(const RingShape& ring, double bytes) {
  if (ring.ranks <= 1) return 0;
  const double members = ring.ranks_per_domain;
  const double domains = ring.domains;
  const double within = Seconds(bytes * (members - 1) / members, ring.scale_up);
  const double between = Seconds(bytes * (domains - 1) / domains / members, ring.network);
  const double latency_s =
      ((members - 1) * ring.scale_up.latency_us + (domains - 1) * ring.network.latency_us) * kMicro;
  return std::max(within, between) + latency_s;
}

double SmallAllReduceSeconds(const RingShape& ring) {
  if (ring.ranks <= 1) return 0;
  const double hops_us = std::ceil(std::log2(ring.ranks_per_domain)) * ring.scale_up.latency_us +
                         std::ceil(std::log2(ring.domains)) * ring.network.latency_us;
  return 2 * hops_us * kMicro;
}

}  // namespace fathom::planner
