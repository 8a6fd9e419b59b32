#include "coordinator/planner/cost/exchange_time.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>

#include "absl/strings/string_view.h"
#include "common/base/check.h"

namespace fathom::planner {
namespace {

constexpr double kGiga = 1e9;
constexpr double kMicro = 1e-6;

// C(total - held, chosen) / C(total, chosen): that none of `held` is among `chosen` of `total`.
double ChanceOfNone(int64_t total, int64_t held, int64_t chosen) {
  if (total - held < chosen) return 0;
  double chance = 1;
  for (int64_t i = 0; i < chosen; ++i) {
    chance *= static_cast<double>(total - held - i) / static_cast<double>(total - i);
  }
  return chance;
}

// Over all sets of `kept` groups, the chance that a token misses a site with `held[g]` experts in
// group g.
double ChanceOfMiss(const std::vector<int64_t>& held, int64_t kept, int64_t total, int64_t chosen) {
  // ways[j][c]: share-free count of sets of j groups that hold c of the site's experts.
  std::vector<std::map<int64_t, double>> ways(kept + 1);
  ways[0][0] = 1;
  for (const int64_t count : held) {
    for (int64_t j = kept; j > 0; --j) {
      for (const auto& [sum, number] : ways[j - 1]) ways[j][sum + count] += number;
    }
  }
  double sets = 0;
  double missed = 0;
  for (const auto& [sum, number] : ways[kept]) {
    sets += number;
    missed += number * ChanceOfNone(total, sum, chosen);
  }
  return missed / sets;
}

struct SiteChances {
  std::vector<double> hit;  // by site
  double sum = 0;
};

SiteChances ChancesOf(const model::ModelConfig& config, const std::vector<int>& site_of_expert) {
  FATHOM_CHECK(static_cast<int64_t>(site_of_expert.size()) == config.n_routed_experts)
      << site_of_expert.size() << " sites for " << config.n_routed_experts << " experts";
  const int64_t group_size = config.n_routed_experts / config.n_group;
  int sites = 0;
  for (const int site : site_of_expert) sites = std::max(sites, site + 1);
  std::vector<std::vector<int64_t>> held(sites, std::vector<int64_t>(config.n_group, 0));
  for (size_t e = 0; e < site_of_expert.size(); ++e) {
    ++held[site_of_expert[e]][static_cast<int64_t>(e) / group_size];
  }
  SiteChances out;
  std::map<std::vector<int64_t>, double> known;  // most sites are alike, save for which group
  for (const auto& counts : held) {
    std::vector<int64_t> key = counts;
    std::sort(key.begin(), key.end());
    auto found = known.find(key);
    if (found == known.end()) {
      const double miss = ChanceOfMiss(counts, config.topk_group, group_size * config.topk_group,
                                       config.num_experts_per_tok);
      found = known.emplace(std::move(key), 1 - miss).first;
    }
    out.hit.push_back(found->second);
    out.sum += found->second;
  }
  return out;
}

// The measured rate at a number of domains, bytes/s: between two measured ones by the logarithm,
// beyond them the nearest; of one domain only what was measured within one. 0: none.
double MeasuredRate(const v1::DeviceProfile& profile, absl::string_view op, int domains) {
  std::map<int64_t, double> rates;
  for (const v1::MeasuredRate& rate : profile.rates()) {
    if (rate.op() == op && (rate.groups() == 1) == (domains == 1)) {
      rates[rate.groups()] = rate.rate() * kGiga;
    }
  }
  if (rates.empty()) return 0;
  const auto above = rates.lower_bound(domains);
  if (above == rates.end()) return rates.rbegin()->second;
  if (above == rates.begin() || above->first == domains) return above->second;
  const auto below = std::prev(above);
  const double at = std::log2(static_cast<double>(domains) / below->first) /
                    std::log2(static_cast<double>(above->first) / below->first);
  return below->second + at * (above->second - below->second);
}

bool Slower(const cluster::Path& a, const cluster::Path& b) {
  return b.gigabytes_per_second == 0 || a.gigabytes_per_second < b.gigabytes_per_second ||
         (a.gigabytes_per_second == b.gigabytes_per_second && a.latency_us > b.latency_us);
}

double Seconds(double bytes, const cluster::Path& path) {
  return bytes <= 0 ? 0 : bytes / (path.gigabytes_per_second * kGiga);
}

// Copies of a token that are handed on within a domain: one arrives at the rank it is for as often
// as that has the same index as its sender.
double ScaleUpCopies(const GroupSpread& spread) {
  return spread.token_ranks * (spread.ranks_per_domain - 1.0) / spread.ranks_per_domain;
}

}  // namespace

double ExpectedSites(const model::ModelConfig& config, const std::vector<int>& site_of_expert) {
  return ChancesOf(config, site_of_expert).sum;
}

GroupSpread SpreadOf(const model::ModelConfig& config, const cluster::Topology& topology,
                     const std::vector<RankPlacement::Place>& places) {
  GroupSpread out;
  out.ranks = static_cast<int>(places.size());
  std::map<int, int> index_of_domain;
  std::vector<int> ranks_in;
  std::vector<size_t> first_of;
  std::vector<int> domain_of_rank;
  for (size_t rank = 0; rank < places.size(); ++rank) {
    const cluster::TopologyNode& node = topology.nodes()[places[rank].node];
    const auto [found, added] =
        index_of_domain.emplace(node.scale_up_domain, static_cast<int>(ranks_in.size()));
    if (added) {
      ranks_in.push_back(0);
      first_of.push_back(rank);
    }
    ++ranks_in[found->second];
    domain_of_rank.push_back(found->second);
    const size_t first = first_of[found->second];
    if (first == rank) continue;
    const cluster::Path path = topology.Between(places[first].node, places[first].device,
                                                places[rank].node, places[rank].device);
    if (Slower(path, out.scale_up)) out.scale_up = path;
  }
  out.domains = static_cast<int>(ranks_in.size());
  out.ranks_per_domain = *std::max_element(ranks_in.begin(), ranks_in.end());
  for (size_t a = 0; a < first_of.size(); ++a) {
    const size_t b = (a + 1) % first_of.size();
    for (const size_t other : {b, first_of.size() - 1 - a}) {
      if (other == a) continue;
      const auto& from = places[first_of[a]];
      const auto& to = places[first_of[other]];
      const cluster::Path path = topology.Between(from.node, from.device, to.node, to.device);
      if (Slower(path, out.network)) out.network = path;
    }
  }
  std::vector<int> rank_of(config.n_routed_experts);
  std::vector<int> domain_of(config.n_routed_experts);
  for (int64_t e = 0; e < config.n_routed_experts; ++e) {
    rank_of[e] = static_cast<int>(e * out.ranks / config.n_routed_experts);
    domain_of[e] = domain_of_rank[rank_of[e]];
  }
  out.token_ranks = ChancesOf(config, rank_of).sum;
  const SiteChances domains = ChancesOf(config, domain_of);
  out.token_domains = domains.sum;
  double own = 0;
  for (const int domain : domain_of_rank) own += domains.hit[domain];
  out.remote_domains = out.token_domains - own / out.ranks;
  return out;
}

BoundedTime ExchangeTime(const v1::DeviceProfile& profile, double nic_share,
                         const GroupSpread& spread, const ExchangeLoad& load) {
  if (spread.ranks <= 1) return {0, Bound::kLatency};
  const double bytes = load.tokens * load.bytes_per_token * load.imbalance;
  const double network_s = Seconds(bytes * spread.remote_domains, spread.network);
  const double scale_up_s =
      spread.ranks_per_domain > 1 ? Seconds(bytes * ScaleUpCopies(spread), spread.scale_up) : 0;
  const absl::string_view op = load.kind == ExchangeKind::kDispatch ? "dispatch" : "combine";
  double rate = MeasuredRate(profile, op, spread.domains);
  if (spread.domains > 1) rate *= nic_share;
  const double logical = bytes * (spread.domains > 1 ? spread.token_domains : spread.token_ranks);
  const double measured_s = rate > 0 ? logical / rate : 0;
  const double latency_s = (spread.domains > 1 ? spread.network.latency_us : 0) * kMicro +
                           (spread.ranks_per_domain > 1 ? spread.scale_up.latency_us : 0) * kMicro;
  const double work_s = std::max({network_s, scale_up_s, measured_s});
  const bool over_network = spread.domains > 1 && scale_up_s < work_s;
  const Bound bound = latency_s > work_s ? Bound::kLatency
                      : over_network     ? Bound::kNetwork
                                         : Bound::kScaleUp;
  return {work_s + latency_s, bound};
}

double ExchangeMemoryBytes(const GroupSpread& spread, const ExchangeLoad& load) {
  if (spread.ranks <= 1) return 0;
  const double network = spread.domains > 1 ? 4 * spread.token_domains : 0;
  return load.tokens * load.bytes_per_token * load.imbalance *
         (1 + network + 3 * spread.token_ranks);
}

}  // namespace fathom::planner
