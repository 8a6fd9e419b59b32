// What a plan says, asked from a rank's side: its stages, its groups, its lane. The plan must have
// passed CheckPlan.
//
// Ranks lie in a grid: rank = (replica * expert + expert_rank) * pipeline + pipeline_rank. Groups
// are lists of ranks in ascending order, the order in which their members' contributions are
// summed.
#ifndef FATHOM_COMMON_PLAN_PLAN_LAYOUT_H_
#define FATHOM_COMMON_PLAN_PLAN_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "proto/fathom/v1/plan.pb.h"

namespace fathom::plan {

int RankAt(const v1::Parallelism& shape, int replica, int expert_rank, int pipeline_rank);

// The stages that a rank holds, by direction: r, and with a pipeline also P-1-r.
std::vector<int> StagesOfRank(const v1::Plan& plan, int rank);

std::vector<int> AllRanks(const v1::Plan& plan);

// Ranks that hold the same stages as `rank`: of every replica and expert rank, and of both mirrors.
// Gradients of dense parameters are summed over them.
std::vector<int> DenseGroup(const v1::Plan& plan, int rank);

// The same by stage.
std::vector<int> RanksOfStage(const v1::Plan& plan, int stage);

// Of the dense group, the ranks that also hold the same routed experts (the same expert rank).
// Gradients of experts are summed over them.
std::vector<int> ExpertOwnerGroup(const v1::Plan& plan, int rank);

// Ranks that exchange tokens with `rank`: of its replica and pipeline rank, every expert rank.
std::vector<int> ExpertGroup(const v1::Plan& plan, int rank);

// Routed experts that an expert rank holds, ascending.
std::vector<int> ExpertsOf(const v1::Plan& plan, int expert_rank);

// The rank that holds the stage after `rank`'s (by = 1), or before it (by = -1), as `direction`
// counts; -1 at the ends of the pipeline.
int PipelineNeighbour(const v1::Plan& plan, int rank, int direction, int by);

// A lane is one expert rank of one replica: the ranks of a pipeline, which share their
// micro-batches.
int LaneCount(const v1::Plan& plan);
int LaneOfRank(const v1::Plan& plan, int rank);
std::vector<int> RanksOfLane(const v1::Plan& plan, int lane);

// Which of the step's micro-batches (of all lanes) a lane's is: lane * M + direction * M/2 +
// micro_batch.
int64_t MicroBatchIndex(const v1::Plan& plan, int lane, int direction, int64_t micro_batch);

}  // namespace fathom::plan

#endif  // FATHOM_COMMON_PLAN_PLAN_LAYOUT_H_
