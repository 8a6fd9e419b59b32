// Checkpoints of a rank: its shard written behind the training, and state read back at any layout.
//
// Begin copies what the rank owns (its part of the master weights and moments, and the routers'
// biases where it speaks for them) and returns; a thread writes the shard and an index beside it.
// Once every rank's shard is durable, rank 0 publishes: it gathers the indices into the manifest. A
// folder without a manifest is no checkpoint.
//
//   <directory>/step-00000100/rank-00000.safetensors, rank-00000.json, ..., manifest.json
#ifndef FATHOM_WORKER_ENGINE_CHECKPOINT_H_
#define FATHOM_WORKER_ENGINE_CHECKPOINT_H_

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/checkpoint/safetensors.h"
#include "proto/fathom/v1/checkpoint.pb.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/engine/rank_parts.h"

namespace fathom::engine {

class CheckpointWriter {
 public:
  enum class Progress : int64_t { kFailed = -1, kWriting = 0, kDurable = 1 };

  // `directory` is that of the job's checkpoints; it is made when first needed.
  CheckpointWriter(std::string directory, RankParts* parts, const Clock* clock);
  ~CheckpointWriter();  // waits for a shard that is being written
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Copies the state after `step` and starts writing it. Waits for an earlier one first.
  void Begin(int64_t step);
  void WaitUntilIdle();

  Progress progress() const { return progress_.load(); }
  // Why the last one failed; call while idle.
  absl::Status error() const { return error_; }

  // On rank 0, when every rank's shard of `step` is durable: writes the manifest and removes old
  // checkpoints. Errors: as the file system, or DATA_LOSS for an index that can't be read.
  absl::StatusOr<v1::CheckpointReport> Publish(int64_t step);

  // Newest step of which this job, in this or an earlier epoch, has published a checkpoint in its
  // directory; 0: none.
  int64_t NewestPublished() const;
  std::string ManifestPath(int64_t step) const;

 private:
  // Bytes of one tensor after another, as they go into the shard.
  struct Copy {
    const kernels::Matrix* source = nullptr;  // its data moves from step to step
    std::vector<std::byte> bytes;
  };
  struct HashedTensor {
    std::string name;
    Copy copy;
  };

  void PlanShard();
  void AddPiece(const std::string& tensor, const model::Parameter& parameter,
                transport::Range in_tensor, checkpoint::DType dtype);
  void PlanHashes(model::ParameterBlock& block, int index, int size);
  std::string StepDirectory(int64_t step) const;
  absl::Status Write(int64_t step);
  // Folders of checkpoints, whole or not, newest step first.
  std::map<int64_t, std::filesystem::path, std::greater<>> StepFolders() const;
  void RemoveOld(int64_t newest) const;

  // Constant.
  const std::string directory_;
  RankParts* const parts_;
  const Clock* const clock_;
  std::vector<checkpoint::TensorEntry> entries_;
  std::vector<v1::Piece> pieces_;

  // Filled by Begin, read by the writing thread.
  std::vector<Copy> copies_;
  std::vector<HashedTensor> hashed_;
  absl::Duration begun_;

  std::thread thread_;
  absl::Status error_;  // written by the thread before it ends
  std::atomic<Progress> progress_{Progress::kDurable};
};

struct RestoredState {
  int64_t step = 0;            // steps done
  std::string weights_sha256;  // of that state
};

// Fills this rank's masters, moments and router biases from a checkpoint written at any layout.
// INVALID_ARGUMENT: a model of another shape. NOT_FOUND, DATA_LOSS: as CheckpointReader.
absl::StatusOr<RestoredState> LoadCheckpoint(const std::string& manifest, RankParts* parts);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_CHECKPOINT_H_
