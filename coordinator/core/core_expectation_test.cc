// What a running job is expected to take, and how that is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/core/core_test_cluster.h"

namespace fathom {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::JobStatus Get(const TestCluster& cluster, const std::string& job) {
  v1::GetJobRequest request;
  request.set_name(job);
  const auto status = cluster.core->GetJob(request);
  EXPECT_TRUE(status.ok()) << status.status();
  return status.ok() ? *status : v1::JobStatus();
}

std::string Explanation(const TestCluster& cluster, const std::string& job) {
  v1::ExplainJobRequest request;
  request.set_name(job);
  const auto response = cluster.core->Explain(request);
  EXPECT_TRUE(response.ok()) << response.status();
  return response.ok() ? absl::StrJoin(response->lines(), "\n") : "";
}

TEST(ExpectationTest, RunningJob_IsExpectedToTakeWhatThePlannerSays) {
  TestCluster cluster;
  cluster.AddNode("a", 4);
  const std::string job = cluster.Submit(4);
  EXPECT_FALSE(Get(cluster, job).has_expected());
  cluster.Settle();
  cluster.Advance(100);
  const v1::JobStatus status = Get(cluster, job);
  ASSERT_EQ(cluster.State(job), "RUNNING");
  EXPECT_DOUBLE_EQ(status.expected().step().seconds(), 0.4);
  EXPECT_EQ(status.expected().devices(), 1) << "it knows the nodes";
  EXPECT_DOUBLE_EQ(status.eta_s(), 100 * 0.4) << "before a step is measured";
}

TEST(ExpectationTest, SlowerSteps_AreToldAndWhereToLook) {
  TestCluster cluster;
  cluster.AddNode("a", 4);
  const std::string job = cluster.Submit(4);
  cluster.Settle();
  cluster.Advance(100);
  EXPECT_THAT(Explanation(cluster, job), HasSubstr("a step is expected to take 400.0 ms"));
  cluster.StepTo(job, 1);
  const std::string told = Explanation(cluster, job);
  EXPECT_THAT(told, HasSubstr("takes 500.0 ms, 25% longer: `fathomctl trace` shows where"));
}

TEST(ExpectationTest, AnotherPlan_IsPredictedAnew) {
  TestCluster cluster;
  cluster.AddNode("a", 2);
  cluster.AddNode("b", 2);
  const std::string job = cluster.Submit(4, "", 100, 2);
  cluster.Settle();
  cluster.Advance(100);
  EXPECT_DOUBLE_EQ(Get(cluster, job).expected().step().seconds(), 0.4);
  cluster.StepTo(job, 3);
  cluster.nodes["b"].up = false;
  for (int i = 0; i < 8; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  ASSERT_EQ(Get(cluster, job).plan().ranks_size(), 2) << "a replica was shed";
  ASSERT_NE(cluster.State(job), "RUNNING");
  EXPECT_FALSE(Get(cluster, job).has_expected()) << "what there is, is of the plan before";
  cluster.Settle();
  cluster.Advance(100);
  ASSERT_EQ(cluster.State(job), "RUNNING");
  EXPECT_DOUBLE_EQ(Get(cluster, job).expected().step().seconds(), 0.2);
}

TEST(ExpectationTest, UnknownDevices_SayWhyNothingIsExpected) {
  TestCluster cluster;
  cluster.AddNode("a", 12);
  const std::string job = cluster.Submit(kPredictedRanksMax + 1);
  cluster.Settle();
  cluster.Advance(100);
  EXPECT_FALSE(Get(cluster, job).has_expected());
  EXPECT_EQ(Get(cluster, job).expected_note(), "devices of an unknown kind");
  EXPECT_THAT(Explanation(cluster, job), HasSubstr("isn't known: devices of an unknown kind"));
}

TEST(ExpectationTest, DryRun_TellsWhatIsExpected) {
  TestCluster cluster;
  cluster.AddNode("a", 4);
  v1::SubmitJobRequest request = TestCluster::JobOf(4);
  request.set_dry_run(true);
  const auto response = cluster.core->Submit(request, {}, cluster.now);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_DOUBLE_EQ(response->expected().step().seconds(), 0.4);
}

}  // namespace
}  // namespace fathom
