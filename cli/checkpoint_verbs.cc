#include "cli/checkpoint_verbs.h"

#include <algorithm>
#include <filesystem>
#include <ostream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/render.h"
#include "common/base/status_util.h"
#include "common/checkpoint/manifest.h"
#include "common/checkpoint/verify.h"

namespace fathom::cli {
namespace {

constexpr size_t kShortHash = 12;

bool IsFolder(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

bool IsFile(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}

// Manifests one level below the folder, by name: "step-00000100" sorts by step.
absl::StatusOr<std::vector<std::string>> ManifestsIn(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> manifests;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    const std::string manifest = it->path().string() + "/" + checkpoint::kManifestFile;
    if (IsFile(manifest)) manifests.push_back(manifest);
  }
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot list the folder ", folder, ": ", error.message()));
  }
  std::sort(manifests.begin(), manifests.end());
  return manifests;
}

absl::StatusOr<std::string> FindManifest(const std::string& target) {
  if (!IsFolder(target)) return target;
  const std::string own = absl::StrCat(target, "/", checkpoint::kManifestFile);
  if (IsFile(own)) return own;
  FATHOM_ASSIGN_OR_RETURN(const std::vector<std::string> manifests, ManifestsIn(target));
  if (!manifests.empty()) return manifests.back();
  return absl::NotFoundError(absl::StrCat("no checkpoint in ", target, ": no ",
                                          checkpoint::kManifestFile, " there or one folder below"));
}

int64_t TotalBytes(const v1::CheckpointManifest& manifest) {
  int64_t bytes = 0;
  for (const v1::Shard& shard : manifest.shards()) bytes += shard.bytes();
  return bytes;
}

Value Summary(const std::string& path, const v1::CheckpointManifest& manifest) {
  Value value = Value::Object();
  value.Set("manifest", path).Set("job", manifest.job()).Set("epoch", manifest.epoch());
  value.Set("step", manifest.step()).Set("bytes", TotalBytes(manifest));
  value.Set("shards", manifest.shards_size()).Set("created", TimeValue(manifest.created_ms()));
  value.Set("weights_sha256", TextOrNull(manifest.weights_sha256()));
  return value;
}

absl::StatusOr<std::string> FolderOf(const std::string& target, Session& session) {
  if (IsFolder(target)) return target;
  if (target.find('/') != std::string::npos) {
    return absl::NotFoundError(absl::StrCat("no folder ", target, "; check the path"));
  }
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  v1::GetJobRequest request;
  request.set_name(target);
  FATHOM_ASSIGN_OR_RETURN(const v1::JobStatus job, client->GetJob(request));
  std::string folder = job.job().spec().checkpoint().directory();
  if (!IsFolder(folder)) {
    return absl::NotFoundError(absl::StrCat("job ", target, " has no checkpoints here: no folder ",
                                            folder.empty() ? "is known" : folder));
  }
  return folder;
}

}  // namespace

absl::Status RunCheckpointList(const CheckpointOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const std::string folder, FolderOf(options.target, session));
  FATHOM_ASSIGN_OR_RETURN(const std::vector<std::string> manifests, ManifestsIn(folder));
  Table table;
  table.columns = {{"STEP", false, true},
                   {"JOB"},
                   {"EPOCH", false, true},
                   {"SIZE", false, true},
                   {"SHARDS", true, true},
                   {"CREATED"},
                   {"WEIGHTS"},
                   {"MANIFEST"},
                   {"FAULT"}};
  table.none = absl::StrCat("no checkpoints in ", folder);
  for (const std::string& path : manifests) {
    const auto manifest = checkpoint::ReadManifest(path);
    Row row;
    row.name = path;
    if (manifest.ok()) {
      row.cells = {absl::StrCat(manifest->step()),
                   manifest->job(),
                   absl::StrCat(manifest->epoch()),
                   BytesText(TotalBytes(*manifest)),
                   absl::StrCat(manifest->shards_size()),
                   TimeText(manifest->created_ms()),
                   manifest->weights_sha256().substr(0, kShortHash),
                   path,
                   ""};
      row.value = Summary(path, *manifest);
      row.value.Set("fault", Value());
    } else {
      const std::string fault(manifest.status().message());
      row.cells = {"", "", "", "", "", "", "", path, fault};
      row.value = Value::Object();
      row.value.Set("manifest", path).Set("fault", fault);
    }
    table.rows.push_back(std::move(row));
  }
  session.out() << RenderTable(table, session.format());
  return absl::OkStatus();
}

absl::Status RunCheckpointShow(const CheckpointOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const std::string path, FindManifest(options.target));
  FATHOM_ASSIGN_OR_RETURN(const v1::CheckpointManifest manifest, checkpoint::ReadManifest(path));
  Value value = Summary(path, manifest);
  Value shards = Value::List();
  for (const v1::Shard& shard : manifest.shards()) {
    Value one = Value::Object();
    one.Set("file", shard.file()).Set("bytes", shard.bytes()).Set("pieces", shard.pieces_size());
    one.Set("sha256", shard.sha256());
    shards.Add(std::move(one));
  }
  value.Set("shard_list", std::move(shards)).Set("spec", ValueOf(manifest.spec()));
  session.out() << RenderOne(path, value, session.format());
  return absl::OkStatus();
}

absl::Status RunCheckpointVerify(const CheckpointOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const std::string path, FindManifest(options.target));
  FATHOM_ASSIGN_OR_RETURN(const v1::CheckpointManifest manifest,
                          checkpoint::VerifyCheckpoint(path));
  if (session.for_people()) {
    session.out() << "checkpoint " << path << " is whole: job " << manifest.job() << ", step "
                  << manifest.step() << ", " << manifest.shards_size() << " shards, "
                  << BytesText(TotalBytes(manifest)) << "\n";
    return absl::OkStatus();
  }
  Value value = Summary(path, manifest);
  value.Set("verified", true);
  session.out() << RenderOne(path, value, session.format());
  return absl::OkStatus();
}

}  // namespace fathom::cli
