// Where the ranks of a layout lie on a topology, as far as costs and survival go.
#ifndef FATHOM_COORDINATOR_PLANNER_RANK_PLACEMENT_H_
#define FATHOM_COORDINATOR_PLANNER_RANK_PLACEMENT_H_

#include <vector>

namespace fathom::planner {

struct RankPlacement {
  struct Place {
    int node = 0;  // index into Topology::nodes()
    int device = 0;
  };
  // By rank: (replica * expert + expert_rank) * pipeline + pipeline_rank.
  std::vector<Place> places;
};

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_RANK_PLACEMENT_H_
