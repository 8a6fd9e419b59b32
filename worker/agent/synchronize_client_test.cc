#include "worker/agent/synchronize_client.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "common/base/atomic_file.h"
#include "proto/fathom/v1/worker.grpc.pb.h"
#include "worker/agent/backoff.h"

namespace fathom {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(30);  // a test that waits this long has failed

// A coordinator that notes reports, and says what the test says.
class FakeCoordinator final : public v1::WorkerService::Service {
 public:
  grpc::Status Synchronize(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::DesiredState, v1::NodeReport>* stream) override {
    {
      absl::MutexLock lock(&mutex_);
      ++streams_;
    }
    v1::NodeReport report;
    for (bool first = true; stream->Read(&report); first = false) {
      v1::DesiredState answer;
      {
        absl::MutexLock lock(&mutex_);
        reports_.push_back(report);
        if (!refusal_.ok()) return refusal_;
        answer = desired_;
      }
      if (first) stream->Write(answer);
    }
    absl::MutexLock lock(&mutex_);
    ++closed_in_order_;
    return grpc::Status::OK;
  }

  void Answer(const v1::DesiredState& desired) {
    absl::MutexLock lock(&mutex_);
    desired_ = desired;
  }
  void Refuse(const grpc::Status& refusal) {
    absl::MutexLock lock(&mutex_);
    refusal_ = refusal;
  }
  // The next report that no test has seen.
  v1::NodeReport AwaitReport() {
    absl::MutexLock lock(&mutex_);
    const auto some = [this] { return !reports_.empty(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&some), kLong)) {
      ADD_FAILURE() << "no report came";
      return {};
    }
    v1::NodeReport report = reports_.front();
    reports_.pop_front();
    return report;
  }
  int streams() {
    absl::MutexLock lock(&mutex_);
    return streams_;
  }
  int closed_in_order() {
    absl::MutexLock lock(&mutex_);
    return closed_in_order_;
  }

 private:
  absl::Mutex mutex_;  // guards all below
  v1::DesiredState desired_;
  grpc::Status refusal_;
  std::deque<v1::NodeReport> reports_;
  int streams_ = 0;
  int closed_in_order_ = 0;
};

class SynchronizeClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(StartServer(0));
    SynchronizeOptions options;
    options.coordinator_address = absl::StrCat("127.0.0.1:", port_);
    options.tls = tls_.has_value() ? &*tls_ : nullptr;
    options.seed = 7;
    options.shortest_wait = absl::Milliseconds(1);
    options.longest_wait = absl::Milliseconds(10);
    options.on_desired = [this](const v1::DesiredState& desired) {
      absl::MutexLock lock(&mutex_);
      desired_.push_back(desired);
    };
    options.on_stream = [this](bool open) {
      absl::MutexLock lock(&mutex_);
      stream_states_.push_back(open);
    };
    options.on_report_sent = [this] {
      absl::MutexLock lock(&mutex_);
      ++reports_sent_;
    };
    options.log = [this](const std::string& line) {
      absl::MutexLock lock(&mutex_);
      log_.push_back(line);
    };
    auto client = SynchronizeClient::Create(std::move(options));
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  void TearDown() override {
    client_.reset();
    if (server_ != nullptr) StopServer();
  }

  void StartServer(int port) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), credentials_, &port_);
    builder.RegisterService(&coordinator_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    ASSERT_NE(port_, 0);
  }

  // Cuts its streams, as a killed coordinator would.
  void StopServer() {
    server_->Shutdown(std::chrono::system_clock::time_point());
    server_->Wait();
    server_.reset();
  }

  static v1::NodeReport Report(int64_t incarnation) {
    v1::NodeReport report;
    report.mutable_node()->set_name("n0");
    report.set_incarnation(incarnation);
    return report;
  }

  static v1::DesiredState Desired(uint64_t version, int heartbeat_ms) {
    v1::DesiredState desired;
    desired.set_version(version);
    desired.set_heartbeat_ms(heartbeat_ms);
    return desired;
  }

  std::vector<v1::DesiredState> AwaitDesired(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [this, count] { return desired_.size() >= count; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&enough), kLong))
        << "only " << desired_.size() << " desired states; log: " << absl::StrJoin(log_, "\n");
    return desired_;
  }

  void AwaitStreamStates(const std::vector<bool>& states) {
    absl::MutexLock lock(&mutex_);
    const auto reached = [&] { return stream_states_ == states; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&reached), kLong))
        << stream_states_.size() << " states; log: " << absl::StrJoin(log_, "\n");
  }

  FakeCoordinator coordinator_;
  std::shared_ptr<grpc::ServerCredentials> credentials_ = grpc::InsecureServerCredentials();
  std::optional<v1::Tls> tls_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;

  absl::Mutex mutex_;  // guards what the callbacks write
  std::vector<v1::DesiredState> desired_;
  std::vector<bool> stream_states_;
  std::vector<std::string> log_;
  int reports_sent_ = 0;

  std::unique_ptr<SynchronizeClient> client_;
};

TEST_F(SynchronizeClientTest, FirstReport_IsAnsweredWithTheDesiredState) {
  coordinator_.Answer(Desired(5, 60'000));
  client_->Report(Report(11), true);
  EXPECT_EQ(coordinator_.AwaitReport().incarnation(), 11);
  EXPECT_EQ(AwaitDesired(1)[0].version(), 5u);
  AwaitStreamStates({true});
}

TEST_F(SynchronizeClientTest, UrgentReport_DoesNotWaitForTheHeartbeat) {
  coordinator_.Answer(Desired(1, 3'600'000));
  client_->Report(Report(1), true);
  EXPECT_EQ(coordinator_.AwaitReport().incarnation(), 1);
  AwaitDesired(1);
  EXPECT_EQ(coordinator_.AwaitReport().incarnation(), 1) << "sent again for the new heartbeat";
  client_->Report(Report(2), true);
  EXPECT_EQ(coordinator_.AwaitReport().incarnation(), 2);
  client_->Report(Report(3), false);
  EXPECT_EQ(coordinator_.AwaitReport().incarnation(), 3) << "calm news go out soon as well";
}

TEST_F(SynchronizeClientTest, NothingNew_IsReportedOncePerHeartbeat) {
  coordinator_.Answer(Desired(1, 20));
  client_->Report(Report(1), true);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(coordinator_.AwaitReport().incarnation(), 1);
}

TEST_F(SynchronizeClientTest, RestartedCoordinator_IsFoundAgainAndToldEverything) {
  coordinator_.Answer(Desired(1, 60'000));
  client_->Report(Report(1), true);
  AwaitDesired(1);
  StopServer();
  AwaitStreamStates({true, false});
  client_->Report(Report(2), true);
  coordinator_.Answer(Desired(9, 60'000));
  StartServer(port_);
  EXPECT_EQ(AwaitDesired(2)[1].version(), 9u);
  AwaitStreamStates({true, false, true});
  v1::NodeReport last;
  while (last.incarnation() != 2) last = coordinator_.AwaitReport();
  EXPECT_EQ(coordinator_.streams(), 2);
}

TEST_F(SynchronizeClientTest, CoordinatorThatComesLater_IsWaitedFor) {
  StopServer();
  client_->Report(Report(1), true);
  {
    absl::MutexLock lock(&mutex_);
    const auto complained = [this] { return !log_.empty(); };
    ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&complained), kLong));
    EXPECT_THAT(log_[0], HasSubstr("no coordinator at 127.0.0.1:"));
  }
  coordinator_.Answer(Desired(3, 60'000));
  StartServer(port_);
  EXPECT_EQ(AwaitDesired(1)[0].version(), 3u);
}

TEST_F(SynchronizeClientTest, NewerIncarnationElsewhere_EndsTheRanksHereAndIsTriedAgain) {
  coordinator_.Refuse(
      grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "incarnation 9 is newer"));
  client_->Report(Report(1), true);
  EXPECT_EQ(AwaitDesired(2)[0].jobs_size(), 0);
  coordinator_.Refuse(grpc::Status::OK);
  coordinator_.Answer(Desired(4, 60'000));
  for (size_t i = 1; AwaitDesired(i).back().version() != 4; ++i) {
  }
  absl::MutexLock lock(&mutex_);
  EXPECT_THAT(log_[0], HasSubstr("incarnation 9 is newer"));
  EXPECT_THAT(log_[0], HasSubstr("stopping all ranks"));
}

TEST_F(SynchronizeClientTest, Stop_SendsTheLastReportAndClosesInOrder) {
  coordinator_.Answer(Desired(1, 60'000));
  client_->Report(Report(1), true);
  AwaitDesired(1);
  client_->Report(Report(2), false);
  client_->Stop(kLong);
  v1::NodeReport last;
  while (last.incarnation() != 2) last = coordinator_.AwaitReport();
  EXPECT_EQ(coordinator_.closed_in_order(), 1);
  absl::MutexLock lock(&mutex_);
  EXPECT_GE(reports_sent_, 2);
}

TEST_F(SynchronizeClientTest, StopWithoutACoordinator_ReturnsAtOnce) {
  StopServer();
  client_->Report(Report(1), true);
  client_->Stop(absl::Hours(1));
  absl::MutexLock lock(&mutex_);
  EXPECT_TRUE(desired_.empty());
}

TEST_F(SynchronizeClientTest, StopBeforeAnyReport_ReturnsAtOnce) {
  client_->Stop(absl::Hours(1));
  EXPECT_EQ(coordinator_.streams(), 0);
}

// A coordinator that speaks only with those whose certificate it knows. One certificate, which
// signed itself, serves all three sides here.
class TlsSynchronizeClientTest : public SynchronizeClientTest {
 protected:
  void SetUp() override {
    std::string folder = absl::StrCat(::testing::TempDir(), "/tls.XXXXXX");
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    tls_.emplace();
    tls_->set_key_file(folder + "/key.pem");
    tls_->set_certificate_file(folder + "/certificate.pem");
    tls_->set_ca_file(folder + "/certificate.pem");
    const std::string command = absl::StrCat(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
        "-subj /CN=fathom -addext subjectAltName=IP:127.0.0.1 -keyout ",
        tls_->key_file(), " -out ", tls_->certificate_file(), " 2>&1");
    ASSERT_EQ(std::system(command.c_str()), 0);
    grpc::SslServerCredentialsOptions server(
        GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    server.pem_root_certs = *ReadFile(tls_->ca_file(), 1 << 20);
    server.pem_key_cert_pairs.push_back(
        {*ReadFile(tls_->key_file(), 1 << 20), server.pem_root_certs});
    credentials_ = grpc::SslServerCredentials(server);
    SynchronizeClientTest::SetUp();
  }
};

TEST_F(TlsSynchronizeClientTest, KnownCertificates_LetBothSidesSpeak) {
  coordinator_.Answer(Desired(5, 60'000));
  client_->Report(Report(11), true);
  EXPECT_EQ(coordinator_.AwaitReport().incarnation(), 11);
  EXPECT_EQ(AwaitDesired(1)[0].version(), 5u);
}

TEST(SynchronizeClientTlsTest, MissingCertificate_IsAnErrorThatNamesTheFile) {
  v1::Tls tls;
  tls.set_ca_file("/nowhere/ca.pem");
  SynchronizeOptions options;
  options.coordinator_address = "127.0.0.1:1";
  options.tls = &tls;
  const absl::Status status = SynchronizeClient::Create(std::move(options)).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/ca.pem"));
}

TEST(BackoffTest, Waits_DoubleUpToTheLongestAndAreJittered) {
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(2), 3);
  absl::Duration step = absl::Milliseconds(100);
  for (int i = 0; i < 20; ++i) {
    const absl::Duration wait = backoff.Next();
    EXPECT_GE(wait, step / 2);
    EXPECT_LE(wait, step);
    step = std::min(2 * step, absl::Seconds(2));
  }
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Milliseconds(100));
  Backoff a(absl::Seconds(1), absl::Seconds(9), 1), b(absl::Seconds(1), absl::Seconds(9), 2);
  EXPECT_NE(a.Next(), b.Next());
}

}  // namespace
}  // namespace fathom
