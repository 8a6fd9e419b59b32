// A rank's unique state as bytes: where every piece of a tensor lies in the rank's shard. Pure.
//
// A shard is, for each block of parameters in the order of model::ParameterStore, this rank's part
// of the FP32 masters and of AdamW's moments, and at the end the biases of its routers. Every array
// begins at a multiple of 64 bytes. The parts of all ranks of a group together are the block; the
// biases are whole on every rank that has them.
#ifndef FATHOM_WORKER_ENGINE_STATE_LAYOUT_H_
#define FATHOM_WORKER_ENGINE_STATE_LAYOUT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_config.h"
#include "proto/fathom/v1/plan.pb.h"

namespace fathom::engine {

inline constexpr int64_t kStateAlignBytes = 64;

constexpr int64_t AlignState(int64_t bytes) {
  return (bytes + kStateAlignBytes - 1) / kStateAlignBytes * kStateAlignBytes;
}

// Elements [begin, end) of a tensor flattened in row-major order, at `offset` in the shard.
struct StatePiece {
  std::string tensor;  // as in v1::Piece: "<parameter>", "<parameter>#m", "<parameter>#v"
  int64_t begin = 0;
  int64_t end = 0;
  int64_t offset = 0;  // bytes
  int64_t element_bytes = 0;
};

// The part of a plan that determines every rank's pieces: model, precision, parallelism, stages and
// owners of experts. Nodes, devices and epochs don't matter.
class StateLayout {
 public:
  // INVALID_ARGUMENT: an unknown precision, or a model that doesn't resolve.
  static absl::StatusOr<std::shared_ptr<const StateLayout>> FromPlan(const v1::Plan& plan);
  // From key(). INVALID_ARGUMENT: not one.
  static absl::StatusOr<std::shared_ptr<const StateLayout>> Parse(const std::string& key);

  // Equal for equal layouts, different for different ones.
  const std::string& key() const { return key_; }
  // The same where only parallelism, stages or owners differ: then pieces can be carried over.
  const std::string& family() const { return family_; }
  int shards() const { return grid_.ranks_size(); }

  std::vector<StatePiece> Pieces(int shard) const;
  int64_t ShardBytes(int shard) const;

 private:
  StateLayout() = default;

  std::string key_;
  std::string family_;
  v1::Plan grid_;  // with nothing but what a layout has, and its ranks' places
  model::ModelConfig model_;
  int64_t moment_bytes_ = 4;
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_STATE_LAYOUT_H_
