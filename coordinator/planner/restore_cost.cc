#include "coordinator/planner/restore_cost.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_util.h"
#include "common/plan/buddy.h"
#include "common/plan/plan_layout.h"
#include "coordinator/planner/state_bytes.h"

namespace fathom::planner {
namespace {

using cluster::Hop;
using cluster::Path;
using cluster::Topology;

// Of storage that the cluster file doesn't describe, for each node that reads or writes.
constexpr double kAssumedStorageGigabytesPerSecondAndNode = 1;

std::string NameOf(Hop hop) {
  switch (hop) {
    case Hop::kSameDevice:
      return "the device's own memory";
    case Hop::kScaleUp:
      return "scale-up domain";
    case Hop::kSameLeaf:
      return "same leaf";
    case Hop::kOtherLeaf:
      return "other leaf";
  }
  return "";
}

class Ways {
 public:
  explicit Ways(const Topology& topology) : topology_(topology) {
    for (size_t i = 0; i < topology.nodes().size(); ++i) {
      index_of_.emplace(topology.nodes()[i].name, static_cast<int>(i));
    }
  }

  Path Between(const v1::RankAssignment& a, const v1::RankAssignment& b) const {
    return topology_.Between(index_of_.at(a.node()), a.device(), index_of_.at(b.node()),
                             b.device());
  }

  absl::Status Check(const v1::Plan& plan) const {
    for (const v1::RankAssignment& rank : plan.ranks()) {
      const auto found = index_of_.find(rank.node());
      if (found == index_of_.end() ||
          rank.device() >= topology_.nodes()[static_cast<size_t>(found->second)].devices) {
        return absl::InvalidArgumentError(
            absl::StrCat("the plan's rank ", rank.rank(), " is on device ", rank.device(),
                         " of node ", rank.node(), ", which the cluster hasn't got"));
      }
    }
    return absl::OkStatus();
  }

 private:
  const Topology& topology_;
  std::unordered_map<std::string, int> index_of_;
};

// What devices send and receive at once; the busiest one's time counts.
class Traffic {
 public:
  void Add(const v1::RankAssignment& from, const v1::RankAssignment& to, const Path& path,
           int64_t bytes) {
    Load({from.node(), from.device(), true}, path, bytes);
    Load({to.node(), to.device(), false}, path, bytes);
  }

  double seconds() const { return busiest_.seconds; }
  int64_t bytes() const { return busiest_.bytes; }
  Hop hop() const { return busiest_.hop; }

 private:
  struct End {
    std::string node;
    int device = 0;
    bool sends = false;
    auto operator<=>(const End&) const = default;
  };
  struct Sum {
    double seconds = 0;
    int64_t bytes = 0;
    Hop hop = Hop::kSameDevice;
  };

  void Load(const End& end, const Path& path, int64_t bytes) {
    Sum& sum = sums_[end];
    sum.seconds +=
        static_cast<double>(bytes) / (path.gigabytes_per_second * 1e9) + path.latency_us * 1e-6;
    sum.bytes += bytes;
    sum.hop = std::max(sum.hop, path.hop);
    if (sum.seconds > busiest_.seconds) busiest_ = sum;
  }

  std::map<End, Sum> sums_;
  Sum busiest_;
};

bool SameLayout(const v1::Plan& a, const v1::Plan& b) {
  return a.spec().parallelism().SerializeAsString() == b.spec().parallelism().SerializeAsString();
}

// The slowest way between a rank and others of its dense group that are next to it in the grid.
Path GatherPath(const Ways& ways, const v1::Plan& plan, const v1::RankAssignment& rank) {
  const v1::Parallelism& shape = plan.spec().parallelism();
  const auto at = [&](int replica, int expert_rank, int pipeline_rank) {
    return plan.ranks(plan::RankAt(shape, replica, expert_rank, pipeline_rank));
  };
  Path slowest;
  const auto look = [&](const v1::RankAssignment& other) {
    const Path path = ways.Between(rank, other);
    const bool first = slowest.gigabytes_per_second == 0;
    if (first || path.gigabytes_per_second < slowest.gigabytes_per_second) slowest = path;
  };
  look(at(rank.replica(), rank.expert_rank(), shape.pipeline() - 1 - rank.pipeline_rank()));
  look(at(rank.replica(), (rank.expert_rank() + 1) % shape.expert(), rank.pipeline_rank()));
  look(at((rank.replica() + 1) % shape.replicas(), rank.expert_rank(), rank.pipeline_rank()));
  return slowest;
}

// Jobs of CPU ranks move too little for gigabytes.
std::string SizeText(int64_t bytes) {
  const double size = static_cast<double>(bytes);
  return size >= 1e7 ? absl::StrFormat("%.2f GB", size / 1e9)
                     : absl::StrFormat("%.3g MB", size / 1e6);
}

}  // namespace

absl::StatusOr<RestoreCost> RestoreFromMemory(const v1::Plan& before, const v1::Plan& after,
                                              const Topology& topology) {
  const Ways ways(topology);
  FATHOM_RETURN_IF_ERROR(ways.Check(before));
  FATHOM_RETURN_IF_ERROR(ways.Check(after));
  FATHOM_ASSIGN_OR_RETURN(const PlanStateBytes sizes, StateBytesOf(after));
  Traffic shards;
  const bool same = SameLayout(before, after);
  const std::vector<int> buddies = plan::BuddiesOf(same ? before : after);
  for (const v1::RankAssignment& rank : after.ranks()) {
    const int64_t bytes = sizes.shard[static_cast<size_t>(rank.pipeline_rank())];
    const int buddy = buddies[static_cast<size_t>(rank.rank())];
    if (buddy < 0) continue;
    if (same) {
      const v1::RankAssignment& was = before.ranks(rank.rank());
      if (was.node() == rank.node() && was.device() == rank.device()) continue;
      const v1::RankAssignment& holder = before.ranks(buddy);
      shards.Add(holder, rank, ways.Between(holder, rank), bytes);
    } else {
      const v1::RankAssignment& holder = after.ranks(buddy);
      shards.Add(holder, rank, ways.Between(holder, rank), bytes);
    }
  }
  double gather_s = 0;
  int64_t gather_bytes = 0;
  for (const v1::RankAssignment& rank : after.ranks()) {
    const int64_t bytes = sizes.weights[static_cast<size_t>(rank.pipeline_rank())];
    const Path path = GatherPath(ways, after, rank);
    const double seconds = static_cast<double>(bytes) / (path.gigabytes_per_second * 1e9);
    if (after.ranks_size() > 1 && seconds > gather_s) {
      gather_s = seconds;
      gather_bytes = bytes;
    }
  }
  RestoreCost cost;
  cost.seconds = shards.seconds() + gather_s;
  cost.bytes = shards.bytes() + gather_bytes;
  cost.path = NameOf(shards.hop());
  cost.assumption.set_name("restore from memory");
  cost.assumption.set_value(absl::StrFormat(
      "%s of shards and %s of gathered weights at the device that moves most%s",
      SizeText(shards.bytes()), SizeText(gather_bytes),
      same ? "" : "; with another layout every rank is taken to fetch its whole new shard"));
  cost.assumption.set_source(
      "sizes of the model's tensors; rates of the cluster file; docs/recovery.md for who sends");
  cost.assumption.set_adds_s(cost.seconds);
  return cost;
}

absl::StatusOr<RestoreCost> RestoreFromCheckpoint(const v1::Plan& after, const Topology& topology,
                                                  bool written_first) {
  FATHOM_ASSIGN_OR_RETURN(const PlanStateBytes sizes, StateBytesOf(after));
  std::set<std::string> nodes;
  for (const v1::RankAssignment& rank : after.ranks()) nodes.insert(rank.node());
  const double assumed =
      kAssumedStorageGigabytesPerSecondAndNode * static_cast<double>(nodes.size());
  const v1::Storage& storage = topology.spec().storage();
  const double read = storage.read_gigabytes_per_second();
  const double write = storage.write_gigabytes_per_second();
  const bool is_described = read > 0 && (write > 0 || !written_first);
  const double gigabytes = static_cast<double>(sizes.all_shards) / 1e9;
  RestoreCost cost;
  cost.bytes = sizes.all_shards;
  cost.seconds = gigabytes / (read > 0 ? read : assumed);
  if (written_first) cost.seconds += gigabytes / (write > 0 ? write : assumed);
  cost.path = "storage";
  cost.assumption.set_name("restore from a checkpoint");
  cost.assumption.set_value(absl::StrFormat("%.1f GB %sread at %.1f GB/s", gigabytes,
                                            written_first ? "written and " : "",
                                            read > 0 ? read : assumed));
  cost.assumption.set_source(
      is_described ? "spec.storage of the cluster file"
                   : "assumed: 1 GB/s for each node, as the file has no spec.storage");
  cost.assumption.set_adds_s(cost.seconds);
  return cost;
}

}  // namespace fathom::planner
