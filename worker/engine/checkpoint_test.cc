#include "worker/engine/checkpoint.h"

#include <filesystem>
#include <string>

#include "common/checkpoint/verify.h"
#include "gtest/gtest.h"
#include "worker/engine/rank_threads.h"

namespace fathom::engine {
namespace {

v1::JobSpec Spec(int pipeline, int expert) {
  v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  spec.mutable_parallelism()->set_pipeline(pipeline);
  spec.mutable_parallelism()->set_expert(expert);
  spec.mutable_training()->set_steps(6);
  spec.mutable_training()->set_warmup_steps(1);
  spec.mutable_training()->set_micro_batches(4);
  spec.mutable_training()->set_validation_batches(4);
  spec.mutable_checkpoint()->set_every_steps(3);
  spec.mutable_checkpoint()->set_keep(10);
  return spec;
}

std::string Folder(const std::string& name) {
  const std::string folder = testing::TempDir() + "/" + name;
  std::filesystem::remove_all(folder);
  return folder;
}

JobResult RunToEnd(const v1::JobSpec& spec, const std::string& folder,
                   const std::string& resume_manifest = "") {
  JobSetting setting;
  setting.checkpoint_directory = folder;
  setting.resume_manifest = resume_manifest;
  absl::StatusOr<JobResult> result = RunJob(spec, setting);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : JobResult();
}

std::string ManifestOf(const std::string& folder, const std::string& step) {
  return folder + "/step-0000000" + step + "/manifest.json";
}

TEST(Checkpoint, ResumedInTheMiddle_EndsWithTheBitsOfTheUndisturbedRun) {
  const v1::JobSpec spec = Spec(2, 2);
  const JobResult whole = RunToEnd(spec, Folder("whole"));
  const JobResult resumed =
      RunToEnd(spec, Folder("resumed"), ManifestOf(testing::TempDir() + "/whole", "3"));
  ASSERT_EQ(whole.steps.size(), 6u);
  ASSERT_EQ(resumed.steps.size(), 3u);
  EXPECT_EQ(resumed.steps[0].step(), 4);
  EXPECT_EQ(resumed.steps[2].loss(), whole.steps[5].loss());
  EXPECT_EQ(resumed.weights_sha256, whole.weights_sha256);
  EXPECT_EQ(whole.weights_sha256.size(), 64u);
}

// A coordinator that was away names a checkpoint that the job has since replaced and removed.
TEST(Checkpoint, PlanOfALaterEpochNamesARemovedOne_TheNewestPublishedIsTaken) {
  v1::JobSpec spec = Spec(2, 1);
  spec.mutable_checkpoint()->set_keep(1);
  const std::string folder = Folder("replaced");
  const JobResult first = RunToEnd(spec, folder);
  ASSERT_FALSE(std::filesystem::exists(ManifestOf(folder, "3")));
  spec.mutable_training()->set_steps(8);
  JobSetting setting;
  setting.checkpoint_directory = folder;
  setting.resume_manifest = ManifestOf(folder, "3");
  setting.resume_step = 3;
  setting.epoch = 2;
  const absl::StatusOr<JobResult> second = RunJob(spec, setting);
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_EQ(second->steps.size(), 2u);
  EXPECT_EQ(second->steps[0].step(), 7);
  // The first epoch takes what it was told, and no other.
  setting.epoch = 1;
  EXPECT_EQ(RunJob(spec, setting).status().code(), absl::StatusCode::kNotFound);
}

TEST(Checkpoint, EveryOneOfARun_PassesVerification) {
  const std::string folder = Folder("verified");
  const JobResult result = RunToEnd(Spec(2, 1), folder);
  ASSERT_GE(result.checkpoints.size(), 2u);
  for (const v1::CheckpointReport& report : result.checkpoints) {
    const auto manifest = checkpoint::VerifyCheckpoint(report.manifest());
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    EXPECT_EQ(manifest->step(), report.step());
    EXPECT_EQ(manifest->weights_sha256(), report.weights_sha256());
  }
  EXPECT_EQ(result.checkpoints.back().step(), 6);
}

TEST(Checkpoint, SavedByOneLayout_LoadsAtAnotherWithTheSameWeights) {
  v1::JobSpec spec = Spec(1, 1);
  spec.mutable_training()->set_micro_batches(8);
  const std::string folder = Folder("one-rank");
  RunToEnd(spec, folder);
  // Nothing is left to train: the other layout loads the final state and saves it again.
  v1::JobSpec other = Spec(2, 2);
  other.mutable_training()->set_steps(7);
  const JobResult moved = RunToEnd(other, Folder("four-ranks"), ManifestOf(folder, "6"));
  spec.mutable_training()->set_steps(7);
  const JobResult stayed = RunToEnd(spec, Folder("one-rank-again"), ManifestOf(folder, "6"));
  ASSERT_EQ(moved.steps.size(), 1u);
  ASSERT_EQ(stayed.steps.size(), 1u);
  EXPECT_NEAR(moved.steps[0].loss(), stayed.steps[0].loss(), 1e-6);
}

TEST(Checkpoint, KeepOfTwo_LeavesTheTwoNewestFolders) {
  v1::JobSpec spec = Spec(1, 1);
  spec.mutable_checkpoint()->set_keep(2);
  spec.mutable_checkpoint()->set_every_steps(1);
  const std::string folder = Folder("kept");
  RunToEnd(spec, folder);
  int folders = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++folders;
  EXPECT_EQ(folders, 2);
  EXPECT_TRUE(std::filesystem::exists(ManifestOf(folder, "6")));
}

TEST(Checkpoint, ModelOfAnotherShape_IsRefusedWithTheDifference) {
  const std::string folder = Folder("shape");
  RunToEnd(Spec(1, 1), folder);
  v1::JobSpec other = Spec(1, 1);
  other.mutable_model()->set_moe_intermediate_size(other.model().moe_intermediate_size() * 2);
  JobSetting setting;
  setting.resume_manifest = ManifestOf(folder, "6");
  const absl::StatusOr<JobResult> result = RunJob(other, setting);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  EXPECT_NE(result.status().message().find("moe_intermediate_size"), absl::string_view::npos);
}

TEST(Checkpoint, FolderThatCannotBeMade_FailsTheFinalCheckpointAndSaysWhere) {
  JobSetting setting;
  setting.checkpoint_directory = "/proc/nowhere";
  const absl::StatusOr<JobResult> result = RunJob(Spec(1, 1), setting);
  EXPECT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("/proc/nowhere"), absl::string_view::npos)
      << result.status();
}

}  // namespace
}  // namespace fathom::engine
