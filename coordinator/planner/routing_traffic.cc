#include "coordinator/planner/routing_traffic.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "coordinator/planner/expert_placement.h"

namespace fathom::planner {
namespace {

constexpr double kGiga = 1e9;

// Numbers marked since the last Clear, which costs nothing.
class Marks {
 public:
  explicit Marks(size_t size) : marked_in_(size, 0) {}
  void Clear() { ++now_; }
  bool Has(int number) const { return marked_in_[static_cast<size_t>(number)] == now_; }
  // Whether it is new.
  bool Mark(int number) {
    return std::exchange(marked_in_[static_cast<size_t>(number)], now_) != now_;
  }

 private:
  std::vector<uint64_t> marked_in_;
  uint64_t now_ = 1;
};

// Who has an expert, ascending and each rank once; by expert.
using Holders = std::vector<std::vector<int>>;

absl::StatusOr<Holders> HoldersOf(const std::vector<int>& slots, int experts, int ranks) {
  if (slots.empty() || slots.size() % static_cast<size_t>(ranks) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the placement has ", slots.size(), " slots, which ", ranks, " ranks don't share equally"));
  }
  const size_t slots_per_rank = slots.size() / static_cast<size_t>(ranks);
  Holders holders(experts);
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot] < 0 || slots[slot] >= experts) {
      return absl::InvalidArgumentError(absl::StrCat("slot ", slot, " of the placement holds ",
                                                     slots[slot], ", but experts are 0 to ",
                                                     experts - 1));
    }
    std::vector<int>& of_expert = holders[slots[slot]];
    const int rank = static_cast<int>(slot / slots_per_rank);
    if (of_expert.empty() || of_expert.back() != rank) of_expert.push_back(rank);
  }
  const auto none = std::find(holders.begin(), holders.end(), std::vector<int>());
  if (none == holders.end()) return holders;
  return absl::InvalidArgumentError(
      absl::StrCat("expert ", none - holders.begin(), " has no slot in the placement"));
}

// The tokens that cross a link, and what else a layer's tokens come to.
struct Count {
  std::vector<LinkBytes> tokens;       // of dispatch, one byte each
  std::vector<int64_t> device_tokens;  // by rank
  int64_t domains = 0;                 // over all tokens
};

// Walks one layer's tokens.
class LayerWalk {
 public:
  LayerWalk(const GroupLinks& group, const Holders& holders, int topk_group)
      : group_(group),
        holders_(holders),
        topk_group_(topk_group),
        domains_(static_cast<size_t>(group.domains())),
        targets_(static_cast<size_t>(group.ranks())) {
    count_.tokens.resize(group.links().size());
    count_.device_tokens.resize(static_cast<size_t>(group.ranks()));
  }

  void Travel(int source, absl::Span<const int> experts, LayerTraffic& out) {
    ChooseDevices(source, experts);
    const int visited = static_cast<int>(visited_.size());
    ++out.tokens;
    count_.domains += visited;
    out.domains_max = std::max(out.domains_max, visited);
    if (topk_group_ > 0 && visited > topk_group_) ++out.tokens_over_limit;
    for (const int domain : visited_) {
      if (domain != group_.domain_of(source)) Cross(source, group_.Counterpart(source, domain));
    }
    for (const int target : chosen_) {
      const int domain = group_.domain_of(target);
      const int from =
          domain == group_.domain_of(source) ? source : group_.Counterpart(source, domain);
      if (from != target) Carry(group_.scale_up(from), group_.scale_up(target));
    }
  }

  const Count& count() const { return count_; }

 private:
  // Fills chosen_, its ranks each once, and visited_, their domains each once.
  void ChooseDevices(int source, absl::Span<const int> experts) {
    domains_.Clear();
    targets_.Clear();
    visited_.clear();
    chosen_.clear();
    for (const int expert : experts) {
      if (holders_[expert].size() == 1) Choose(holders_[expert].front());
    }
    for (const int expert : experts) {
      if (holders_[expert].size() > 1) Choose(BestCopy(source, holders_[expert]));
    }
  }

  void Choose(int rank) {
    ++count_.device_tokens[rank];
    if (targets_.Mark(rank)) chosen_.push_back(rank);
    if (domains_.Mark(group_.domain_of(rank))) visited_.push_back(group_.domain_of(rank));
  }

  int BestCopy(int source, const std::vector<int>& copies) const {
    const auto price = [&](int rank) {
      const int domain = group_.domain_of(rank);
      const int distance = rank == source                       ? 0
                           : domain == group_.domain_of(source) ? 1
                           : domains_.Has(domain)               ? 2
                                                                : 3;
      return std::tuple(distance, count_.device_tokens[rank], rank);
    };
    return *std::min_element(copies.begin(), copies.end(),
                             [&](int a, int b) { return price(a) < price(b); });
  }

  void Cross(int source, int counterpart) {
    Carry(group_.nic(source), group_.nic(counterpart));
    const int from = group_.leaf_of(source);
    const int to = group_.leaf_of(counterpart);
    if (from != to) Carry(group_.uplink(from), group_.uplink(to));
  }

  void Carry(size_t from, size_t to) {
    ++count_.tokens[from].out;
    ++count_.tokens[to].in;
  }

  const GroupLinks& group_;
  const Holders& holders_;
  const int topk_group_;
  Marks domains_;
  Marks targets_;
  std::vector<int> visited_;
  std::vector<int> chosen_;
  Count count_;
};

double MaxOverMean(const std::vector<int64_t>& numbers) {
  double sum = 0;
  for (const int64_t number : numbers) sum += static_cast<double>(number);
  if (sum == 0) return 0;
  return static_cast<double>(*std::max_element(numbers.begin(), numbers.end())) *
         static_cast<double>(numbers.size()) / sum;
}

// Fills in what follows from the links' bytes.
void Summarize(const GroupLinks& group, ExchangeTraffic& out) {
  std::vector<int64_t> nics;
  for (size_t i = 0; i < group.links().size(); ++i) {
    const Link& link = group.links()[i];
    const LinkBytes& bytes = out.links[i];
    if (link.kind == LinkKind::kNic) nics.insert(nics.end(), {bytes.out, bytes.in});
    for (const auto& [way, amount] : {std::pair("out", bytes.out), std::pair("in", bytes.in)}) {
      const double seconds = static_cast<double>(amount) / (link.gigabytes_per_second * kGiga);
      if (seconds <= out.seconds) continue;
      out.seconds = seconds;
      out.busiest = absl::StrCat(link.name, " ", way);
    }
  }
  out.nic_max_over_mean = MaxOverMean(nics);
}

LayerTraffic TrafficOfLayer(const std::vector<RoutedTokens>& ranks, int topk_group,
                            const Holders& holders, const GroupLinks& group,
                            const TokenSizes& sizes) {
  LayerTraffic out;
  LayerWalk walk(group, holders, topk_group);
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    for (size_t token = 0; token < ranks[rank].size(); ++token) {
      walk.Travel(static_cast<int>(rank), ranks[rank][token], out);
    }
  }
  for (const LinkBytes& tokens : walk.count().tokens) {
    out.dispatch.links.push_back({tokens.out * sizes.dispatch, tokens.in * sizes.dispatch});
    out.combine.links.push_back({tokens.in * sizes.combine, tokens.out * sizes.combine});
  }
  Summarize(group, out.dispatch);
  Summarize(group, out.combine);
  out.device_tokens = walk.count().device_tokens;
  out.device_max_over_mean = MaxOverMean(out.device_tokens);
  if (out.tokens > 0) {
    out.domains_per_token =
        static_cast<double>(walk.count().domains) / static_cast<double>(out.tokens);
  }
  return out;
}

// Exchanges follow each other: bytes add up link by link, and so do seconds.
void AddUp(const GroupLinks& group, const std::vector<const ExchangeTraffic*>& parts,
           ExchangeTraffic& total) {
  total.links.resize(group.links().size());
  double seconds = 0;
  for (const ExchangeTraffic* part : parts) {
    seconds += part->seconds;
    for (size_t i = 0; i < part->links.size(); ++i) {
      total.links[i].out += part->links[i].out;
      total.links[i].in += part->links[i].in;
    }
  }
  Summarize(group, total);
  total.seconds = seconds;
}

LayerTraffic TotalOf(const GroupLinks& group, const std::vector<LayerTraffic>& layers) {
  LayerTraffic total;
  total.device_tokens.resize(static_cast<size_t>(group.ranks()));
  double domains = 0;
  std::vector<const ExchangeTraffic*> dispatches;
  std::vector<const ExchangeTraffic*> combines;
  for (const LayerTraffic& layer : layers) {
    dispatches.push_back(&layer.dispatch);
    combines.push_back(&layer.combine);
    total.tokens += layer.tokens;
    domains += layer.domains_per_token * static_cast<double>(layer.tokens);
    total.domains_max = std::max(total.domains_max, layer.domains_max);
    total.tokens_over_limit += layer.tokens_over_limit;
    for (size_t rank = 0; rank < layer.device_tokens.size(); ++rank) {
      total.device_tokens[rank] += layer.device_tokens[rank];
    }
  }
  AddUp(group, dispatches, total.dispatch);
  AddUp(group, combines, total.combine);
  total.device_max_over_mean = MaxOverMean(total.device_tokens);
  if (total.tokens > 0) total.domains_per_token = domains / static_cast<double>(total.tokens);
  return total;
}

absl::Status CheckToken(const RoutingTrace& trace, absl::Span<const int> experts, Marks& chosen,
                        Marks& groups) {
  if (experts.empty()) return absl::InvalidArgumentError("chooses no expert");
  chosen.Clear();
  groups.Clear();
  int groups_chosen = 0;
  const int group_size = trace.experts / trace.groups;
  for (const int expert : experts) {
    if (expert < 0 || expert >= trace.experts) {
      return absl::InvalidArgumentError(
          absl::StrCat("chooses expert ", expert, ", but experts are 0 to ", trace.experts - 1));
    }
    if (!chosen.Mark(expert)) {
      return absl::InvalidArgumentError(absl::StrCat("chooses expert ", expert, " twice"));
    }
    if (groups.Mark(expert / group_size)) ++groups_chosen;
  }
  if (trace.topk_group > 0 && groups_chosen > trace.topk_group) {
    return absl::InvalidArgumentError(absl::StrCat(
        "chooses experts of ", groups_chosen, " groups, but topk_group is ", trace.topk_group));
  }
  return absl::OkStatus();
}

absl::Status CheckSizesOf(const RoutingTrace& trace) {
  if (trace.experts < 1 || trace.groups < 1 || trace.topk_group < 0) {
    return absl::InvalidArgumentError(absl::StrCat("experts (", trace.experts, ") and groups (",
                                                   trace.groups, ") must be positive, topk_group (",
                                                   trace.topk_group, ") not negative"));
  }
  if (trace.experts > kMaxExperts) {
    return absl::FailedPreconditionError(absl::StrCat(trace.experts, " experts are more than the ",
                                                      kMaxExperts, " that can be planned"));
  }
  if (trace.experts % trace.groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(trace.groups, " groups don't divide ", trace.experts, " experts"));
  }
  if (trace.topk_group > trace.groups) {
    return absl::InvalidArgumentError(
        absl::StrCat("topk_group is ", trace.topk_group, ", of ", trace.groups, " groups"));
  }
  if (trace.ranks() == 0) {
    return absl::InvalidArgumentError(trace.layers.empty() ? "it has no layers"
                                                           : "layer 0 has no ranks");
  }
  if (trace.ranks() > kMaxExpertDevices) {
    return absl::FailedPreconditionError(absl::StrCat(trace.ranks(), " ranks are more than the ",
                                                      kMaxExpertDevices, " that can be planned"));
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const RoutingTrace& trace, const SlotsOfLayers& slots,
                          const GroupLinks& group, const TokenSizes& sizes) {
  FATHOM_RETURN_IF_ERROR(CheckTrace(trace));
  if (group.ranks() != trace.ranks()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the trace has ", trace.ranks(), " ranks, but the group has ", group.ranks()));
  }
  if (slots.size() != 1 && slots.size() < trace.layers.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the placement has ", slots.size(), " layers, but the trace has ", trace.layers.size()));
  }
  for (const int64_t bytes : {sizes.dispatch, sizes.combine}) {
    if (bytes < 1 || bytes > limits::kMaxBytesOfToken) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a token of ", bytes, " bytes; it may have 1 to ", limits::kMaxBytesOfToken));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void RoutedTokens::Add(absl::Span<const int> experts) {
  experts_.insert(experts_.end(), experts.begin(), experts.end());
  ends_.push_back(experts_.size());
}

absl::Span<const int> RoutedTokens::operator[](size_t token) const {
  const size_t begin = token == 0 ? 0 : ends_[token - 1];
  return absl::MakeConstSpan(experts_).subspan(begin, ends_[token] - begin);
}

absl::Status CheckTrace(const RoutingTrace& trace) {
  FATHOM_RETURN_IF_ERROR(CheckSizesOf(trace));
  Marks chosen(static_cast<size_t>(trace.experts));
  Marks groups(static_cast<size_t>(trace.groups));
  for (size_t layer = 0; layer < trace.layers.size(); ++layer) {
    const std::vector<RoutedTokens>& ranks = trace.layers[layer];
    if (static_cast<int>(ranks.size()) != trace.ranks()) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " has ", ranks.size(),
                                                     " ranks, but layer 0 has ", trace.ranks()));
    }
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      for (size_t token = 0; token < ranks[rank].size(); ++token) {
        const absl::Status status = CheckToken(trace, ranks[rank][token], chosen, groups);
        if (status.ok()) continue;
        return absl::Status(status.code(), absl::StrCat("layer ", layer, ", rank ", rank,
                                                        ": token ", token, " ", status.message()));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SlotsOfLayers> EqualRuns(int experts, int ranks) {
  if (experts < 1 || ranks < 1 || experts % ranks != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(ranks, " ranks don't share ", experts,
                     " experts equally; give a placement whose slots they do"));
  }
  SlotsOfLayers slots(1);
  for (int expert = 0; expert < experts; ++expert) slots[0].push_back(expert);
  return slots;
}

absl::StatusOr<std::vector<RankPlacement::Place>> FirstDevices(const cluster::Topology& topology,
                                                               int ranks) {
  std::vector<RankPlacement::Place> places;
  for (size_t n = 0; n < topology.nodes().size(); ++n) {
    const cluster::TopologyNode& node = topology.nodes()[n];
    if (node.pool != 0 || node.spare) continue;
    for (int device = 0; device < node.devices; ++device) {
      if (static_cast<int>(places.size()) == ranks) return places;
      places.push_back({static_cast<int>(n), device});
    }
  }
  if (static_cast<int>(places.size()) == ranks) return places;
  return absl::ResourceExhaustedError(absl::StrCat("the trace has ", ranks, " ranks, but pool '",
                                                   topology.spec().pools(0).name(), "' has ",
                                                   places.size(), " devices besides its spares"));
}

GroupLinks::GroupLinks(const cluster::Topology& topology,
                       const std::vector<RankPlacement::Place>& places) {
  std::map<int, int> number_of_domain;
  std::map<int, int> number_of_leaf;
  std::vector<Link> scale_up;
  std::vector<Link> uplinks;
  std::set<std::pair<int, int>> devices;
  for (size_t rank = 0; rank < places.size(); ++rank) {
    const auto [node_index, device] = places[rank];
    FATHOM_CHECK(devices.emplace(node_index, device).second) << node_index << " " << device;
    const cluster::TopologyNode& node = topology.nodes()[node_index];
    const int domain =
        number_of_domain.emplace(node.scale_up_domain, static_cast<int>(number_of_domain.size()))
            .first->second;
    const int leaf =
        number_of_leaf.emplace(node.leaf, static_cast<int>(number_of_leaf.size())).first->second;
    ranks_of_domain_.resize(number_of_domain.size());
    uplinks.resize(number_of_leaf.size());
    domain_of_rank_.push_back(domain);
    index_of_rank_.push_back(static_cast<int>(ranks_of_domain_[domain].size()));
    ranks_of_domain_[domain].push_back(static_cast<int>(rank));
    leaf_of_rank_.push_back(leaf);
    const v1::Pool& pool = topology.pool_of(node_index);
    const double nic = pool.nic_gigabits_per_second() / 8 * pool.nics_per_node() /
                       pool.devices_per_node() * topology.spec().fabric().efficiency();
    const std::string name = absl::StrCat(node.name, " device ", device);
    links_.push_back({LinkKind::kNic, absl::StrCat(name, " NIC"), nic});
    scale_up.push_back({LinkKind::kScaleUp, absl::StrCat(name, " scale-up"),
                        topology.profile_of(node_index).scale_up_effective_gigabytes_per_second()});
    uplinks[leaf].kind = LinkKind::kUplink;
    uplinks[leaf].name = absl::StrCat("leaf ", node.leaf, " uplink");
    uplinks[leaf].gigabytes_per_second += nic / topology.spec().fabric().oversubscription();
  }
  links_.insert(links_.end(), scale_up.begin(), scale_up.end());
  links_.insert(links_.end(), uplinks.begin(), uplinks.end());
  for (const Link& link : links_) {
    FATHOM_CHECK(link.gigabytes_per_second > 0) << link.name;
  }
}

int GroupLinks::Counterpart(int rank, int domain) const {
  const std::vector<int>& there = ranks_of_domain_[domain];
  return there[static_cast<size_t>(index_of_rank_[rank]) % there.size()];
}

absl::StatusOr<RoutingTraffic> PredictRoutingTraffic(const RoutingTrace& trace,
                                                     const SlotsOfLayers& slots,
                                                     const GroupLinks& group,
                                                     const TokenSizes& sizes) {
  FATHOM_RETURN_IF_ERROR(CheckRequest(trace, slots, group, sizes));
  RoutingTraffic out;
  for (size_t layer = 0; layer < trace.layers.size(); ++layer) {
    const auto holders =
        HoldersOf(slots[slots.size() == 1 ? 0 : layer], trace.experts, trace.ranks());
    if (!holders.ok()) return WithContext(holders.status(), absl::StrCat("layer ", layer));
    out.layers.push_back(
        TrafficOfLayer(trace.layers[layer], trace.topk_group, *holders, group, sizes));
  }
  out.total = TotalOf(group, out.layers);
  return out;
}

}  // namespace fathom::planner
