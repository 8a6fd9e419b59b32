#include "common/plan/plan_layout.h"

#include "common/base/check.h"

namespace fathom::plan {
namespace {

const v1::Parallelism& ShapeOf(const v1::Plan& plan) { return plan.spec().parallelism(); }

const v1::RankAssignment& At(const v1::Plan& plan, int rank) {
  FATHOM_CHECK(rank >= 0 && rank < plan.ranks_size()) << rank << " of " << plan.ranks_size();
  return plan.ranks(rank);
}

int Mirror(const v1::Plan& plan, int pipeline_rank) {
  return ShapeOf(plan).pipeline() - 1 - pipeline_rank;
}

}  // namespace

int RankAt(const v1::Parallelism& shape, int replica, int expert_rank, int pipeline_rank) {
  return (replica * shape.expert() + expert_rank) * shape.pipeline() + pipeline_rank;
}

std::vector<int> StagesOfRank(const v1::Plan& plan, int rank) {
  const int own = At(plan, rank).pipeline_rank();
  if (ShapeOf(plan).pipeline() == 1) return {own};
  return {own, Mirror(plan, own)};
}

std::vector<int> AllRanks(const v1::Plan& plan) {
  std::vector<int> ranks(plan.ranks_size());
  for (int rank = 0; rank < plan.ranks_size(); ++rank) ranks[rank] = rank;
  return ranks;
}

std::vector<int> DenseGroup(const v1::Plan& plan, int rank) {
  return RanksOfStage(plan, At(plan, rank).pipeline_rank());
}

std::vector<int> RanksOfStage(const v1::Plan& plan, int stage) {
  std::vector<int> ranks;
  for (const v1::RankAssignment& other : plan.ranks()) {
    if (other.pipeline_rank() == stage || other.pipeline_rank() == Mirror(plan, stage)) {
      ranks.push_back(other.rank());
    }
  }
  return ranks;
}

std::vector<int> ExpertOwnerGroup(const v1::Plan& plan, int rank) {
  std::vector<int> ranks;
  for (int other : DenseGroup(plan, rank)) {
    if (At(plan, other).expert_rank() == At(plan, rank).expert_rank()) ranks.push_back(other);
  }
  return ranks;
}

std::vector<int> ExpertGroup(const v1::Plan& plan, int rank) {
  const v1::RankAssignment& own = At(plan, rank);
  std::vector<int> ranks;
  for (int expert_rank = 0; expert_rank < ShapeOf(plan).expert(); ++expert_rank) {
    ranks.push_back(RankAt(ShapeOf(plan), own.replica(), expert_rank, own.pipeline_rank()));
  }
  return ranks;
}

std::vector<int> ExpertsOf(const v1::Plan& plan, int expert_rank) {
  std::vector<int> experts;
  for (int expert = 0; expert < plan.expert_owner_size(); ++expert) {
    if (plan.expert_owner(expert) == expert_rank) experts.push_back(expert);
  }
  return experts;
}

int PipelineNeighbour(const v1::Plan& plan, int rank, int direction, int by) {
  const int own = At(plan, rank).pipeline_rank();
  const int other = own + (direction == 0 ? by : -by);
  if (other < 0 || other >= ShapeOf(plan).pipeline()) return -1;
  return rank - own + other;
}

int LaneCount(const v1::Plan& plan) { return ShapeOf(plan).expert() * ShapeOf(plan).replicas(); }

int LaneOfRank(const v1::Plan& plan, int rank) {
  const v1::RankAssignment& own = At(plan, rank);
  return own.replica() * ShapeOf(plan).expert() + own.expert_rank();
}

std::vector<int> RanksOfLane(const v1::Plan& plan, int lane) {
  const int pipeline = ShapeOf(plan).pipeline();
  std::vector<int> ranks(pipeline);
  for (int i = 0; i < pipeline; ++i) ranks[i] = lane * pipeline + i;
  return ranks;
}

int64_t MicroBatchIndex(const v1::Plan& plan, int lane, int direction, int64_t micro_batch) {
  const int64_t per_lane = plan.spec().training().micro_batches();
  return lane * per_lane + direction * (per_lane / 2) + micro_batch;
}

}  // namespace fathom::plan
