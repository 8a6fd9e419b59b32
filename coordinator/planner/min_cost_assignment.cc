#include "coordinator/planner/min_cost_assignment.h"

#include <algorithm>
#include <limits>

#include "common/base/check.h"

namespace fathom::planner {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr int kNone = -1;

class Assigner {
 public:
  explicit Assigner(const std::vector<std::vector<int64_t>>& costs)
      : costs_(costs),
        size_(static_cast<int>(costs.size())),
        row_potential_(size_, 0),
        column_potential_(size_, 0),
        row_of_(size_, kNone) {}

  std::vector<int> Assign() {
    for (int row = 0; row < size_; ++row) Augment(row);
    std::vector<int> column_of(size_, kNone);
    for (int column = 0; column < size_; ++column) column_of[row_of_[column]] = column;
    return column_of;
  }

 private:
  // Dijkstra over reduced costs from a row without a column to a column without a row; then every
  // row on the way takes the next column.
  void Augment(int start) {
    std::vector<int64_t> distance(size_, kNever);
    std::vector<int> from_row(size_, kNone);
    std::vector<bool> done(size_, false);
    int row = start;
    int64_t reached = 0;
    int column = kNone;
    while (row != kNone) {
      int nearest = kNone;
      for (int c = 0; c < size_; ++c) {
        if (done[c]) continue;
        const int64_t through =
            reached + costs_[row][c] - row_potential_[row] - column_potential_[c];
        if (through < distance[c]) {
          distance[c] = through;
          from_row[c] = row;
        }
        if (nearest == kNone || distance[c] < distance[nearest]) nearest = c;
      }
      FATHOM_CHECK(nearest != kNone) << "row " << start << " finds no column";
      column = nearest;
      reached = distance[column];
      done[column] = true;
      row = row_of_[column];
    }
    row_potential_[start] += reached;
    for (int c = 0; c < size_; ++c) {
      if (!done[c] || c == column) continue;
      row_potential_[row_of_[c]] += reached - distance[c];
      column_potential_[c] -= reached - distance[c];
    }
    while (column != kNone) {
      const int taker = from_row[column];
      const auto held = std::find(row_of_.begin(), row_of_.end(), taker);
      const int given_up = held == row_of_.end() ? kNone : static_cast<int>(held - row_of_.begin());
      row_of_[column] = taker;
      column = taker == start ? kNone : given_up;
    }
  }

  const std::vector<std::vector<int64_t>>& costs_;
  const int size_;
  std::vector<int64_t> row_potential_;
  std::vector<int64_t> column_potential_;
  std::vector<int> row_of_;  // by column
};

}  // namespace

std::vector<int> MinCostAssignment(const std::vector<std::vector<int64_t>>& costs) {
  for (const auto& row : costs) {
    FATHOM_CHECK(row.size() == costs.size()) << row.size() << " costs in a row, not square";
  }
  return Assigner(costs).Assign();
}

}  // namespace fathom::planner
