#include "cli/logs_verb.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/numbers.h"
#include "cli/exit_code.h"
#include "cli/log_fetch.h"
#include "cli/test_environment.h"
#include "common/metrics/metric_registry.h"
#include "common/metrics/metrics_http.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;

constexpr size_t kPieceBytes = 10;

// A node's daemon as far as logs go: one log, handed out in small pieces.
class LogsVerbTest : public testing::Test {
 protected:
  LogsVerbTest() : http_(&registry_), ctl_(testing::TempDir() + "/logs_verb") {
    http_.Handle("/logs/(.*)", [this](const HttpRequest& request) { return Answer(request); });
    EXPECT_TRUE(http_.Start("127.0.0.1:0").ok());
    v1::JobStatus job;
    job.set_name("sea");
    job.set_id("sea-1");
    job.set_state(v1::JOB_STATE_RUNNING);
    job.mutable_plan()->set_job("sea-1");
    job.mutable_plan()->set_epoch(2);
    v1::RankAssignment* rank = job.mutable_plan()->add_ranks();
    rank->set_node("node-0");
    ctl_.coordinator.jobs = {job};
    v1::NodeStatus node;
    node.mutable_node()->set_name("node-0");
    node.mutable_node()->set_metrics_address(http_.address());
    ctl_.coordinator.nodes = {node};
  }

  HttpReply Answer(const HttpRequest& request) {
    HttpReply reply;
    if (request.path != path_) {
      reply.status = 404;
      return reply;
    }
    int64_t from = 0;
    EXPECT_TRUE(absl::SimpleAtoi(request.query.at("from"), &from));
    if (from < static_cast<int64_t>(log_.size())) {
      reply.body = log_.substr(static_cast<size_t>(from), kPieceBytes);
    }
    reply.headers["X-Log-Size"] = std::to_string(log_.size());
    return reply;
  }

  MetricRegistry registry_;
  std::string path_ = "/logs/sea-1/2/0";
  std::string log_ = "first line\nsecond line\nthird line\n";
  MetricsHttp http_;
  TestEnvironment ctl_;
};

TEST_F(LogsVerbTest, WholeLog_IsPutTogetherFromItsPieces) {
  EXPECT_EQ(ctl_.Run({"logs", "sea"}), kExitOk) << ctl_.err();
  EXPECT_EQ(ctl_.out(), log_);
}

TEST_F(LogsVerbTest, Tail_IsTheLastBytes) {
  EXPECT_EQ(ctl_.Run({"logs", "sea", "--tail", "11"}), kExitOk) << ctl_.err();
  EXPECT_EQ(ctl_.out(), "third line\n");
  EXPECT_EQ(ctl_.Run({"logs", "sea", "--tail", "1000"}), kExitOk);
  EXPECT_EQ(ctl_.out(), log_);
}

TEST_F(LogsVerbTest, Follow_ShowsWhatComesUntilTheJobEnds) {
  int looks = 0;
  ctl_.coordinator.before_list_nodes = [&] {
    if (++looks == 6) log_ += "last words\n";
    if (looks == 8) ctl_.coordinator.jobs[0].set_state(v1::JOB_STATE_COMPLETED);
  };
  EXPECT_EQ(ctl_.Run({"logs", "sea", "-f"}), kExitOk) << ctl_.err();
  EXPECT_EQ(ctl_.out(), "first line\nsecond line\nthird line\nlast words\n");
}

TEST_F(LogsVerbTest, NewEpoch_IsFollowedFromItsBeginning) {
  int looks = 0;
  ctl_.coordinator.before_list_nodes = [&] {
    if (++looks == 6) {
      ctl_.coordinator.jobs[0].mutable_plan()->set_epoch(3);
      log_ = "again\n";
      path_ = "/logs/sea-1/3/0";
    }
  };
  ctl_.pause().left = 10;
  EXPECT_EQ(ctl_.Run({"logs", "sea", "-f"}), kExitOk) << ctl_.err();
  EXPECT_THAT(ctl_.out(), HasSubstr("third line\n--- epoch 3 on node node-0 ---\nagain\n"));
}

TEST_F(LogsVerbTest, WhatIsNotThere_IsNamed) {
  EXPECT_EQ(ctl_.Run({"logs", "sky"}), kExitNotFound);
  EXPECT_EQ(ctl_.Run({"logs", "sea", "--rank", "1"}), kExitNotFound);
  EXPECT_THAT(ctl_.err(), HasSubstr("has no rank 1; its ranks are 0 to 0"));
  EXPECT_EQ(ctl_.Run({"logs", "sea", "--epoch", "1"}), kExitNotFound);
  EXPECT_THAT(ctl_.err(), HasSubstr("/logs/sea-1/1/0"));
  ctl_.coordinator.nodes.clear();
  EXPECT_EQ(ctl_.Run({"logs", "sea"}), kExitNotFound);
  EXPECT_THAT(ctl_.err(), HasSubstr("node-0"));
  ctl_.coordinator.jobs[0].clear_plan();
  EXPECT_EQ(ctl_.Run({"logs", "sea"}), kExitNotFound);
}

TEST_F(LogsVerbTest, DeadDaemon_IsAnErrorThatNamesIt) {
  http_.Stop();
  EXPECT_EQ(ctl_.Run({"logs", "sea"}), kExitError);
  EXPECT_THAT(ctl_.err(), HasSubstr(http_.address()));
}

TEST(FetchLogTest, OddJobIdOrAddress_IsNotAskedFor) {
  EXPECT_TRUE(absl::IsInternal(FetchLog("127.0.0.1:1", "../etc", 1, 0, 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(FetchLog("nowhere", "sea-1", 1, 0, 0).status()));
}

}  // namespace
}  // namespace fathom::cli
