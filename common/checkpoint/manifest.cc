#include "common/checkpoint/manifest.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/model/model_config.h"
#include "common/model/parameter_layout.h"

namespace fathom::checkpoint {
namespace {

constexpr int64_t kShardsMax = 1 << 16;
constexpr size_t kSha256Digits = 64;

absl::Status Damaged(const std::string& what) { return absl::DataLossError(what); }

// A plain file name, so that a manifest can't point outside its folder.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

bool IsSha256(const std::string& hex) {
  return hex.size() == kSha256Digits &&
         hex.find_first_not_of("0123456789abcdef") == std::string::npos;
}

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

absl::Status CheckShardHeads(const v1::CheckpointManifest& manifest) {
  if (manifest.shards_size() == 0) return Damaged("it names no shards");
  if (manifest.shards_size() > kShardsMax) {
    return Damaged(absl::StrCat(manifest.shards_size(), " shards, at most ", kShardsMax));
  }
  std::set<std::string> files;
  for (const v1::Shard& shard : manifest.shards()) {
    if (!IsPlainFileName(shard.file())) {
      return Damaged(absl::StrCat("shard \"", shard.file(), "\" is not a plain file name"));
    }
    if (!files.insert(shard.file()).second) {
      return Damaged(absl::StrCat("shard ", shard.file(), " comes twice"));
    }
    if (shard.bytes() <= 0) {
      return Damaged(absl::StrCat("shard ", shard.file(), " has ", shard.bytes(), " bytes"));
    }
    if (!IsSha256(shard.sha256())) {
      return Damaged(absl::StrCat("shard ", shard.file(), " has no SHA-256"));
    }
  }
  return absl::OkStatus();
}

// A few bytes of spec can ask for a million experts: refused before their tensors are written out.
absl::Status CheckPieceCount(const v1::CheckpointManifest& manifest) {
  const auto config = model::ResolveModel(manifest.spec().model());
  if (!config.ok()) return Damaged(absl::StrCat("its spec: ", config.status().message()));
  const absl::Status sound = model::CheckModel(*config);
  if (!sound.ok()) return Damaged(absl::StrCat("its spec: ", sound.message()));
  int64_t pieces = 0;
  for (const v1::Shard& shard : manifest.shards()) pieces += shard.pieces_size();
  const int64_t experts =
      (config->num_hidden_layers - config->first_k_dense_replace) * config->n_routed_experts;
  if (experts <= pieces) return absl::OkStatus();
  return Damaged(absl::StrCat("it lists ", pieces, " pieces, the model has ", experts,
                              " routed experts: tensors are missing"));
}

// The pieces of one tensor fill it from its first element to its last.
absl::Status CheckCover(const std::string& tensor, std::vector<Range> ranges, int64_t elements) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  int64_t covered = 0;
  for (const Range& range : ranges) {
    if (range.begin < covered) {
      return Damaged(absl::StrCat("tensor ", tensor, ": elements [", range.begin, ", ",
                                  std::min(covered, range.end), ") are in two pieces"));
    }
    if (range.begin > covered) break;
    covered = range.end;
  }
  if (covered == elements) return absl::OkStatus();
  return Damaged(
      absl::StrCat("tensor ", tensor, ": no piece holds element ", covered, " of ", elements));
}

}  // namespace

std::string PieceName(const std::string& tensor, int64_t begin) {
  return absl::StrCat(tensor, "@", begin);
}

absl::Status WriteManifest(const std::string& path, v1::CheckpointManifest manifest) {
  manifest.set_format(kManifestFormat);
  FATHOM_RETURN_IF_ERROR(WithContext(CheckManifest(manifest), absl::StrCat("can't write ", path)));
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto printed = google::protobuf::util::MessageToJsonString(manifest, &json, options);
  if (!printed.ok()) {
    return absl::InternalError(absl::StrCat("can't print ", path, ": ", printed.ToString()));
  }
  return WriteFileAtomically(path, json);
}

absl::StatusOr<v1::CheckpointManifest> ReadManifest(const std::string& path) {
  const std::string context = absl::StrCat("checkpoint manifest ", path);
  FATHOM_ASSIGN_OR_RETURN(const std::string json, ReadFile(path, limits::kMaxManifestBytes));
  v1::CheckpointManifest manifest;
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &manifest);
  if (!parsed.ok()) return Damaged(absl::StrCat(context, ": ", parsed.ToString()));
  FATHOM_RETURN_IF_ERROR(WithContext(CheckManifest(manifest), context));
  return manifest;
}

absl::StatusOr<std::map<std::string, int64_t>> ExpectedTensors(const v1::JobSpec& spec) {
  FATHOM_ASSIGN_OR_RETURN(const model::ModelConfig config, model::ResolveModel(spec.model()));
  FATHOM_RETURN_IF_ERROR(model::CheckModel(config));
  std::map<std::string, int64_t> expected;
  for (const model::ParameterSpec& parameter : model::AllParameters(config)) {
    expected[parameter.name] = parameter.size();
    if (parameter.kind == model::ParameterKind::kRouterBias) continue;
    expected[parameter.name + "#m"] = parameter.size();
    expected[parameter.name + "#v"] = parameter.size();
  }
  return expected;
}

absl::Status CheckManifest(const v1::CheckpointManifest& manifest) {
  if (manifest.format() != kManifestFormat) {
    return Damaged(absl::StrCat("format \"", manifest.format(), "\", this program reads \"",
                                kManifestFormat, "\""));
  }
  if (manifest.step() < 0) return Damaged(absl::StrCat("step ", manifest.step()));
  if (!manifest.weights_sha256().empty() && !IsSha256(manifest.weights_sha256())) {
    return Damaged("its weights_sha256 is not a SHA-256");
  }
  FATHOM_RETURN_IF_ERROR(CheckShardHeads(manifest));
  FATHOM_RETURN_IF_ERROR(CheckPieceCount(manifest));
  auto expected = ExpectedTensors(manifest.spec());
  if (!expected.ok()) return Damaged(absl::StrCat("its spec: ", expected.status().message()));

  std::map<std::string, std::vector<Range>> ranges;
  for (const v1::Shard& shard : manifest.shards()) {
    for (const v1::Piece& piece : shard.pieces()) {
      const auto found = expected->find(piece.tensor());
      if (found == expected->end()) {
        return Damaged(absl::StrCat("shard ", shard.file(), " holds tensor \"", piece.tensor(),
                                    "\", which the model doesn't have"));
      }
      if (piece.elements() != found->second) {
        return Damaged(absl::StrCat("tensor ", piece.tensor(), " has ", piece.elements(),
                                    " elements, the model's has ", found->second));
      }
      if (piece.begin() < 0 || piece.begin() >= piece.end() || piece.end() > piece.elements()) {
        return Damaged(absl::StrCat("tensor ", piece.tensor(), ": piece [", piece.begin(), ", ",
                                    piece.end(), ") is not within its ", piece.elements(),
                                    " elements"));
      }
      ranges[piece.tensor()].push_back({piece.begin(), piece.end()});
    }
  }
  for (const auto& [tensor, elements] : *expected) {
    const auto found = ranges.find(tensor);
    if (found == ranges.end()) return Damaged(absl::StrCat("tensor ", tensor, " is missing"));
    FATHOM_RETURN_IF_ERROR(CheckCover(tensor, found->second, elements));
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckpointReader> CheckpointReader::Open(const std::string& manifest_path) {
  CheckpointReader reader;
  FATHOM_ASSIGN_OR_RETURN(reader.manifest_, ReadManifest(manifest_path));
  reader.manifest_path_ = manifest_path;
  const size_t slash = manifest_path.rfind('/');
  reader.folder_ = slash == std::string::npos ? "" : manifest_path.substr(0, slash + 1);
  for (int index = 0; index < reader.manifest_.shards_size(); ++index) {
    for (const v1::Piece& piece : reader.manifest_.shards(index).pieces()) {
      reader.pieces_[piece.tensor()].push_back({piece.begin(), piece.end(), index});
    }
  }
  for (auto& [tensor, pieces] : reader.pieces_) {
    std::sort(pieces.begin(), pieces.end(),
              [](const PlacedPiece& a, const PlacedPiece& b) { return a.begin < b.begin; });
  }
  return reader;
}

absl::StatusOr<const SafetensorsFile*> CheckpointReader::Shard(int index) {
  auto found = shards_.find(index);
  // A bad shard stays bad: its hash isn't taken again for every tensor in it.
  if (found == shards_.end()) found = shards_.emplace(index, OpenShard(index)).first;
  if (!found->second.ok()) return found->second.status();
  return &*found->second;
}

absl::StatusOr<SafetensorsFile> CheckpointReader::OpenShard(int index) const {
  const v1::Shard& shard = manifest_.shards(index);
  const std::string path = folder_ + shard.file();
  auto file = SafetensorsFile::Open(path);
  if (absl::IsNotFound(file.status())) {
    return absl::NotFoundError(absl::StrCat("checkpoint ", manifest_path_, ": shard ", path,
                                            " is missing; restore it or use another checkpoint"));
  }
  if (!file.ok()) return file.status();
  if (file->bytes() != shard.bytes()) {
    return Damaged(absl::StrCat("shard ", path, " has ", file->bytes(),
                                " bytes, its manifest says ", shard.bytes()));
  }
  const std::string sha256 = file->Digest();
  if (sha256 != shard.sha256()) {
    return Damaged(absl::StrCat("shard ", path, " has SHA-256 ", sha256, ", its manifest says ",
                                shard.sha256(), "; it was changed after it was written"));
  }
  for (const v1::Piece& piece : shard.pieces()) {
    const auto tensor = file->Find(PieceName(piece.tensor(), piece.begin()));
    if (!tensor.ok()) return Damaged(std::string(tensor.status().message()));
    if ((*tensor)->dtype != DType::kF32 && (*tensor)->dtype != DType::kBf16 &&
        (*tensor)->dtype != DType::kF64) {
      return Damaged(absl::StrCat("shard ", path, ": piece ", piece.tensor(), "@", piece.begin(),
                                  " is of ", DTypeName((*tensor)->dtype)));
    }
    if ((*tensor)->elements() != piece.end() - piece.begin()) {
      return Damaged(absl::StrCat("shard ", path, ": piece ", piece.tensor(), "@", piece.begin(),
                                  " has ", (*tensor)->elements(), " elements, its manifest says ",
                                  piece.end() - piece.begin()));
    }
  }
  if (file->tensors().size() != static_cast<size_t>(shard.pieces_size())) {
    return Damaged(absl::StrCat("shard ", path, " holds ", file->tensors().size(),
                                " tensors, its manifest lists ", shard.pieces_size()));
  }
  return file;
}

absl::Status CheckpointReader::ReadTensorRange(const std::string& tensor, int64_t begin,
                                               absl::Span<float> out) {
  const auto found = pieces_.find(tensor);
  if (found == pieces_.end()) {
    return absl::NotFoundError(
        absl::StrCat("checkpoint ", manifest_path_, " has no tensor ", tensor));
  }
  const std::vector<PlacedPiece>& pieces = found->second;
  const int64_t elements = pieces.back().end;
  const int64_t count = static_cast<int64_t>(out.size());
  if (begin < 0 || begin > elements || count > elements - begin) {
    return absl::OutOfRangeError(absl::StrCat("checkpoint ", manifest_path_, ", tensor ", tensor,
                                              ": elements [", begin, ", ", begin + count,
                                              ") wanted of ", elements));
  }
  for (const PlacedPiece& piece : pieces) {
    const int64_t from = std::max(begin, piece.begin);
    const int64_t to = std::min(begin + count, piece.end);
    if (from >= to) continue;
    FATHOM_ASSIGN_OR_RETURN(const SafetensorsFile* shard, Shard(piece.shard));
    FATHOM_ASSIGN_OR_RETURN(const TensorView* view, shard->Find(PieceName(tensor, piece.begin)));
    FATHOM_RETURN_IF_ERROR(CopyAsFloat(
        *view, from - piece.begin,
        out.subspan(static_cast<size_t>(from - begin), static_cast<size_t>(to - from))));
  }
  return absl::OkStatus();
}

absl::Status CheckpointReader::VerifyShards() {
  for (int index = 0; index < manifest_.shards_size(); ++index) {
    FATHOM_RETURN_IF_ERROR(Shard(index).status());
  }
  return absl::OkStatus();
}

}  // namespace fathom::checkpoint
