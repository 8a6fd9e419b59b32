#include "worker/agent/log_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/metrics/metric_registry.h"
#include "worker/agent/unique_fd.h"

namespace fathom {
namespace {

class LogPagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    AddLogPages(&logs_, &http_);
    ASSERT_TRUE(http_.Start("127.0.0.1:0").ok());
  }

  void Append(const RankId& id, const std::string& text) {
    const absl::StatusOr<int> fd = logs_.OpenForAppend(id);
    ASSERT_TRUE(fd.ok()) << fd.status();
    const UniqueFd owned(*fd);
    ASSERT_EQ(::write(owned.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

  httplib::Response Get(const std::string& path) {
    httplib::Client client("http://" + http_.address());
    const httplib::Result result = client.Get(path.c_str());
    EXPECT_TRUE(result) << path;
    return result ? *result : httplib::Response();
  }

  static std::string TempFolder() {
    std::string path = absl::StrCat(::testing::TempDir(), "/pages.XXXXXX");
    return ::mkdtemp(path.data());
  }

  const RankLogs logs_{TempFolder()};
  MetricRegistry registry_;
  MetricsHttp http_{&registry_};
};

TEST_F(LogPagesTest, Timeline_IsTheFileTheRankKeeps) {
  const RankId id{JobId("tiny-1"), 2, 0};
  Append(id, "first\n");
  EXPECT_EQ(Get("/timelines/tiny-1/2/0").status, 404);
  const absl::StatusOr<std::string> path = logs_.TimelinePath(id);
  ASSERT_TRUE(path.ok()) << path.status();
  ASSERT_TRUE(ReplaceFile(*path, std::string("a\0b", 3)).ok());
  httplib::Response reply = Get("/timelines/tiny-1/2/0");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, std::string("a\0b", 3));
  ASSERT_TRUE(ReplaceFile(*path, "newer").ok());
  EXPECT_EQ(Get("/timelines/tiny-1/2/0").body, "newer");
  EXPECT_NE(Get("/timelines/..%2F..%2Fetc/2/0").status, 200);
  EXPECT_FALSE(logs_.TimelinePath({JobId("../x"), 1, 0}).ok());
}

TEST_F(LogPagesTest, Log_IsReadPieceByPiece) {
  const RankId id{JobId("tiny-1"), 2, 0};
  Append(id, "first\n");
  httplib::Response reply = Get("/logs/tiny-1/2/0");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, "first\n");
  EXPECT_EQ(reply.get_header_value("X-Log-Size"), "6");
  EXPECT_EQ(Get("/logs/tiny-1/2/0?from=6").body, "");
  Append(id, "second\n");
  reply = Get("/logs/tiny-1/2/0?from=6");
  EXPECT_EQ(reply.body, "second\n");
  EXPECT_EQ(reply.get_header_value("X-Log-Size"), "13");
}

TEST_F(LogPagesTest, LongLog_ComesInBoundedPieces) {
  Append({JobId("tiny-1"), 1, 0}, std::string(kMaxLogPieceBytes + 5, 'x'));
  EXPECT_EQ(static_cast<int64_t>(Get("/logs/tiny-1/1/0").body.size()), kMaxLogPieceBytes);
  EXPECT_EQ(Get(absl::StrCat("/logs/tiny-1/1/0?from=", kMaxLogPieceBytes)).body, "xxxxx");
}

TEST_F(LogPagesTest, Job_ListsItsEpochs) {
  Append({JobId("tiny-1"), 10, 0}, "x");
  Append({JobId("tiny-1"), 9, 0}, "x");
  EXPECT_EQ(Get("/logs/tiny-1").body, "9\n10\n");
}

TEST_F(LogPagesTest, WhatIsNotThere_Is404) {
  EXPECT_EQ(Get("/logs/tiny-1").status, 404);
  EXPECT_EQ(Get("/logs/tiny-1/1/0").status, 404);
  EXPECT_EQ(Get("/logs/").status, 404);
}

TEST_F(LogPagesTest, WhatMakesNoSense_Is400) {
  Append({JobId("tiny-1"), 1, 0}, "x");
  EXPECT_EQ(Get("/logs/..").status, 400);
  EXPECT_EQ(Get("/logs/tiny-1/1/0?from=-1").status, 400);
  EXPECT_EQ(Get("/logs/tiny-1/1/0?from=x").status, 400);
  EXPECT_EQ(Get("/logs/tiny-1/1/99999999999").status, 400);
  EXPECT_EQ(Get("/logs/..%2ftiny-1/1/0").status, 404) << "a slash ends the job's id";
}

}  // namespace
}  // namespace fathom
