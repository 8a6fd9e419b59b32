#include "cli/operator_client.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/synchronization/notification.h"
#include "cli/exit_code.h"
#include "proto/fathom/v1/operator.grpc.pb.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;

class FakeService final : public v1::OperatorService::Service {
 public:
  grpc::Status SubmitJob(grpc::ServerContext*, const v1::SubmitJobRequest* request,
                         v1::SubmitJobResponse* response) override {
    if (request->job().metadata().name() == "bad") {
      return {grpc::StatusCode::INVALID_ARGUMENT, "spec.training.steps: -1 is not positive"};
    }
    response->set_id(request->job().metadata().name() + "-1");
    return grpc::Status::OK;
  }
  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                      v1::JobStatus*) override {
    return {grpc::StatusCode::NOT_FOUND, "no job " + request->name()};
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                        grpc::ServerWriter<v1::JobStatus>* writer) override {
    v1::JobStatus job;
    job.set_name(request->name());
    for (int64_t step = 1; step <= 3; ++step) {
      job.mutable_last_step()->set_step(step);
      writer->Write(job);
    }
    // A job that says nothing more until its watcher gives up.
    while (request->name() == "silent" && !context->IsCancelled()) {
      absl::Notification never;
      never.WaitForNotificationWithTimeout(absl::Milliseconds(5));
    }
    return grpc::Status::OK;
  }
};

class OperatorClientTest : public testing::Test {
 protected:
  OperatorClientTest() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    client_ = *MakeOperatorClient({Address(), "", "", ""});
  }

  std::string Address() const { return "127.0.0.1:" + std::to_string(port_); }

  int port_ = 0;
  FakeService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<OperatorClient> client_;
};

TEST_F(OperatorClientTest, AnswersAndRefusals_ComeThrough) {
  v1::SubmitJobRequest request;
  request.mutable_job()->mutable_metadata()->set_name("sea");
  EXPECT_EQ(client_->SubmitJob(request)->id(), "sea-1");
  request.mutable_job()->mutable_metadata()->set_name("bad");
  const auto refused = client_->SubmitJob(request);
  EXPECT_EQ(refused.status().message(), "spec.training.steps: -1 is not positive");
  EXPECT_EQ(ExitCodeOf(refused.status()), kExitRefused);
  v1::GetJobRequest get;
  get.set_name("sea");
  EXPECT_EQ(ExitCodeOf(client_->GetJob(get).status()), kExitNotFound);
}

TEST_F(OperatorClientTest, MethodTheServerLacks_IsAWrongCoordinator) {
  const auto status = client_->GetCoordinator().status();
  EXPECT_EQ(ExitCodeOf(status), kExitUnreachable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("not a Fathom coordinator"));
}

TEST_F(OperatorClientTest, Watch_ShowsEachStatusUntilTheEnd) {
  v1::GetJobRequest request;
  request.set_name("sea");
  int64_t steps = 0;
  const auto count = [&](const v1::JobStatus& job) {
    EXPECT_EQ(job.last_step().step(), ++steps);
    return true;
  };
  EXPECT_TRUE(client_->WatchJob(request, absl::InfiniteDuration(), count).ok());
  EXPECT_EQ(steps, 3);
}

TEST_F(OperatorClientTest, WatcherThatSaysNo_EndsTheStream) {
  v1::GetJobRequest request;
  request.set_name("silent");
  int seen = 0;
  EXPECT_TRUE(client_
                  ->WatchJob(request, absl::InfiniteDuration(),
                             [&](const v1::JobStatus&) { return ++seen < 2; })
                  .ok());
  EXPECT_EQ(seen, 2);
}

TEST_F(OperatorClientTest, WatchPastItsLimit_IsATimeOut) {
  v1::GetJobRequest request;
  request.set_name("silent");
  const absl::Status status = client_->WatchJob(request, absl::Milliseconds(200),
                                                [](const v1::JobStatus&) { return true; });
  EXPECT_EQ(ExitCodeOf(status), kExitTimeOut) << status;
}

TEST_F(OperatorClientTest, ServerThatIsGone_IsUnreachableByAddress) {
  server_->Shutdown();
  server_.reset();
  const absl::Status status = client_->ListNodes(v1::ListNodesRequest()).status();
  EXPECT_EQ(ExitCodeOf(status), kExitUnreachable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(Address()));
  EXPECT_THAT(std::string(status.message()), HasSubstr("fathomctl local up"));
}

TEST(MakeOperatorClientTest, WhatIsNoAddressOrKey_IsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(MakeOperatorClient({"nowhere", "", "", ""}).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(MakeOperatorClient({"localhost:1", "", "a.pem", ""}).status()));
  EXPECT_TRUE(absl::IsNotFound(MakeOperatorClient({"localhost:1", "/no/ca.pem", "", ""}).status()));
}

}  // namespace
}  // namespace fathom::cli
