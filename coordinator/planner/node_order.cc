#include "coordinator/planner/node_order.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

namespace fathom::planner {
namespace {

int64_t FreeOn(const NodeCapacity& node) { return static_cast<int64_t>(node.free_devices.size()); }

// What of a layout decides how many nodes it needs.
struct Need {
  explicit Need(const v1::Parallelism& shape)
      : size(shape.expert()),
        groups(int64_t{shape.pipeline()} * shape.replicas()),
        pairs(shape.pipeline() > 1 ? groups / 2 : groups) {}

  const int64_t size;    // ranks of an expert group
  const int64_t groups;  // expert groups
  const int64_t pairs;   // of a group and its mirror; all, without a pipeline
};

// Whether every group can lie on one node.
bool FitWhole(const Need& need, const std::vector<NodeCapacity>& nodes) {
  int64_t whole = 0;
  for (const NodeCapacity& node : nodes) whole += FreeOn(node) / need.size;
  return whole >= need.groups;
}

// Counts up within what has the same name; what has none is always 0.
class Turns {
 public:
  int Next(const std::string& name) { return name.empty() ? 0 : seen_[name]++; }

 private:
  std::map<std::string, int> seen_;
};

// Nodes with the most free devices first.
std::vector<int> ByRoom(const std::vector<NodeCapacity>& nodes, bool take_turns) {
  std::vector<int> turn(nodes.size(), 0);
  Turns turns;
  for (size_t i = 0; take_turns && i < nodes.size(); ++i) {
    turn[i] = turns.Next(nodes[i].failure_domain);
  }
  std::vector<int> order(nodes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return std::pair(-FreeOn(nodes[a]), turn[a]) < std::pair(-FreeOn(nodes[b]), turn[b]);
  });
  return order;
}

// One expert group's worth of nodes of one leaf; the last of a leaf may be less.
struct Block {
  std::vector<int> nodes;
  int64_t room = 0;
  int64_t groups = 0;  // that fit on it
};

struct Leaf {
  std::vector<Block> blocks;
  std::string domain;  // of its first node
  int64_t groups = 0;
};

std::vector<Leaf> LeavesOf(const Need& need, const std::vector<NodeCapacity>& nodes,
                           bool whole_on_nodes) {
  std::map<std::string, Leaf> leaves;
  for (const int node : ByRoom(nodes, /*take_turns=*/false)) {
    Leaf& leaf = leaves[nodes[node].leaf];
    const bool full = leaf.blocks.empty() || leaf.blocks.back().groups > 0 || whole_on_nodes;
    if (leaf.blocks.empty()) leaf.domain = nodes[node].failure_domain;
    Block& block = full ? leaf.blocks.emplace_back() : leaf.blocks.back();
    block.nodes.push_back(node);
    block.room += FreeOn(nodes[node]);
    block.groups = block.room / need.size;
  }
  std::vector<Leaf> list;
  for (auto& [name, leaf] : leaves) {
    for (const Block& block : leaf.blocks) leaf.groups += block.groups;
    list.push_back(std::move(leaf));
  }
  return list;
}

// The leaves with most room first, those of different failure domains taking turns; `few` of them
// are enough for all groups with each pair on two leaves.
std::vector<int> SortLeaves(const Need& need, const std::vector<Leaf>& leaves, size_t* few) {
  std::vector<int> order(leaves.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return leaves[a].groups > leaves[b].groups; });
  std::vector<int> turn(leaves.size(), 0);
  Turns turns;
  for (const int leaf : order) turn[leaf] = turns.Next(leaves[leaf].domain);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return std::pair(-leaves[a].groups, turn[a]) < std::pair(-leaves[b].groups, turn[b]);
  });
  int64_t groups = 0;
  *few = 0;
  while (*few < order.size() && groups < need.groups) {
    groups += std::min(leaves[order[*few]].groups, need.pairs);
    ++*few;
  }
  return order;
}

std::vector<int> ByLeaves(const Need& need, const std::vector<NodeCapacity>& nodes) {
  const bool whole_on_nodes = FitWhole(need, nodes);
  const std::vector<Leaf> leaves = LeavesOf(need, nodes, whole_on_nodes);
  size_t few = 0;
  const std::vector<int> order = SortLeaves(need, leaves, &few);
  // Nodes whose room is equal are alike where groups lie on one node; whole blocks where they span.
  using Key = std::tuple<int64_t, bool, size_t, size_t>;
  std::vector<std::pair<Key, const Block*>> blocks;
  for (size_t place = 0; place < order.size(); ++place) {
    const Leaf& leaf = leaves[order[place]];
    for (size_t turn = 0; turn < leaf.blocks.size(); ++turn) {
      const Block& block = leaf.blocks[turn];
      const int64_t worth = whole_on_nodes ? -block.room : block.groups == 0;
      blocks.push_back({Key(worth, place >= few, turn, place), &block});
    }
  }
  std::sort(blocks.begin(), blocks.end());
  std::vector<int> list;
  for (const auto& [key, block] : blocks) {
    list.insert(list.end(), block->nodes.begin(), block->nodes.end());
  }
  return list;
}

}  // namespace

std::vector<int> ChooseNodes(const v1::Parallelism& shape, const std::vector<NodeCapacity>& nodes,
                             NodeOrder how) {
  const Need need(shape);
  // Groups that span nodes stay within a failure domain's neighbourhood: the order given.
  std::vector<int> order = how == NodeOrder::kLeaves
                               ? ByLeaves(need, nodes)
                               : ByRoom(nodes, how == NodeOrder::kDomains && FitWhole(need, nodes));

  int64_t devices = 0;  // on the first nodes
  int64_t whole = 0;    // groups that fit there whole
  int64_t apart = 0;    // of those, how many can be used with each pair on two nodes
  std::vector<size_t> enough(3, 0);
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t slots = FreeOn(nodes[order[i]]) / need.size;
    devices += FreeOn(nodes[order[i]]);
    whole += slots;
    apart += std::min(slots, need.pairs);
    if (enough[0] == 0 && apart >= need.groups) enough[0] = i + 1;
    if (enough[1] == 0 && whole >= need.groups) enough[1] = i + 1;
    if (enough[2] == 0 && devices >= need.groups * need.size) enough[2] = i + 1;
  }
  for (const size_t count : enough) {
    if (count == 0) continue;
    order.resize(count);
    break;
  }
  return order;
}

}  // namespace fathom::planner
