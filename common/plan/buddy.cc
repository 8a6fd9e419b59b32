#include "common/plan/buddy.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"

namespace fathom::plan {
namespace {

// The ranks ordered by node, and how far a buddy is from its ward in that order.
struct Ring {
  std::vector<int> order;
  int distance = 0;

  int At(size_t place, int by) const {
    const auto size = static_cast<int>(order.size());
    return order[static_cast<size_t>((static_cast<int>(place) + size + by * distance) % size)];
  }
};

Ring RingOf(const v1::Plan& plan) {
  const int size = plan.ranks_size();
  Ring ring;
  ring.order.resize(static_cast<size_t>(size));
  std::iota(ring.order.begin(), ring.order.end(), 0);
  std::stable_sort(ring.order.begin(), ring.order.end(),
                   [&](int a, int b) { return plan.ranks(a).node() < plan.ranks(b).node(); });
  std::map<std::string, int> on_node;
  int largest = 0;
  for (const v1::RankAssignment& one : plan.ranks()) {
    largest = std::max(largest, ++on_node[one.node()]);
  }
  ring.distance = largest == size ? 1 : largest;
  return ring;
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

int BuddyOf(const v1::Plan& plan, int rank) { return Rotate(plan, rank, 1); }

int WardOf(const v1::Plan& plan, int rank) { return Rotate(plan, rank, -1); }

bool LeavesStateBehind(const v1::Plan& present, const v1::Plan& next) {
  std::set<std::pair<std::string, int32_t>> kept;
  for (const v1::RankAssignment& rank : next.ranks()) kept.emplace(rank.node(), rank.device());
  const auto leaves = [&](int rank) {
    return !kept.contains({present.ranks(rank).node(), present.ranks(rank).device()});
  };
  const Ring ring = RingOf(present);
  for (size_t place = 0; place < ring.order.size(); ++place) {
    if (leaves(ring.order[place]) && leaves(ring.At(place, 1))) return true;
  }
  return false;
}

}  // namespace fathom::plan
