#include "common/cluster/switch_graph.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"

namespace fathom::cluster {
namespace {

constexpr size_t kSuggestDistance = 4;
constexpr size_t kShownSwitches = 8;  // of a cycle

template <typename... Text>
absl::Status Wrong(const Text&... what) {
  return absl::InvalidArgumentError(absl::StrCat("spec.fabric.switches", what...));
}

using NameIndex = absl::flat_hash_map<std::string, int>;

// "; did you mean x?" or nothing.
std::string Nearest(absl::string_view name, const NameIndex& names) {
  size_t distance = kSuggestDistance;
  std::string nearest;
  for (const auto& [other, index] : names) {
    const size_t to = EditDistance(name, other, kSuggestDistance);
    if (to < distance || (to < kSuggestDistance && to == distance && other < nearest)) {
      distance = to;
      nearest = other;
    }
  }
  return nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?");
}

class SwitchGraph {
 public:
  explicit SwitchGraph(const v1::ClusterSpec& spec) : spec_(spec) {}

  absl::StatusOr<std::vector<int>> Leaves() {
    FATHOM_RETURN_IF_ERROR(ReadNames());
    FATHOM_RETURN_IF_ERROR(ReadUplinks());
    FATHOM_RETURN_IF_ERROR(FindCycle());
    FATHOM_RETURN_IF_ERROR(ReadNodes());
    FATHOM_RETURN_IF_ERROR(CheckNothingEmpty());
    FATHOM_RETURN_IF_ERROR(CheckConnected());
    return std::move(leaf_of_node_);
  }

 private:
  int count() const { return spec_.fabric().switches_size(); }
  const v1::Switch& at(int index) const { return spec_.fabric().switches(index); }

  absl::Status ReadNames() {
    for (int i = 0; i < count(); ++i) {
      const std::string& name = at(i).name();
      if (name.empty()) return Wrong("[", i, "].name: missing; give each switch a name");
      const auto [other, added] = index_.emplace(name, i);
      if (!added) {
        return Wrong("[", i, "].name: ", name, " is also switch ", other->second,
                     "'s; give another name");
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadUplinks() {
    up_.resize(count());
    for (int i = 0; i < count(); ++i) {
      for (const std::string& uplink : at(i).uplinks()) {
        const auto found = index_.find(uplink);
        if (found == index_.end()) {
          return Wrong("[", i, "] (", at(i).name(), ").uplinks: no switch ", uplink,
                       Nearest(uplink, index_));
        }
        if (std::find(up_[i].begin(), up_[i].end(), found->second) != up_[i].end()) {
          return Wrong("[", i, "] (", at(i).name(), ").uplinks: ", uplink,
                       " stands there twice; name it once");
        }
        up_[i].push_back(found->second);
      }
    }
    return absl::OkStatus();
  }

  // Depth first without recursion: a chain of switches may be as long as there are switches.
  absl::Status FindCycle() {
    enum : uint8_t { kNew, kOpen, kDone };
    std::vector<uint8_t> state(count(), kNew);
    std::vector<std::pair<int, size_t>> path;  // switch, uplinks taken
    for (int start = 0; start < count(); ++start) {
      if (state[start] != kNew) continue;
      path.emplace_back(start, 0);
      state[start] = kOpen;
      while (!path.empty()) {
        const int current = path.back().first;
        if (path.back().second == up_[current].size()) {
          state[current] = kDone;
          order_.push_back(current);
          path.pop_back();
          continue;
        }
        const int next = up_[current][path.back().second++];
        if (state[next] == kOpen) return Cycle(path, next);
        if (state[next] == kNew) {
          state[next] = kOpen;
          path.emplace_back(next, 0);
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status Cycle(const std::vector<std::pair<int, size_t>>& path, int closes) const {
    std::vector<std::string> names;
    size_t length = 0;
    bool inside = false;
    for (const auto& [index, taken] : path) {
      inside = inside || index == closes;
      if (!inside) continue;
      if (++length <= kShownSwitches) names.push_back(at(index).name());
    }
    if (length > kShownSwitches) names.push_back("...");
    names.push_back(at(closes).name());
    const std::string& last = at(path.back().first).name();
    return Wrong(": ", absl::StrJoin(names, " -> "), " is a cycle of ", length,
                 "; the uplink from ", last, " to ", at(closes).name(),
                 " closes it: leave that out");
  }

  absl::Status ReadNodes() {
    NameIndex nodes;
    for (const v1::Pool& pool : spec_.pools()) {
      for (int i = 0; i < pool.nodes(); ++i) nodes.emplace(NodeName(pool, i), nodes.size());
    }
    leaf_of_node_.assign(nodes.size(), -1);
    std::vector<int> switch_of_node(nodes.size(), -1);
    int leaves = 0;
    for (int i = 0; i < count(); ++i) {
      const int leaf = at(i).nodes().empty() ? -1 : leaves++;
      for (const std::string& text : at(i).nodes()) {
        auto names = ExpandNodes(text);
        if (!names.ok()) {
          return Wrong("[", i, "] (", at(i).name(), ").nodes: ", names.status().message());
        }
        for (const std::string& name : *names) {
          const auto found = nodes.find(name);
          if (found == nodes.end()) {
            return Wrong("[", i, "] (", at(i).name(), ").nodes: no node ", name, KnownNodes());
          }
          if (leaf_of_node_[found->second] >= 0) {
            return Wrong("[", i, "] (", at(i).name(), ").nodes: ", name, " is already under ",
                         at(switch_of_node[found->second]).name(),
                         "; a node is under one switch: drop it from one of them");
          }
          leaf_of_node_[found->second] = leaf;
          switch_of_node[found->second] = i;
        }
      }
    }
    for (const auto& [name, index] : nodes) {
      if (leaf_of_node_[index] < 0) return Unplaced(nodes);
    }
    return absl::OkStatus();
  }

  std::string KnownNodes() const {
    std::vector<std::string> ranges;
    for (const v1::Pool& pool : spec_.pools()) {
      ranges.push_back(absl::StrCat(pool.name(), "-[0-", pool.nodes() - 1, "]"));
    }
    return absl::StrCat("; there is ", absl::StrJoin(ranges, ", "));
  }

  // The first node of the file's order that no switch names, and how many there are.
  absl::Status Unplaced(const NameIndex& nodes) const {
    const auto missing = std::count(leaf_of_node_.begin(), leaf_of_node_.end(), -1);
    const auto first = std::find(leaf_of_node_.begin(), leaf_of_node_.end(), -1);
    for (const auto& [name, index] : nodes) {
      if (index != first - leaf_of_node_.begin()) continue;
      return Wrong(": node ", name,
                   missing == 1 ? std::string() : absl::StrCat(" and ", missing - 1, " more"),
                   missing == 1 ? " is" : " are", " under no switch; add ",
                   missing == 1 ? "it" : "them", " to a leaf's nodes");
    }
    return absl::OkStatus();
  }

  absl::Status CheckNothingEmpty() const {
    std::vector<bool> carries(count(), false);
    // Bottom up: reversed, `order_` has each switch before its uplinks.
    for (auto it = order_.rbegin(); it != order_.rend(); ++it) {
      if (!at(*it).nodes().empty()) carries[*it] = true;
      if (!carries[*it]) continue;
      for (const int up : up_[*it]) carries[up] = true;
    }
    for (int i = 0; i < count(); ++i) {
      if (!carries[i]) {
        return Wrong("[", i, "] (", at(i).name(),
                     "): nothing is under it; give it nodes, name it among a leaf's uplinks, or "
                     "leave it out");
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckConnected() const {
    // Of each switch the top ones it reaches; many leaves share one set.
    std::vector<std::vector<int>> tops(count());
    for (const int index : order_) {
      std::vector<int>& own = tops[index];
      if (up_[index].empty()) own.push_back(index);
      for (const int up : up_[index]) own.insert(own.end(), tops[up].begin(), tops[up].end());
      std::sort(own.begin(), own.end());
      own.erase(std::unique(own.begin(), own.end()), own.end());
    }
    std::map<std::vector<int>, int> distinct;  // -> a leaf that reaches them
    for (int i = 0; i < count(); ++i) {
      if (!at(i).nodes().empty()) distinct.emplace(tops[i], i);
    }
    for (auto a = distinct.begin(); a != distinct.end(); ++a) {
      for (auto b = std::next(a); b != distinct.end(); ++b) {
        std::vector<int> common;
        std::set_intersection(a->first.begin(), a->first.end(), b->first.begin(), b->first.end(),
                              std::back_inserter(common));
        if (!common.empty()) continue;
        const int first = std::min(a->second, b->second);
        const int second = std::max(a->second, b->second);
        return Wrong(": ", at(second).name(), " and ", at(first).name(),
                     " reach no top switch in common; add an uplink from ", at(second).name(),
                     " to ", at(tops[first].front()).name());
      }
    }
    return absl::OkStatus();
  }

  const v1::ClusterSpec& spec_;
  NameIndex index_;
  std::vector<std::vector<int>> up_;
  std::vector<int> order_;  // each switch after all its uplinks
  std::vector<int> leaf_of_node_;
};

}  // namespace

std::string NodeName(const v1::Pool& pool, int index) {
  return absl::StrCat(pool.name(), "-", index);
}

absl::StatusOr<std::vector<std::string>> ExpandNodes(absl::string_view text) {
  const size_t open = text.find('[');
  if (open == absl::string_view::npos) return std::vector<std::string>{std::string(text)};
  const auto wrong = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\": ", why, "; write a name or a range such as pool-[0-31]"));
  };
  if (text.back() != ']') return wrong("a range ends with ]");
  const absl::string_view inside = text.substr(open + 1, text.size() - open - 2);
  const size_t dash = inside.find('-');
  int first = 0, last = 0;
  if (dash == absl::string_view::npos || !absl::SimpleAtoi(inside.substr(0, dash), &first) ||
      !absl::SimpleAtoi(inside.substr(dash + 1), &last) || first < 0 ||
      !absl::ascii_isdigit(static_cast<unsigned char>(inside[0]))) {
    return wrong("no range of indices");
  }
  if (last < first) return wrong("it runs backwards");
  if (last - first >= limits::kMaxNodes) return wrong("more nodes than a cluster may have");
  std::vector<std::string> names;
  for (int i = first; i <= last; ++i) names.push_back(absl::StrCat(text.substr(0, open), i));
  return names;
}

absl::StatusOr<std::vector<int>> LeavesOfNodes(const v1::ClusterSpec& spec) {
  if (spec.fabric().switches().empty()) {
    size_t nodes = 0;
    for (const v1::Pool& pool : spec.pools()) nodes += pool.nodes();
    return std::vector<int>(nodes, 0);
  }
  return SwitchGraph(spec).Leaves();
}

}  // namespace fathom::cluster
