#include "common/plan/buddy.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "common/base/check.h"

namespace fathom::plan {
namespace {

// The rank `by` rotations further in the order by node.
int Rotate(const v1::Plan& plan, int rank, int by) {
  const int size = plan.ranks_size();
  FATHOM_CHECK(rank >= 0 && rank < size) << rank << " of " << size;
  if (size == 1) return -1;
  std::vector<int> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return plan.ranks(a).node() < plan.ranks(b).node(); });
  std::map<std::string, int> on_node;
  int largest = 0;
  for (const v1::RankAssignment& one : plan.ranks()) {
    largest = std::max(largest, ++on_node[one.node()]);
  }
  const int distance = largest == size ? 1 : largest;
  const auto at = std::find(order.begin(), order.end(), rank) - order.begin();
  return order[static_cast<size_t>((at + size + by * distance) % size)];
}

}  // namespace

int BuddyOf(const v1::Plan& plan, int rank) { return Rotate(plan, rank, 1); }

int WardOf(const v1::Plan& plan, int rank) { return Rotate(plan, rank, -1); }

}  // namespace fathom::plan
