// One row to each column at the least total cost: the assignment problem, by shortest augmenting
// paths with potentials. O(n^3) for n rows, much less where many costs are equal.
#ifndef FATHOM_COORDINATOR_PLANNER_MIN_COST_ASSIGNMENT_H_
#define FATHOM_COORDINATOR_PLANNER_MIN_COST_ASSIGNMENT_H_

#include <cstdint>
#include <vector>

namespace fathom::planner {

// costs[row][column] is square. The column of each row; equal costs always give the same answer.
std::vector<int> MinCostAssignment(const std::vector<std::vector<int64_t>>& costs);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_MIN_COST_ASSIGNMENT_H_
