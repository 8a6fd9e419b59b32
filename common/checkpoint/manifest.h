// The manifest of a checkpoint: which shard holds which piece of which tensor, with the hashes to
// prove it. It is written last, so a folder with a manifest is whole.
//
// A reader at any parallel layout gathers the ranges it needs from the pieces, through
// CheckpointReader.
#ifndef FATHOM_COMMON_CHECKPOINT_MANIFEST_H_
#define FATHOM_COMMON_CHECKPOINT_MANIFEST_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/checkpoint/safetensors.h"
#include "proto/fathom/v1/checkpoint.pb.h"

namespace fathom::checkpoint {

inline constexpr char kManifestFormat[] = "fathom-checkpoint/1";
inline constexpr char kManifestFile[] = "manifest.json";

// "<tensor>@<begin>", what a piece is called in its shard.
std::string PieceName(const std::string& tensor, int64_t begin);

// Writes manifest.json (or another name) whole or not at all. As OutputFile; its format is filled
// in.
absl::Status WriteManifest(const std::string& path, v1::CheckpointManifest manifest);

// NOT_FOUND; DATA_LOSS: too large, not JSON, not this format, or one that CheckManifest refuses.
absl::StatusOr<v1::CheckpointManifest> ReadManifest(const std::string& path);

// The manifest against itself and against the tensors its spec's model has: safe and distinct shard
// names, ranges within their tensors, each tensor (and both moments of each that is trained)
// covered exactly once, none missing, none unknown. DATA_LOSS names the first fault.
absl::Status CheckManifest(const v1::CheckpointManifest& manifest);

// What a model's checkpoint holds: tensor name to elements, moments included.
absl::StatusOr<std::map<std::string, int64_t>> ExpectedTensors(const v1::JobSpec& spec);

// Reads tensors out of a checkpoint's shards. A shard is mapped, and its size and hash checked,
// when it is first needed. Not for many threads at once.
class CheckpointReader {
 public:
  // As ReadManifest.
  static absl::StatusOr<CheckpointReader> Open(const std::string& manifest_path);

  const v1::CheckpointManifest& manifest() const { return manifest_; }

  // Elements [begin, begin + out.size()) of a tensor flattened in row-major order. NOT_FOUND: no
  // such tensor or shard. OUT_OF_RANGE. DATA_LOSS: a shard that isn't what the manifest says.
  absl::Status ReadTensorRange(const std::string& tensor, int64_t begin, absl::Span<float> out);

  // Checks every shard: size, hash, and that it holds just the pieces the manifest says.
  absl::Status VerifyShards();

 private:
  CheckpointReader() = default;
  absl::StatusOr<const SafetensorsFile*> Shard(int index);
  absl::StatusOr<SafetensorsFile> OpenShard(int index) const;

  struct PlacedPiece {
    int64_t begin = 0;
    int64_t end = 0;
    int shard = 0;
  };

  std::string folder_;
  std::string manifest_path_;
  v1::CheckpointManifest manifest_;
  std::map<std::string, std::vector<PlacedPiece>> pieces_;  // by tensor, in order of begin
  std::map<int, absl::StatusOr<SafetensorsFile>> shards_;   // those needed so far
};

}  // namespace fathom::checkpoint

#endif  // FATHOM_COMMON_CHECKPOINT_MANIFEST_H_
