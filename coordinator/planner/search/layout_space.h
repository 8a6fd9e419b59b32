// Every layout that a job could have on so many devices, before anything is known of its costs.
//
// Pipelines are of 1 or an even number of ranks, up to the model's layers; expert groups of a
// divisor of the routed experts; replicas take what devices are left. There is no tensor
// parallelism. The sequences of a step stay the same: a lane's micro-batches are what its share of
// them makes, an even number of at least twice the pipeline, or any with a pipeline of one.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_LAYOUT_SPACE_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_LAYOUT_SPACE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/fathom/v1/job.pb.h"

namespace fathom::planner {

inline constexpr int64_t kMaxMicroBatchSequences = 64;

struct SpaceLimits {
  int64_t layers = 0;
  int64_t experts = 0;
  int devices = 0;
  int64_t sequences = 0;        // of a step, over all lanes
  int64_t sequence_length = 0;  // tokens
};

struct Shape {
  v1::Parallelism parallelism;
  int64_t micro_batches = 0;
  int64_t micro_batch_sequences = 0;

  int64_t ranks() const {
    return int64_t{parallelism.pipeline()} * parallelism.expert() * parallelism.replicas();
  }
};

std::string ToString(const v1::Parallelism& parallelism);  // "PP16 x EP64 x DP2"

// Those that use every device; in ascending order of pipeline, expert, micro-batch.
std::vector<Shape> FullShapes(const SpaceLimits& limits);

// Those that leave some idle: of each pipeline and expert, with the most replicas that fit.
std::vector<Shape> PartialShapes(const SpaceLimits& limits);

// All with at most `devices` ranks, whatever the number of replicas, nearest to `to` first: by
// ratios of pipeline, expert and replicas, then of the size of a micro-batch.
std::vector<Shape> NearestShapes(const SpaceLimits& limits, const Shape& to);

// The same, not with the same sequences a step but with micro-batches as `to` has, or as many more
// as the pipeline needs.
std::vector<Shape> NearestShapesOfAnyBatch(const SpaceLimits& limits, const Shape& to);

// Micro-batch counts and sizes that `parallelism` can have.
std::vector<Shape> ShapesOf(const SpaceLimits& limits, const v1::Parallelism& parallelism);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_LAYOUT_SPACE_H_
