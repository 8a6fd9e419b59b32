#include "common/plan/buddy.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "common/base/check.h"

namespace fathom::plan {
namespace {

// Where a rank lies, each as a number: what is unknown has a number of its own.
struct Site {
  int node = 0;
  int domain = 0;
  int leaf = 0;
  int together = 0;  // domains and leaves that overlap, directly or through others
};

// Numbers of names, in the order of the names.
class Names {
 public:
  void Add(const std::string& name) { numbers_.emplace(name, 0); }
  void Close() {
    int next = 0;
    for (auto& [name, number] : numbers_) number = next++;
  }
  int Of(const std::string& name) const { return numbers_.at(name); }
  int size() const { return static_cast<int>(numbers_.size()); }

 private:
  std::map<std::string, int> numbers_;
};

class Union {
 public:
  explicit Union(int size) : parent_(static_cast<size_t>(size)) {
    std::iota(parent_.begin(), parent_.end(), 0);
  }
  int Find(int one) {
    while (parent_[one] != one) one = parent_[one] = parent_[parent_[one]];
    return one;
  }
  void Join(int a, int b) { parent_[std::max(Find(a), Find(b))] = std::min(Find(a), Find(b)); }

 private:
  std::vector<int> parent_;
};

// By rank.
std::vector<Site> SitesOf(const v1::Plan& plan) {
  // A node of unknown domain fails alone, and one of unknown leaf shares none: the node's own name
  // stands for both. Known names are told from those by what is put before them.
  std::map<std::string, std::pair<std::string, std::string>> named;
  for (const v1::PlannedNode& node : plan.nodes()) {
    named[node.name()] = {node.failure_domain(), node.leaf()};
  }
  struct Row {
    std::string domain;
    std::string leaf;
  };
  std::map<std::string, Row> rows;
  Names nodes;
  Names domains;
  Names leaves;
  for (const v1::RankAssignment& rank : plan.ranks()) {
    const auto [row, is_new] = rows.emplace(rank.node(), Row());
    if (!is_new) continue;
    const auto found = named.find(rank.node());
    const bool has_domain = found != named.end() && !found->second.first.empty();
    const bool has_leaf = found != named.end() && !found->second.second.empty();
    row->second.domain = has_domain ? "d" + found->second.first : "n" + rank.node();
    row->second.leaf = has_leaf ? "l" + found->second.second : "n" + rank.node();
    nodes.Add(rank.node());
    domains.Add(row->second.domain);
    leaves.Add(row->second.leaf);
  }
  nodes.Close();
  domains.Close();
  leaves.Close();
  Union together(domains.size() + leaves.size());
  std::map<std::string, Site> sites;
  for (const auto& [name, row] : rows) {
    const int domain = domains.Of(row.domain);
    const int leaf = leaves.Of(row.leaf);
    together.Join(domain, domains.size() + leaf);
    sites[name] = {nodes.Of(name), domain, leaf, 0};
  }
  std::vector<Site> by_rank;
  by_rank.reserve(static_cast<size_t>(plan.ranks_size()));
  for (const v1::RankAssignment& rank : plan.ranks()) {
    Site site = sites.at(rank.node());
    site.together = together.Find(site.domain);
    by_rank.push_back(site);
  }
  return by_rank;
}

// The ranks in the order of their sites, and how far a buddy is from its ward in that order.
struct Ring {
  std::vector<int> order;
  int distance = 0;

  int At(size_t place, int by) const {
    const auto size = static_cast<int>(order.size());
    return order[static_cast<size_t>((static_cast<int>(place) + size + by * distance) % size)];
  }
};

// Smaller is better: buddies on the same node, in the same domain, under the same leaf; pairs of
// nodes that hold all copies of something.
using Faults = std::tuple<int, int, int, size_t>;

Faults FaultsOf(const std::vector<Site>& sites, const Ring& ring) {
  int node = 0;
  int domain = 0;
  int leaf = 0;
  std::vector<std::pair<int, int>> pairs;
  pairs.reserve(sites.size());
  for (size_t place = 0; place < sites.size(); ++place) {
    const Site& own = sites[static_cast<size_t>(ring.order[place])];
    const Site& buddy = sites[static_cast<size_t>(ring.At(place, 1))];
    node += own.node == buddy.node;
    domain += own.domain == buddy.domain;
    leaf += own.leaf == buddy.leaf;
    pairs.emplace_back(std::min(own.node, buddy.node), std::max(own.node, buddy.node));
  }
  std::sort(pairs.begin(), pairs.end());
  const auto end = std::unique(pairs.begin(), pairs.end());
  return {node, domain, leaf, static_cast<size_t>(end - pairs.begin())};
}

using Group = int Site::*;

// The most ranks that have the same.
int Largest(const std::vector<Site>& sites, Group group) {
  std::map<int, int> counts;
  int largest = 0;
  for (const Site& site : sites) largest = std::max(largest, ++counts[site.*group]);
  return largest;
}

Ring RingOf(const v1::Plan& plan) {
  const std::vector<Site> sites = SitesOf(plan);
  const int size = plan.ranks_size();
  const int on_node = Largest(sites, &Site::node);
  // Rotations that can be the best: by the largest of each kind, and by half, which makes buddies
  // of each other.
  std::set<int> distances;
  for (const Group group : {&Site::node, &Site::domain, &Site::leaf, &Site::together}) {
    const int largest = Largest(sites, group);
    for (const int distance : {largest, size - on_node}) {
      if (distance > 0 && distance < size) distances.insert(distance);
    }
  }
  if (size / 2 > 0) distances.insert(size / 2);
  const std::array<std::array<Group, 3>, 2> orders = {
      {{&Site::together, &Site::domain, &Site::leaf},
       {&Site::together, &Site::leaf, &Site::domain}}};
  Ring best;
  std::optional<Faults> fewest;
  for (const auto& [first, second, third] : orders) {
    Ring ring;
    ring.order.resize(static_cast<size_t>(size));
    std::iota(ring.order.begin(), ring.order.end(), 0);
    const auto key = [&, first = first, second = second, third = third](int rank) {
      const Site& site = sites[static_cast<size_t>(rank)];
      return std::tuple(site.*first, site.*second, site.*third, site.node, rank);
    };
    std::sort(ring.order.begin(), ring.order.end(), [&](int a, int b) { return key(a) < key(b); });
    for (const int distance : distances) {
      ring.distance = distance;
      const Faults faults = FaultsOf(sites, ring);
      if (fewest.has_value() && !(faults < *fewest)) continue;
      fewest = faults;
      best = ring;
    }
  }
  return best;
}

// The rank `by` rotations further.
int Rotate(const v1::Plan& plan, int rank, int by) {
  FATHOM_CHECK(rank >= 0 && rank < plan.ranks_size()) << rank << " of " << plan.ranks_size();
  if (plan.ranks_size() == 1) return -1;
  const Ring ring = RingOf(plan);
  const auto at = std::find(ring.order.begin(), ring.order.end(), rank) - ring.order.begin();
  return ring.At(static_cast<size_t>(at), by);
}

}  // namespace

std::vector<int> BuddiesOf(const v1::Plan& plan) {
  std::vector<int> buddies(static_cast<size_t>(plan.ranks_size()), -1);
  if (plan.ranks_size() < 2) return buddies;
  const Ring ring = RingOf(plan);
  for (size_t place = 0; place < ring.order.size(); ++place) {
    buddies[static_cast<size_t>(ring.order[place])] = ring.At(place, 1);
  }
  return buddies;
}

int BuddyOf(const v1::Plan& plan, int rank) { return Rotate(plan, rank, 1); }

int WardOf(const v1::Plan& plan, int rank) { return Rotate(plan, rank, -1); }

bool LeavesStateBehind(const v1::Plan& present, const v1::Plan& next) {
  if (present.ranks_size() == 0) return false;
  std::set<std::pair<std::string, int32_t>> kept;
  for (const v1::RankAssignment& rank : next.ranks()) kept.emplace(rank.node(), rank.device());
  const auto leaves = [&](int rank) {
    return !kept.contains({present.ranks(rank).node(), present.ranks(rank).device()});
  };
  if (present.ranks_size() == 1) return leaves(0);
  const std::vector<int> buddies = BuddiesOf(present);
  for (int rank = 0; rank < present.ranks_size(); ++rank) {
    if (leaves(rank) && leaves(buddies[static_cast<size_t>(rank)])) return true;
  }
  return false;
}

}  // namespace fathom::plan
