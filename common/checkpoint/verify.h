// All that can be checked of a checkpoint without training from it.
#ifndef FATHOM_COMMON_CHECKPOINT_VERIFY_H_
#define FATHOM_COMMON_CHECKPOINT_VERIFY_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/checkpoint/manifest.h"
#include "proto/fathom/v1/checkpoint.pb.h"

namespace fathom::checkpoint {

// The weights_sha256 of checkpoint.proto, from the master weights in the shards: each rounded to
// its compute format (the recipe's format of activations; FP32 for routers' biases) and hashed. As
// CheckpointReader::ReadTensorRange, and INVALID_ARGUMENT: a spec without model or precision.
absl::StatusOr<std::string> WeightsSha256Of(CheckpointReader& reader);

// The manifest, every shard, and where the manifest states one the weights' hash. DATA_LOSS names
// the first fault. Returns the manifest.
absl::StatusOr<v1::CheckpointManifest> VerifyCheckpoint(const std::string& manifest_path);

}  // namespace fathom::checkpoint

#endif  // FATHOM_COMMON_CHECKPOINT_VERIFY_H_
