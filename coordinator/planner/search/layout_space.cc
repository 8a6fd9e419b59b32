#include "coordinator/planner/search/layout_space.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/schedule/instruction.h"

namespace fathom::planner {
namespace {

// Tokens of a micro-batch that common/plan accepts.
constexpr int64_t kMaxMicroBatchTokens = int64_t{1} << 28;

std::vector<int> Pipelines(const SpaceLimits& limits) {
  std::vector<int> pipelines = {1};
  const int64_t most =
      std::min<int64_t>({limits.layers, limits.devices, int64_t{schedule::kMaxScheduleRanks}});
  for (int pipeline = 2; pipeline <= most; pipeline += 2) pipelines.push_back(pipeline);
  return pipelines;
}

std::vector<int> Experts(const SpaceLimits& limits) {
  std::vector<int> experts;
  for (int expert = 1; expert <= std::min<int64_t>(limits.experts, limits.devices); ++expert) {
    if (limits.experts % expert == 0) experts.push_back(expert);
  }
  return experts;
}

v1::Parallelism Grid(int pipeline, int expert, int replicas) {
  v1::Parallelism grid;
  grid.set_pipeline(pipeline);
  grid.set_expert(expert);
  grid.set_replicas(replicas);
  return grid;
}

double Ratio(double a, double b) { return std::abs(std::log(a / b)); }

std::vector<v1::Parallelism> AllGrids(const SpaceLimits& limits) {
  const int64_t most = std::min<int64_t>(limits.devices, limits::kMaxRanksPerJob);
  std::vector<v1::Parallelism> grids;
  for (int pipeline : Pipelines(limits)) {
    for (int expert : Experts(limits)) {
      for (int64_t replicas = 1; replicas * pipeline * expert <= most; ++replicas) {
        grids.push_back(Grid(pipeline, expert, static_cast<int>(replicas)));
      }
    }
  }
  return grids;
}

std::vector<Shape> SortedByDistance(std::vector<Shape> shapes, const Shape& to) {
  using Distance = std::pair<double, double>;
  std::vector<std::pair<Distance, size_t>> order;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const v1::Parallelism& a = shapes[i].parallelism;
    const v1::Parallelism& b = to.parallelism;
    const double grid = Ratio(a.pipeline(), std::max(1, b.pipeline())) +
                        Ratio(a.expert(), std::max(1, b.expert())) +
                        Ratio(a.replicas(), std::max(1, b.replicas()));
    const double size =
        Ratio(shapes[i].micro_batch_sequences, std::max<int64_t>(1, to.micro_batch_sequences));
    order.push_back({{grid, size}, i});
  }
  std::sort(order.begin(), order.end());
  std::vector<Shape> sorted;
  for (const auto& [distance, index] : order) sorted.push_back(std::move(shapes[index]));
  return sorted;
}

}  // namespace

std::string ToString(const v1::Parallelism& parallelism) {
  return absl::StrCat("PP", parallelism.pipeline(), " x EP", parallelism.expert(), " x DP",
                      parallelism.replicas());
}

std::vector<Shape> ShapesOf(const SpaceLimits& limits, const v1::Parallelism& parallelism) {
  std::vector<Shape> shapes;
  const int64_t pipeline = parallelism.pipeline();
  const int64_t lanes = int64_t{parallelism.expert()} * parallelism.replicas();
  const int64_t ranks = pipeline * lanes;
  if (ranks > limits.devices || ranks > limits::kMaxRanksPerJob) return shapes;
  if (limits.sequences % lanes != 0) return shapes;
  const int64_t of_lane = limits.sequences / lanes;
  const int64_t most = std::min(
      kMaxMicroBatchSequences, kMaxMicroBatchTokens / std::max<int64_t>(1, limits.sequence_length));
  for (int64_t size = 1; size <= std::min(most, of_lane); ++size) {
    if (of_lane % size != 0) continue;
    const int64_t count = of_lane / size;
    if (pipeline > 1 && (count % 2 != 0 || count < 2 * pipeline)) continue;
    if (count > schedule::kMaxScheduleCells / (2 * pipeline)) continue;
    shapes.push_back({parallelism, count, size});
  }
  return shapes;
}

std::vector<Shape> FullShapes(const SpaceLimits& limits) {
  std::vector<Shape> shapes;
  for (int pipeline : Pipelines(limits)) {
    for (int expert : Experts(limits)) {
      if (limits.devices % (int64_t{pipeline} * expert) != 0) continue;
      const int replicas = static_cast<int>(limits.devices / (int64_t{pipeline} * expert));
      const std::vector<Shape> found = ShapesOf(limits, Grid(pipeline, expert, replicas));
      shapes.insert(shapes.end(), found.begin(), found.end());
    }
  }
  return shapes;
}

std::vector<Shape> PartialShapes(const SpaceLimits& limits) {
  std::vector<Shape> shapes;
  for (int pipeline : Pipelines(limits)) {
    for (int expert : Experts(limits)) {
      int64_t replicas = limits.devices / (int64_t{pipeline} * expert);
      for (; replicas >= 1; --replicas) {
        const std::vector<Shape> found =
            ShapesOf(limits, Grid(pipeline, expert, static_cast<int>(replicas)));
        if (found.empty()) continue;
        if (found.front().ranks() < limits.devices) {
          shapes.insert(shapes.end(), found.begin(), found.end());
        }
        break;
      }
    }
  }
  return shapes;
}

std::vector<Shape> NearestShapes(const SpaceLimits& limits, const Shape& to) {
  std::vector<Shape> shapes;
  for (const v1::Parallelism& grid : AllGrids(limits)) {
    const std::vector<Shape> found = ShapesOf(limits, grid);
    shapes.insert(shapes.end(), found.begin(), found.end());
  }
  return SortedByDistance(std::move(shapes), to);
}

std::vector<Shape> NearestShapesOfAnyBatch(const SpaceLimits& limits, const Shape& to) {
  std::vector<Shape> shapes;
  for (const v1::Parallelism& grid : AllGrids(limits)) {
    Shape shape{grid, std::max<int64_t>(1, to.micro_batches),
                std::max<int64_t>(1, to.micro_batch_sequences)};
    if (grid.pipeline() > 1) {
      shape.micro_batches = std::max<int64_t>(shape.micro_batches, 2 * grid.pipeline());
      shape.micro_batches += shape.micro_batches % 2;
    }
    if (shape.micro_batches > schedule::kMaxScheduleCells / (2 * grid.pipeline())) continue;
    shapes.push_back(shape);
  }
  return SortedByDistance(std::move(shapes), to);
}

}  // namespace fathom::planner
