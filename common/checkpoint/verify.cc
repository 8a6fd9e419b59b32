#include "common/checkpoint/verify.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/base/hash.h"
#include "common/base/status_util.h"
#include "common/checkpoint/weights_hash.h"
#include "common/model/model_config.h"
#include "common/model/parameter_layout.h"
#include "common/model/precision_recipe.h"

namespace fathom::checkpoint {
namespace {

constexpr int64_t kChunkElements = 1 << 18;

// To nearest, ties to even; a NaN stays one.
uint16_t RoundToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

absl::StatusOr<std::string> TensorSha256(CheckpointReader& reader,
                                         const model::ParameterSpec& parameter, bool as_bf16) {
  Sha256 hash;
  std::vector<float> floats;
  std::vector<uint16_t> halves;
  for (int64_t begin = 0; begin < parameter.size(); begin += kChunkElements) {
    floats.resize(static_cast<size_t>(std::min(kChunkElements, parameter.size() - begin)));
    FATHOM_RETURN_IF_ERROR(reader.ReadTensorRange(parameter.name, begin, absl::MakeSpan(floats)));
    if (as_bf16) {
      halves.resize(floats.size());
      std::transform(floats.begin(), floats.end(), halves.begin(), RoundToBf16);
      hash.Update(halves.data(), halves.size() * sizeof(uint16_t));
    } else {
      hash.Update(floats.data(), floats.size() * sizeof(float));
    }
  }
  return hash.HexDigest();
}

}  // namespace

absl::StatusOr<std::string> WeightsSha256Of(CheckpointReader& reader) {
  const v1::JobSpec& spec = reader.manifest().spec();
  FATHOM_ASSIGN_OR_RETURN(const model::ModelConfig config, model::ResolveModel(spec.model()));
  FATHOM_ASSIGN_OR_RETURN(const model::PrecisionRecipe recipe, model::FindRecipe(spec.precision()));
  std::map<std::string, std::string> tensor_sha256;
  for (const model::ParameterSpec& parameter : model::AllParameters(config)) {
    const bool as_bf16 = recipe.activations == model::Format::kBf16 &&
                         parameter.kind != model::ParameterKind::kRouterBias;
    FATHOM_ASSIGN_OR_RETURN(tensor_sha256[parameter.name],
                            TensorSha256(reader, parameter, as_bf16));
  }
  return WeightsSha256(tensor_sha256);
}

absl::StatusOr<v1::CheckpointManifest> VerifyCheckpoint(const std::string& manifest_path) {
  FATHOM_ASSIGN_OR_RETURN(CheckpointReader reader, CheckpointReader::Open(manifest_path));
  FATHOM_RETURN_IF_ERROR(reader.VerifyShards());
  const std::string& stated = reader.manifest().weights_sha256();
  if (!stated.empty()) {
    FATHOM_ASSIGN_OR_RETURN(const std::string found, WeightsSha256Of(reader));
    if (found != stated) {
      return absl::DataLossError(absl::StrCat("checkpoint ", manifest_path,
                                              ": its weights have the hash ", found,
                                              ", the manifest says ", stated));
    }
  }
  return reader.manifest();
}

}  // namespace fathom::checkpoint
