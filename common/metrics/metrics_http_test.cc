// The registry through the server that shows it, over loopback.
#include "common/metrics/metrics_http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include "absl/strings/str_cat.h"
#include "common/base/host_port.h"
#include "common/metrics/metric_registry.h"

namespace fathom {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

httplib::Client ClientOf(const MetricsHttp& server) {
  return httplib::Client("http://" + server.address());
}

TEST(MetricRegistryTest, SetAddObserve_ShowInTheText) {
  MetricRegistry registry;
  registry.Set(metrics::kJobLoss, {"tiny-1"}, 3.5);
  registry.Set(metrics::kJobLoss, {"tiny-1"}, 2.5);
  registry.Set(metrics::kQueuedJobs, 4);
  registry.Add(metrics::kLogRecords, 2);
  registry.Add(metrics::kLogRecords);
  registry.Observe(metrics::kLogAppendSeconds, 0.004);
  const std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr("fathom_job_loss{job=\"tiny-1\"} 2.5\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE fathom_job_loss gauge\n"));
  EXPECT_THAT(text, HasSubstr("fathom_queued_jobs 4\n"));
  EXPECT_THAT(text, HasSubstr("fathom_log_records_total 3\n"));
  EXPECT_THAT(text, HasSubstr("fathom_log_append_seconds_bucket{le=\"0.005\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("fathom_log_append_seconds_bucket{le=\"0.0025\"} 0\n"));
}

TEST(MetricRegistryTest, RemoveByPrefix_TakesOnlyThatJobsSeries) {
  MetricRegistry registry;
  for (const char* part : {"forward", "wait"}) {
    registry.Set(metrics::kStagePartSeconds, {"a-1", "0", part}, 1);
    registry.Set(metrics::kStagePartSeconds, {"a-10", "0", part}, 1);
  }
  registry.Remove(metrics::kStagePartSeconds, {"a-1"});
  const std::string text = registry.Text();
  EXPECT_THAT(text, Not(HasSubstr("job=\"a-1\"")));
  EXPECT_THAT(text, HasSubstr("job=\"a-10\""));
  registry.Set(metrics::kStagePartSeconds, {"a-1", "0", "wait"}, 7);
  EXPECT_THAT(registry.Text(), HasSubstr("job=\"a-1\""));
}

TEST(MetricRegistryDeathTest, MetricOutsideTheCatalog_Aborts) {
  MetricRegistry registry;
  static constexpr MetricSpec kOwn{"fathom_own", MetricKind::kGauge, "1", "Not listed."};
  EXPECT_DEATH(registry.Set(kOwn, 1), "fathom_own is not in the catalog");
  EXPECT_DEATH(registry.Set(metrics::kJobLoss, 1), "fathom_job_loss labels");
  EXPECT_DEATH(registry.Set(metrics::kLogRecords, 1), "another kind");
}

TEST(MetricsHttpTest, BuiltInPaths_Answer) {
  MetricRegistry registry;
  MetricsHttp server(&registry, [&] { registry.Set(metrics::kQueuedJobs, 9); });
  ASSERT_TRUE(server.Start("127.0.0.1:0").ok());
  httplib::Client client = ClientOf(server);
  auto health = client.Get("/healthz");
  ASSERT_TRUE(health);
  EXPECT_EQ(health->status, 200);
  auto metrics = client.Get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_THAT(metrics->body, HasSubstr("fathom_queued_jobs 9\n"));
  EXPECT_THAT(metrics->get_header_value("Content-Type"), HasSubstr("version=0.0.4"));
  auto missing = client.Get("/missing");
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->status, 404);
}

TEST(MetricsHttpTest, OwnHandler_GetsCapturesQueryAndBody) {
  MetricRegistry registry;
  MetricsHttp server(&registry);
  server.Handle("/logs/([a-z0-9-]+)/([0-9]+)", [](const HttpRequest& request) {
    auto tail = request.query.find("tail");
    return HttpReply{
        request.method == "POST" ? 201 : 200,
        absl::StrCat(request.captures[0], "|", request.captures[1], "|",
                     tail == request.query.end() ? "none" : tail->second, "|", request.body),
        "text/x-test"};
  });
  ASSERT_TRUE(server.Start("127.0.0.1:0").ok());
  httplib::Client client = ClientOf(server);
  auto got = client.Get("/logs/tiny-1/12?tail=5");
  ASSERT_TRUE(got);
  EXPECT_EQ(got->body, "tiny-1|12|5|");
  EXPECT_EQ(got->get_header_value("Content-Type"), "text/x-test");
  auto posted = client.Post("/logs/a/1", "payload", "text/plain");
  ASSERT_TRUE(posted);
  EXPECT_EQ(posted->status, 201);
  EXPECT_EQ(posted->body, "a|1|none|payload");
}

TEST(MetricsHttpTest, PortInUse_UnavailableNamesTheAddress) {
  MetricRegistry registry;
  MetricsHttp first(&registry);
  ASSERT_TRUE(first.Start("127.0.0.1:0").ok());
  MetricsHttp second(&registry);
  absl::Status status = second.Start(first.address());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(first.address()));
  MetricsHttp third(&registry);
  EXPECT_EQ(third.Start("nonsense").code(), absl::StatusCode::kInvalidArgument);
}

TEST(MetricsHttpTest, StopTwiceAndAtOnce_FreesThePort) {
  MetricRegistry registry;
  auto server = std::make_unique<MetricsHttp>(&registry);
  ASSERT_TRUE(server->Start("127.0.0.1:0").ok());
  const std::string address = server->address();
  server->Stop();
  server->Stop();
  server.reset();
  MetricsHttp next(&registry);
  EXPECT_TRUE(next.Start(address).ok());
}

}  // namespace
}  // namespace fathom
