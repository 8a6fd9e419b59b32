#include "cli/job_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;

constexpr char kJob[] = R"(apiVersion: fathom/v1
kind: Job
metadata:
  name: sea
  labels: {team: deep}
spec:
  model: {preset: toy}
  training:
    steps: 100
    warmup_steps: 7
)";

TEST(ParseJobTest, WholeFile_IsTheMessage) {
  const auto job = ParseJob(kJob, "job.yaml");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->metadata().name(), "sea");
  EXPECT_EQ(job->spec().training().steps(), 100);
}

TEST(ParseJobTest, WhatIsNoJob_IsRefusedWithTheLine) {
  const auto message = [](const std::string& text) {
    const auto job = ParseJob(text, "job.yaml");
    EXPECT_TRUE(absl::IsInvalidArgument(job.status())) << job.status();
    return std::string(job.status().message());
  };
  EXPECT_THAT(message(std::string(kJob) + "    stepz: 3\n"), HasSubstr("job.yaml:11: "));
  EXPECT_THAT(message(std::string(kJob) + "    stepz: 3\n"), HasSubstr("stepz"));
  EXPECT_THAT(message(std::string(kJob) + "    seed: deep\n"), HasSubstr("spec.training.seed"));
  EXPECT_THAT(message("a: [1"), HasSubstr("job.yaml"));
  EXPECT_THAT(message(""), HasSubstr("apiVersion"));
  EXPECT_THAT(message("apiVersion: fathom/v2\nkind: Job\n"), HasSubstr("fathom/v2"));
  EXPECT_THAT(message("apiVersion: fathom/v1\nkind: Pod\n"), HasSubstr("kind is 'Pod'"));
}

TEST(LoadJobFileTest, MissingFileOrFolder_IsNamed) {
  const auto missing = LoadJobFile("/nowhere/job.yaml");
  EXPECT_TRUE(absl::IsNotFound(missing.status())) << missing.status();
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/nowhere/job.yaml"));
  EXPECT_FALSE(LoadJobFile("/").ok());
}

TEST(ApplyOverridesTest, Fields_AreReplacedAndOthersKept) {
  v1::Job job = *ParseJob(kJob, "job.yaml");
  const absl::Status status = ApplyOverrides(
      {"spec.training.steps=50", "spec.training.warmupSteps=0", "spec.model.hidden_size=64",
       "metadata.labels.owner=ada", "spec.precision=fp8", "spec.training.learning_rate=1e-3"},
      job);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(job.spec().training().steps(), 50);
  EXPECT_EQ(job.spec().training().warmup_steps(), 0);
  EXPECT_EQ(job.spec().training().learning_rate(), 1e-3);
  EXPECT_EQ(job.spec().model().preset(), "toy");
  EXPECT_EQ(job.spec().model().hidden_size(), 64);
  EXPECT_EQ(job.spec().precision(), "fp8");
  EXPECT_EQ(job.metadata().labels().at("team"), "deep");
  EXPECT_EQ(job.metadata().labels().at("owner"), "ada");
}

TEST(ApplyOverridesTest, LaterOverride_Wins) {
  v1::Job job = *ParseJob(kJob, "job.yaml");
  ASSERT_TRUE(ApplyOverrides({"spec.training.steps=5", "spec.training.steps=6"}, job).ok());
  EXPECT_EQ(job.spec().training().steps(), 6);
}

TEST(ApplyOverridesTest, WhatIsNoOverride_IsQuotedAndChangesNothing) {
  const v1::Job before = *ParseJob(kJob, "job.yaml");
  for (const std::string bad :
       {"steps", "=5", "spec..steps=1", "spec.training.steps", "spec.training.stepz=1",
        "spec.training.steps=many", "spec.training=5", "spec.training.steps.deep=1", "spec: {}=1",
        "spec.training.steps=1\nkind: Pod"}) {
    v1::Job job = before;
    const absl::Status status = ApplyOverrides({bad}, job);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--set"));
    EXPECT_EQ(job.SerializeAsString(), before.SerializeAsString()) << bad;
  }
  std::string deep = "spec";  // such a document would take seconds
  for (int i = 0; i < 50'000; ++i) deep += ".a";
  v1::Job job = before;
  EXPECT_THAT(std::string(ApplyOverrides({deep + "=1"}, job).message()),
              HasSubstr("expected FIELD=VALUE"));
}

}  // namespace
}  // namespace fathom::cli
