#include "worker/engine/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "common/base/atomic_file.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/checkpoint/manifest.h"
#include "common/checkpoint/weights_hash.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/message_differencer.h"

namespace fathom::engine {

using kernels::Matrix;
using model::Parameter;
using model::ParameterBlock;
using model::ParameterKind;
using transport::Range;

namespace {

std::string RankFile(int rank, absl::string_view suffix) {
  return absl::StrFormat("rank-%05d%s", rank, suffix);
}

size_t Bytes(const Matrix& matrix) {
  return static_cast<size_t>(matrix.rows * matrix.cols * kernels::SizeOf(matrix.dtype));
}

checkpoint::DType FileFormat(kernels::DType dtype) {
  return dtype == kernels::DType::kBF16 ? checkpoint::DType::kBf16 : checkpoint::DType::kF32;
}

absl::StatusOr<v1::ShardIndex> ReadIndex(const std::string& path) {
  FATHOM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, limits::kMaxManifestBytes));
  v1::ShardIndex index;
  if (!google::protobuf::util::JsonStringToMessage(text, &index).ok()) {
    return absl::DataLossError(absl::StrCat(path, ": not a shard index"));
  }
  return index;
}

}  // namespace

CheckpointWriter::CheckpointWriter(std::string directory, RankParts* parts, const Clock* clock)
    : directory_(std::move(directory)), parts_(parts), clock_(clock) {
  PlanShard();
}

CheckpointWriter::~CheckpointWriter() { WaitUntilIdle(); }

void CheckpointWriter::AddPiece(const std::string& tensor, const Parameter& parameter,
                                Range in_tensor, checkpoint::DType dtype) {
  v1::Piece piece;
  piece.set_tensor(tensor);
  piece.set_begin(in_tensor.begin);
  piece.set_end(in_tensor.end);
  piece.set_elements(parameter.spec.size());
  entries_.push_back({checkpoint::PieceName(tensor, in_tensor.begin), dtype, {in_tensor.size()}});
  pieces_.push_back(std::move(piece));
}

void CheckpointWriter::PlanShard() {
  for (OptimizerShard& shard : parts_->optimizer->shards()) {
    const std::pair<Matrix*, const char*> arrays[] = {
        {&shard.now.master, ""}, {&shard.now.m, "#m"}, {&shard.now.v, "#v"}};
    for (const auto& [array, suffix] : arrays) {
      ForEachTensor(*shard.block, shard.own, [&](const Parameter& parameter, Range range) {
        AddPiece(absl::StrCat(parameter.spec.name, suffix), parameter,
                 {range.begin - parameter.offset, range.end - parameter.offset},
                 FileFormat(array->dtype));
      });
      copies_.push_back({array, std::vector<std::byte>(Bytes(*array))});
    }
    PlanHashes(*shard.block, shard.group->index(), shard.group->size());
  }
  if (parts_->dense->index() != 0) return;
  for (ParameterBlock& block : parts_->store->blocks()) {
    if (block.kind != ParameterKind::kRouterBias) continue;
    for (const Parameter& parameter : block.parameters) {
      AddPiece(parameter.spec.name, parameter, {0, parameter.spec.size()}, checkpoint::DType::kF32);
    }
    copies_.push_back({&block.weights, std::vector<std::byte>(Bytes(block.weights))});
    PlanHashes(block, 0, 1);
  }
}

// The tensors of a block are shared out among its holders, each hashed by one.
void CheckpointWriter::PlanHashes(ParameterBlock& block, int index, int size) {
  for (size_t i = 0; i < block.parameters.size(); ++i) {
    if (static_cast<int>(i % size) != index) continue;
    const Parameter& parameter = block.parameters[i];
    hashed_.push_back({parameter.spec.name,
                       {&parameter.weight, std::vector<std::byte>(Bytes(parameter.weight))}});
  }
}

std::string CheckpointWriter::StepDirectory(int64_t step) const {
  return absl::StrFormat("%s/step-%08d", directory_, step);
}

void CheckpointWriter::Begin(int64_t step) {
  WaitUntilIdle();
  begun_ = clock_->Steady();
  const auto copy = [this](Copy& target) {
    parts_->ops->CopyToHost(target.bytes.data(), target.source->data, target.bytes.size());
  };
  for (Copy& target : copies_) copy(target);
  for (HashedTensor& tensor : hashed_) copy(tensor.copy);
  progress_ = Progress::kWriting;
  thread_ = std::thread([this, step] {
    error_ = WithContext(
        Write(step), absl::StrCat("saving the shard of rank ", parts_->rank, " at step ", step));
    progress_ = error_.ok() ? Progress::kDurable : Progress::kFailed;
  });
}

void CheckpointWriter::WaitUntilIdle() {
  if (thread_.joinable()) thread_.join();
}

absl::Status CheckpointWriter::Write(int64_t step) {
  const std::string folder = StepDirectory(step);
  FATHOM_RETURN_IF_ERROR(EnsureDirectory(folder));
  const std::string file = RankFile(parts_->rank, ".safetensors");
  FATHOM_ASSIGN_OR_RETURN(
      checkpoint::SafetensorsWriter writer,
      checkpoint::SafetensorsWriter::Create(absl::StrCat(folder, "/", file), entries_,
                                            {{"step", absl::StrCat(step)}}));
  for (const Copy& copy : copies_) {
    FATHOM_RETURN_IF_ERROR(writer.Append(copy.bytes.data(), copy.bytes.size()));
  }
  FATHOM_ASSIGN_OR_RETURN(const checkpoint::FileDigest digest, writer.Finish());

  v1::ShardIndex index;
  index.mutable_shard()->set_file(file);
  index.mutable_shard()->set_bytes(digest.bytes);
  index.mutable_shard()->set_sha256(digest.sha256);
  for (const v1::Piece& piece : pieces_) *index.mutable_shard()->add_pieces() = piece;
  for (const HashedTensor& tensor : hashed_) {
    (*index.mutable_tensor_sha256())[tensor.name] = Sha256Hex(
        {reinterpret_cast<const char*>(tensor.copy.bytes.data()), tensor.copy.bytes.size()});
  }
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(index, &text).ok()) {
    return absl::InternalError("shard index can't be written as JSON");
  }
  return WriteFileAtomically(absl::StrCat(folder, "/", RankFile(parts_->rank, ".json")), text);
}

absl::StatusOr<v1::CheckpointReport> CheckpointWriter::Publish(int64_t step) {
  const std::string folder = StepDirectory(step);
  v1::CheckpointManifest manifest;
  manifest.set_job(parts_->plan.job());
  manifest.set_epoch(parts_->plan.epoch());
  manifest.set_step(step);
  *manifest.mutable_spec() = parts_->plan.spec();
  manifest.set_created_ms(clock_->WallMs());
  std::map<std::string, std::string> tensor_sha256;
  v1::CheckpointReport report;
  for (int rank = 0; rank < parts_->plan.ranks_size(); ++rank) {
    FATHOM_ASSIGN_OR_RETURN(v1::ShardIndex index,
                            ReadIndex(absl::StrCat(folder, "/", RankFile(rank, ".json"))));
    report.set_bytes(report.bytes() + index.shard().bytes());
    for (const auto& [name, sha256] : index.tensor_sha256()) tensor_sha256[name] = sha256;
    *manifest.add_shards() = std::move(*index.mutable_shard());
  }
  manifest.set_weights_sha256(checkpoint::WeightsSha256(tensor_sha256));
  report.set_step(step);
  report.set_manifest(ManifestPath(step));
  report.set_weights_sha256(manifest.weights_sha256());
  FATHOM_RETURN_IF_ERROR(checkpoint::WriteManifest(report.manifest(), std::move(manifest)));
  report.set_seconds(absl::ToDoubleSeconds(clock_->Steady() - begun_));
  RemoveOld(step);
  return report;
}

std::string CheckpointWriter::ManifestPath(int64_t step) const {
  return absl::StrCat(StepDirectory(step), "/", checkpoint::kManifestFile);
}

std::map<int64_t, std::filesystem::path, std::greater<>> CheckpointWriter::StepFolders() const {
  std::map<int64_t, std::filesystem::path, std::greater<>> folders;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory_, error)) {
    const std::string name = entry.path().filename().string();
    absl::string_view digits = name;
    int64_t step = 0;
    if (absl::ConsumePrefix(&digits, "step-") && absl::SimpleAtoi(digits, &step)) {
      folders[step] = entry.path();
    }
  }
  return folders;
}

int64_t CheckpointWriter::NewestPublished() const {
  for (const auto& [step, path] : StepFolders()) {
    const absl::StatusOr<v1::CheckpointManifest> manifest =
        checkpoint::ReadManifest(ManifestPath(step));
    if (manifest.ok() && manifest->job() == parts_->plan.job() && manifest->step() == step) {
      return step;
    }
  }
  return 0;
}

// Keeps the newest complete checkpoints and whatever is newer than `newest`; older ones and the
// leavings of failed saves go. A folder that can't be removed costs only its space.
void CheckpointWriter::RemoveOld(int64_t newest) const {
  std::error_code error;
  int kept = 0;
  for (const auto& [step, path] : StepFolders()) {
    if (step > newest) continue;
    const std::filesystem::path manifest = path / checkpoint::kManifestFile;
    if (std::filesystem::exists(manifest, error) &&
        kept < parts_->plan.spec().checkpoint().keep()) {
      ++kept;
      continue;
    }
    std::filesystem::remove(manifest, error);  // first, so that no half of one looks whole
    std::filesystem::remove_all(path, error);
  }
}

namespace {

absl::Status LoadShard(checkpoint::CheckpointReader& reader, kernels::Ops* ops,
                       OptimizerShard& shard, kernels::AdamWState& state) {
  std::vector<float> values;
  const std::pair<Matrix*, const char*> arrays[] = {
      {&state.master, ""}, {&state.m, "#m"}, {&state.v, "#v"}};
  for (const auto& [array, suffix] : arrays) {
    absl::Status status;
    ForEachTensor(*shard.block, shard.own, [&](const Parameter& parameter, Range range) {
      if (!status.ok()) return;
      values.resize(range.size());
      status = reader.ReadTensorRange(absl::StrCat(parameter.spec.name, suffix),
                                      range.begin - parameter.offset, absl::MakeSpan(values));
      if (!status.ok()) return;
      const Matrix host = {values.data(), kernels::DType::kF32, 1, range.size(), range.size()};
      ops->Copy(host, Slice(*array, {range.begin - shard.own.begin, range.end - shard.own.begin}));
    });
    FATHOM_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RestoredState> LoadCheckpoint(const std::string& manifest, RankParts* parts) {
  FATHOM_ASSIGN_OR_RETURN(checkpoint::CheckpointReader reader,
                          checkpoint::CheckpointReader::Open(manifest));
  v1::ModelSpec saved = reader.manifest().spec().model();
  v1::ModelSpec wanted = parts->plan.spec().model();
  saved.clear_preset();
  wanted.clear_preset();
  google::protobuf::util::MessageDifferencer differencer;
  std::string differences;
  differencer.ReportDifferencesToString(&differences);
  if (!differencer.Compare(saved, wanted)) {
    return absl::InvalidArgumentError(absl::StrCat(
        manifest, ": made from a model of another shape (", absl::StripSuffix(differences, "\n"),
        "); give the job the checkpoint's spec.model"));
  }
  Optimizer& optimizer = *parts->optimizer;
  // Over the older of two states, in case this load comes to nothing.
  const int buffer = optimizer.state(0)->step() <= optimizer.state(1)->step() ? 0 : 1;
  optimizer.BeginLoad(buffer);
  for (OptimizerShard& shard : optimizer.shards()) {
    FATHOM_RETURN_IF_ERROR(LoadShard(reader, parts->ops.get(), shard, shard.buffers[buffer]));
  }
  for (ParameterBlock& block : parts->store->blocks()) {
    if (block.kind != ParameterKind::kRouterBias) continue;
    for (Parameter& parameter : block.parameters) {
      std::vector<float> values(parameter.spec.size());
      FATHOM_RETURN_IF_ERROR(
          reader.ReadTensorRange(parameter.spec.name, 0, absl::MakeSpan(values)));
      parts->ops->CopyFromHost(parameter.weight.data, values.data(), values.size() * sizeof(float));
    }
  }
  optimizer.FinishLoad(buffer, reader.manifest().step(), /*biases_in_store=*/true);
  return RestoredState{reader.manifest().step(), reader.manifest().weights_sha256()};
}

}  // namespace fathom::engine
