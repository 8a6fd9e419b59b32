// The whole coordinator over real sockets on loopback, with SQLite in a temporary folder and nodes
// that speak Synchronize.
#include "coordinator/service/coordinator_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/manual_clock.h"
#include "common/base/real_clock.h"
#include "coordinator/core/core_test_cluster.h"
#include "coordinator/core/job_state.h"
#include "coordinator/service/coordinator_config.h"
#include "coordinator/service/planning.h"
#include "coordinator/store/failing_log.h"
#include "coordinator/store/sqlite_log.h"
#include "proto/fathom/v1/operator.grpc.pb.h"
#include "proto/fathom/v1/worker.grpc.pb.h"

namespace fathom {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Channel = std::shared_ptr<grpc::Channel>;

// A call that takes this long has hung.
void SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(absl::ToChronoTime(RealClock().Wall() + absl::Seconds(30)));
}

// A node's daemon, driven by the test's thread.
class FakeNode {
 public:
  FakeNode(const Channel& channel, const std::string& name, int devices, int64_t incarnation = 1)
      : stub_(v1::WorkerService::NewStub(channel)) {
    node.name = name;
    node.devices = devices;
    node.incarnation = incarnation;
    SetDeadline(&context_);
    stream_ = stub_->Synchronize(&context_);
  }
  ~FakeNode() { Disconnect(); }

  bool Report() {
    v1::NodeReport report = node.Report();
    report.mutable_node()->set_metrics_address("127.0.0.1:1");
    return stream_->Write(report);
  }
  bool AwaitDesired() { return stream_->Read(&node.desired); }
  // Obeys and reports until its desired state says what `done` waits for.
  template <typename Done>
  void Follow(Done done) {
    while (!done(node.desired)) {
      ASSERT_TRUE(Report());
      ASSERT_TRUE(AwaitDesired());
      node.Obey();
    }
  }
  grpc::Status End() {
    stream_->WritesDone();
    v1::DesiredState ignored;
    while (stream_->Read(&ignored)) {
    }
    ended_ = true;
    return stream_->Finish();
  }
  void Disconnect() {
    if (ended_) return;
    context_.TryCancel();
    End();
  }

  TestNode node;

 private:
  std::unique_ptr<v1::WorkerService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::NodeReport, v1::DesiredState>> stream_;
  bool ended_ = false;
};

class CoordinatorServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = absl::StrCat(::testing::TempDir(), "/coordinator_XXXXXX");
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    config_.set_state_directory(folder_ + "/state");
    config_.set_listen_address("127.0.0.1:0");
    config_.set_metrics_address("127.0.0.1:0");
    config_.set_require_preflight(false);  // these nodes make none
    ASSERT_TRUE(CompleteCoordinatorConfig(&config_).ok());
  }
  void TearDown() override {
    Kill();
    std::filesystem::remove_all(folder_);
  }

  absl::StatusOr<std::unique_ptr<CoordinatorService>> Build(StateLog* log) {
    CoordinatorService::Options options;
    options.config = config_;
    options.clock = &clock_;
    options.log = log;
    options.planning = RealPlanning();
    options.pid = 4321;
    options.say = [](const std::string&) {};
    return CoordinatorService::Start(std::move(options));
  }
  void Start() {
    auto log = SqliteLog::Open(config_.state_directory());
    ASSERT_TRUE(log.ok()) << log.status();
    log_ = *std::move(log);
    failing_ = std::make_unique<FailingLog>(log_.get());
    auto service = Build(failing_.get());
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
    config_.set_listen_address(service_->address());  // where its nodes find it again
    channel_ = grpc::CreateChannel(service_->address(), grpc::InsecureChannelCredentials());
    stub_ = v1::OperatorService::NewStub(channel_);
  }
  void Kill() {
    service_.reset();
    failing_.reset();
    log_.reset();
  }

  v1::SubmitJobRequest JobOf(int ranks, const std::string& name = "") {
    v1::SubmitJobRequest request;
    v1::Job& job = *request.mutable_job();
    job.set_api_version("fathom/v1");
    job.set_kind("Job");
    job.mutable_metadata()->set_name(name);
    job.mutable_spec()->mutable_model()->set_preset("toy");
    job.mutable_spec()->mutable_data()->set_token_file("/data/tokens");
    job.mutable_spec()->mutable_parallelism()->set_expert(ranks);
    return request;
  }
  grpc::Status Submit(const v1::SubmitJobRequest& request, v1::SubmitJobResponse* response) {
    grpc::ClientContext context;
    SetDeadline(&context);
    return stub_->SubmitJob(&context, request, response);
  }
  std::string MustSubmit(int ranks, const std::string& name = "") {
    v1::SubmitJobResponse response;
    const grpc::Status status = Submit(JobOf(ranks, name), &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.id();
  }
  v1::JobStatus Job(const std::string& name) {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::GetJobRequest request;
    request.set_name(name);
    v1::JobStatus status;
    EXPECT_TRUE(stub_->GetJob(&context, request, &status).ok());
    return status;
  }
  v1::ListNodesResponse Nodes() {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::ListNodesResponse response;
    EXPECT_TRUE(stub_->ListNodes(&context, {}, &response).ok());
    return response;
  }
  // Watches until the job is in the state; returns the states seen on the way.
  std::vector<std::string> AwaitState(const std::string& name, v1::JobState wanted) {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::GetJobRequest request;
    request.set_name(name);
    auto reader = stub_->WatchJob(&context, request);
    std::vector<std::string> seen;
    v1::JobStatus status;
    while (reader->Read(&status)) {
      const std::string state = NameOfState(status.state());
      if (seen.empty() || seen.back() != state) seen.push_back(state);
      if (status.state() == wanted) break;
    }
    EXPECT_EQ(status.state(), wanted) << status.ShortDebugString();
    context.TryCancel();
    return seen;
  }
  std::string Get(const std::string& path) {
    httplib::Client client("http://" + service_->metrics_address());
    const auto reply = client.Get(path.c_str());
    return reply ? reply->body : "no reply";
  }

  ManualClock clock_;  // a slow machine must not cost a node its lease
  std::string folder_;
  v1::CoordinatorConfig config_;
  std::unique_ptr<SqliteLog> log_;
  std::unique_ptr<FailingLog> failing_;
  std::unique_ptr<CoordinatorService> service_;
  Channel channel_;
  std::unique_ptr<v1::OperatorService::Stub> stub_;
};

bool HasPeers(const v1::DesiredState& desired) {
  return desired.jobs_size() == 1 && desired.jobs(0).peers_size() > 0;
}

TEST_F(CoordinatorServiceTest, JobFromSubmitToEnd_SurvivesACoordinatorsDeath) {
  Start();
  const std::string job = MustSubmit(2, "first");
  EXPECT_EQ(job, "first-1");
  EXPECT_THAT(Job(job).reason(), HasSubstr("needs 2 devices, the cluster has 0: 2 missing"));
  auto node = std::make_unique<FakeNode>(channel_, "a", 2);
  node->Follow(HasPeers);
  ASSERT_TRUE(node->Report());
  AwaitState(job, v1::JOB_STATE_RUNNING);
  const std::string queued = MustSubmit(1, "second");
  const std::string plan = Job(job).plan().SerializeAsString();

  const TestNode memory = node->node;
  Kill();
  node->Disconnect();
  Start();
  EXPECT_EQ(Job(job).state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Job(queued).state(), v1::JOB_STATE_PENDING);
  node = std::make_unique<FakeNode>(channel_, "a", 2);
  node->node = memory;
  ASSERT_TRUE(node->Report());
  ASSERT_TRUE(node->AwaitDesired());
  ASSERT_EQ(node->node.desired.jobs_size(), 1);
  EXPECT_EQ(node->node.desired.jobs(0).plan().SerializeAsString(), plan);
  EXPECT_FALSE(node->node.Obey()) << "nothing is to be stopped or started";

  for (auto& [key, rank] : node->node.ranks) {
    rank.set_state(v1::RANK_STATE_FINISHED);
    if (rank.rank() == 0) rank.set_weights_sha256("abc");
  }
  ASSERT_TRUE(node->Report());
  AwaitState(job, v1::JOB_STATE_COMPLETED);
  EXPECT_EQ(Job(job).weights_sha256(), "abc");
  EXPECT_EQ(Job(job).epoch(), 1u);
  EXPECT_EQ(Job("second").state(), v1::JOB_STATE_STARTING);
}

TEST_F(CoordinatorServiceTest, NodeFallsSilent_LostAndTheJobRecovers) {
  Start();
  const std::string job = MustSubmit(1);
  auto node = std::make_unique<FakeNode>(channel_, "a", 1);
  node->Follow(HasPeers);
  ASSERT_TRUE(node->Report());
  AwaitState(job, v1::JOB_STATE_RUNNING);
  node->Disconnect();
  for (int second = 1; second <= 5; ++second) {
    clock_.Advance(absl::Seconds(1));
    EXPECT_EQ(Job(job).state(), v1::JOB_STATE_RUNNING) << second;
  }
  clock_.Advance(absl::Seconds(1));
  AwaitState(job, v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(Nodes().nodes(0).state(), v1::NODE_STATE_LOST);
  EXPECT_THAT(Job(job).reason(), HasSubstr("node a was lost"));
}

TEST_F(CoordinatorServiceTest, LogRefuses_CommandIsUnavailableAndNothingChanges) {
  Start();
  failing_->FailWith(absl::ResourceExhaustedError("No space left on device; free space"));
  v1::SubmitJobResponse response;
  const grpc::Status refused = Submit(JobOf(1), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), HasSubstr("nothing has changed: No space left on device"));
  grpc::ClientContext context;
  v1::ListJobsResponse jobs;
  ASSERT_TRUE(stub_->ListJobs(&context, {}, &jobs).ok());
  EXPECT_EQ(jobs.jobs_size(), 0);
  EXPECT_THAT(Get("/metrics"), HasSubstr("fathom_log_failures_total 1"));
  failing_->FailWith(absl::OkStatus());
  EXPECT_EQ(MustSubmit(1), "toy-1");
}

TEST_F(CoordinatorServiceTest, ManyAtOnce_EachIsAppliedOnceAndDurably) {
  Start();
  constexpr int kThreads = 8;
  constexpr int kEach = 10;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < kEach; ++i) {
        v1::SubmitJobRequest request = JobOf(1, absl::StrCat("t", t, "-", i));
        request.set_request_id(absl::StrCat(t, "/", i));
        v1::SubmitJobResponse first;
        v1::SubmitJobResponse again;
        EXPECT_TRUE(Submit(request, &first).ok());
        EXPECT_TRUE(Submit(request, &again).ok());
        EXPECT_EQ(first.id(), again.id());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Kill();
  Start();
  grpc::ClientContext context;
  v1::ListJobsResponse jobs;
  ASSERT_TRUE(stub_->ListJobs(&context, {}, &jobs).ok());
  EXPECT_EQ(jobs.jobs_size(), kThreads * kEach);
}

TEST_F(CoordinatorServiceTest, OldIncarnationOrChangedName_EndsTheStream) {
  Start();
  FakeNode newer(channel_, "a", 1, /*incarnation=*/7);
  ASSERT_TRUE(newer.Report());
  ASSERT_TRUE(newer.AwaitDesired());
  FakeNode older(channel_, "a", 1, /*incarnation=*/6);
  ASSERT_TRUE(older.Report());
  EXPECT_FALSE(older.AwaitDesired());
  EXPECT_EQ(older.End().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  FakeNode nameless(channel_, "", 1);
  ASSERT_TRUE(nameless.Report());
  EXPECT_EQ(nameless.End().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  newer.node.name = "b";
  ASSERT_TRUE(newer.Report());
  EXPECT_EQ(newer.End().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(CoordinatorServiceTest, SecondStreamOfANode_ReplacesTheFirst) {
  Start();
  FakeNode first(channel_, "a", 1);
  ASSERT_TRUE(first.Report());
  ASSERT_TRUE(first.AwaitDesired());
  FakeNode second(channel_, "a", 1);
  ASSERT_TRUE(second.Report());
  ASSERT_TRUE(second.AwaitDesired());
  EXPECT_EQ(first.End().error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Nodes().nodes(0).state(), v1::NODE_STATE_READY);
  EXPECT_EQ(Nodes().nodes(0).reason(), "in touch");
}

TEST_F(CoordinatorServiceTest, BadRequests_GetTheirOwnCodes) {
  Start();
  v1::SubmitJobResponse response;
  v1::SubmitJobRequest request = JobOf(3);
  grpc::Status status = Submit(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("spec.parallelism.expert"));
  request = JobOf(1);
  request.mutable_job()->mutable_spec()->mutable_checkpoint()->set_resume_from("/nowhere/m.json");
  status = Submit(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("spec.checkpoint.resume_from: /nowhere/m.json"));
  grpc::ClientContext get_context;
  v1::GetJobRequest get;
  get.set_name("nobody");
  v1::JobStatus job;
  EXPECT_EQ(stub_->GetJob(&get_context, get, &job).error_code(), grpc::StatusCode::NOT_FOUND);
  grpc::ClientContext watch_context;
  auto reader = stub_->WatchJob(&watch_context, get);
  EXPECT_FALSE(reader->Read(&job));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
  request = JobOf(1);
  (*request.mutable_job()->mutable_metadata()->mutable_labels())["x"] = std::string(20 << 20, 'x');
  EXPECT_EQ(Submit(request, &response).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(CoordinatorServiceTest, OperatorsDecisions_AreAnsweredAndSurviveADeath) {
  Start();
  const auto call = [this](auto method, const auto& request, auto* response) {
    grpc::ClientContext context;
    SetDeadline(&context);
    return (stub_.get()->*method)(&context, request, response).error_code();
  };
  using Stub = v1::OperatorService::Stub;
  v1::DrainNodeRequest drain;
  v1::DrainNodeResponse drained;
  drain.set_node("a");
  EXPECT_EQ(call(&Stub::DrainNode, drain, &drained), grpc::StatusCode::NOT_FOUND);
  FakeNode node(channel_, "a", 2);
  ASSERT_TRUE(node.Report());
  ASSERT_TRUE(node.AwaitDesired());
  drain.set_reason("fan is loud");
  drain.set_actor("ada");
  EXPECT_EQ(call(&Stub::DrainNode, drain, &drained), grpc::StatusCode::OK);
  EXPECT_EQ(drained.jobs_size(), 0);
  MustSubmit(2, "held");
  v1::ExplainJobRequest explain;
  explain.set_name("held");
  v1::ExplainJobResponse explained;
  EXPECT_EQ(call(&Stub::ExplainJob, explain, &explained), grpc::StatusCode::OK);
  ASSERT_EQ(explained.queue_size(), 1);
  EXPECT_EQ(explained.queue(0).devices(), 2);
  v1::SuspendJobRequest suspend;
  suspend.set_name("held");
  v1::SuspendJobResponse suspended;
  EXPECT_EQ(call(&Stub::SuspendJob, suspend, &suspended), grpc::StatusCode::OK);
  EXPECT_EQ(suspended.state(), v1::JOB_STATE_SUSPENDED);
  Kill();
  Start();
  EXPECT_EQ(Job("held").state(), v1::JOB_STATE_SUSPENDED);
  FakeNode again(channel_, "a", 2, 2);
  ASSERT_TRUE(again.Report());
  ASSERT_TRUE(again.AwaitDesired());
  ASSERT_EQ(Nodes().nodes_size(), 1);
  EXPECT_TRUE(Nodes().nodes(0).admin().draining());
  EXPECT_EQ(Nodes().nodes(0).admin().actor(), "ada");
  v1::UndrainNodeRequest undrain;
  undrain.set_node("a");
  v1::UndrainNodeResponse undrained;
  EXPECT_EQ(call(&Stub::UndrainNode, undrain, &undrained), grpc::StatusCode::OK);
  v1::PreflightNodeRequest preflight;
  preflight.set_node("a");
  v1::PreflightNodeResponse asked;
  EXPECT_EQ(call(&Stub::PreflightNode, preflight, &asked), grpc::StatusCode::OK);
  EXPECT_THAT(asked.id(), Not(testing::IsEmpty()));
  v1::CordonNodeRequest cordon;
  cordon.set_node("a");
  v1::CordonNodeResponse cordoned;
  EXPECT_EQ(call(&Stub::CordonNode, cordon, &cordoned), grpc::StatusCode::OK);
  EXPECT_TRUE(Nodes().nodes(0).admin().cordoned());
  v1::ResumeJobRequest resume;
  resume.set_name("held");
  v1::ResumeJobResponse resumed;
  EXPECT_EQ(call(&Stub::ResumeJob, resume, &resumed), grpc::StatusCode::OK);
  EXPECT_EQ(resumed.state(), v1::JOB_STATE_PENDING);
}

TEST_F(CoordinatorServiceTest, CancelledJob_LeavesItsNodesDesiredState) {
  Start();
  const std::string job = MustSubmit(1);
  FakeNode node(channel_, "a", 1);
  node.Follow(HasPeers);
  ASSERT_TRUE(node.Report());
  v1::CancelJobRequest request;
  request.set_name(job);
  request.set_actor("ada");
  v1::CancelJobResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->CancelJob(&context, request, &response).ok());
  EXPECT_EQ(response.state(), v1::JOB_STATE_CANCELLED);
  ASSERT_TRUE(node.AwaitDesired());
  EXPECT_EQ(node.node.desired.jobs_size(), 0);
  grpc::ClientContext events_context;
  v1::ListEventsResponse events;
  ASSERT_TRUE(stub_->ListEvents(&events_context, {}, &events).ok());
  EXPECT_EQ(events.events(events.events_size() - 1).kind(), "JobCancelled");
}

TEST_F(CoordinatorServiceTest, HttpPages_ShowNodesAndTraining) {
  Start();
  const std::string job = MustSubmit(1);
  FakeNode node(channel_, "a", 1);
  node.Follow(HasPeers);
  for (auto& [key, rank] : node.node.ranks) {
    rank.mutable_last_step()->set_step(5);
    rank.mutable_last_step()->set_loss(3.25);
    rank.mutable_last_step()->set_seconds(2);
    rank.mutable_last_step()->set_wait_seconds(0.5);
    rank.mutable_last_step()->set_tokens(100);
  }
  ASSERT_TRUE(node.Report());
  AwaitState(job, v1::JOB_STATE_RUNNING);
  const auto targets = nlohmann::json::parse(Get("/sd"));
  ASSERT_EQ(targets.size(), 2u);
  EXPECT_EQ(targets[0]["targets"][0], service_->metrics_address());
  EXPECT_EQ(targets[1]["targets"][0], "127.0.0.1:1");
  EXPECT_EQ(targets[1]["labels"]["node"], "a");
  const std::string metrics = Get("/metrics");
  for (const char* line :
       {"fathom_job_loss{job=\"toy-1\"} 3.25",
        "fathom_job_state{job=\"toy-1\",state=\"running\"} 1",
        "fathom_job_bubble_ratio{job=\"toy-1\"} 0.25", "fathom_node_up{node=\"a\"} 1",
        "fathom_job_tokens_per_second{job=\"toy-1\"} 50", "fathom_synchronize_streams 1",
        "fathom_stage_part_seconds{job=\"toy-1\",part=\"wait\",pipeline_rank=\"0\"} 0.5",
        "fathom_node_held_devices{node=\"a\"} 1", "fathom_nodes{state=\"ready\"} 1",
        "fathom_log_append_seconds_count"}) {
    EXPECT_THAT(metrics, HasSubstr(line));
  }
  EXPECT_THAT(metrics, Not(HasSubstr("state=\"pending\"} 1")));
  const auto announced = ReadFile(config_.state_directory() + "/coordinator.json", 4096);
  ASSERT_TRUE(announced.ok());
  const auto json = nlohmann::json::parse(*announced);
  EXPECT_EQ(json["address"], service_->address());
  EXPECT_EQ(json["pid"], 4321);
}

TEST_F(CoordinatorServiceTest, AddressTaken_UnavailableNamesTheFlag) {
  Start();
  config_.set_state_directory(folder_ + "/other");
  auto log = SqliteLog::Open(config_.state_directory());
  ASSERT_TRUE(log.ok());
  const auto second = Build(log->get());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--listen-address"));
}

TEST_F(CoordinatorServiceTest, MutualTls_OnlyCertifiedClientsGetIn) {
  const auto openssl = [&](const std::string& arguments) {
    const std::string command =
        absl::StrCat("cd ", folder_, " && openssl ", arguments, " >openssl.log 2>&1");
    ASSERT_EQ(std::system(command.c_str()), 0)
        << ReadFile(folder_ + "/openssl.log", 1 << 20).value_or("");
  };
  openssl(
      "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca "
      "-keyout ca.key -out ca.pem");
  for (const char* who : {"server", "client"}) {
    openssl(
        absl::StrCat("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost "
                     "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout ",
                     who, ".key -out ", who, ".csr"));
    openssl(absl::StrCat("x509 -req -in ", who,
                         ".csr -CA ca.pem -CAkey ca.key -CAcreateserial "
                         "-days 2 -copy_extensions copy -out ",
                         who, ".pem"));
  }
  config_.mutable_tls()->set_certificate_file(folder_ + "/server.pem");
  config_.mutable_tls()->set_key_file(folder_ + "/server.key");
  config_.mutable_tls()->set_ca_file(folder_ + "/ca.pem");
  Start();
  const auto read = [&](const std::string& name) {
    return ReadFile(folder_ + "/" + name, 1 << 20).value();
  };
  const auto try_with = [&](const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    auto stub = v1::OperatorService::NewStub(grpc::CreateChannel(service_->address(), credentials));
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::CoordinatorStatus status;
    return stub->GetCoordinator(&context, {}, &status).error_code();
  };
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = read("ca.pem");
  EXPECT_EQ(try_with(grpc::SslCredentials(options)), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(try_with(grpc::InsecureChannelCredentials()), grpc::StatusCode::UNAVAILABLE);
  options.pem_private_key = read("client.key");
  options.pem_cert_chain = read("client.pem");
  EXPECT_EQ(try_with(grpc::SslCredentials(options)), grpc::StatusCode::OK);
}

// --- Settings ---

TEST(CoordinatorConfigTest, FileAndFlags_FlagsWin) {
  const std::string file = absl::StrCat(::testing::TempDir(), "/coordinator.yaml");
  ASSERT_TRUE(WriteFileAtomically(file, "listenAddress: 127.0.0.1:1\nlease_ms: 9000\n").ok());
  const char* arguments[] = {
      "fathom-coordinator", "--config", file.c_str(),    "--listen-address", "127.0.0.1:2",
      "--state-directory",  "/state",   "--tls-ca-file", "/ca.pem"};
  auto config = ParseCoordinatorFlags(9, arguments);
  ASSERT_TRUE(config.ok() && config->has_value()) << config.status();
  EXPECT_EQ((*config)->listen_address(), "127.0.0.1:2");
  EXPECT_EQ((*config)->lease_ms(), 9000);
  EXPECT_EQ((*config)->tls().ca_file(), "/ca.pem");
  const char* unknown[] = {"fathom-coordinator", "--nonsense"};
  EXPECT_EQ(ParseCoordinatorFlags(2, unknown).status().code(), absl::StatusCode::kInvalidArgument);
  const char* bad_number[] = {"fathom-coordinator", "--lease-ms", "soon"};
  EXPECT_EQ(ParseCoordinatorFlags(3, bad_number).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CoordinatorConfigTest, DetectorsQuotasAndPreflight_FromFileAndFlags) {
  const std::string file = absl::StrCat(::testing::TempDir(), "/policies.yaml");
  ASSERT_TRUE(WriteFileAtomically(file,
                                  "stateDirectory: /state\n"
                                  "detectors: {hang: observe, health: act}\n"
                                  "quotas: [{user: ada, devices: 3}]\n"
                                  "require_preflight: false\n")
                  .ok());
  const char* arguments[] = {"fathom-coordinator", "--config", file.c_str(), "--detectors-hang",
                             "off"};
  auto config = ParseCoordinatorFlags(5, arguments);
  ASSERT_TRUE(config.ok() && config->has_value()) << config.status();
  ASSERT_TRUE(CompleteCoordinatorConfig(&**config).ok());
  EXPECT_EQ((*config)->detectors().hang(), "off");
  EXPECT_EQ((*config)->detectors().health(), "act");
  EXPECT_EQ((*config)->detectors().straggler(), "observe");
  EXPECT_EQ((*config)->detectors().corruption(), "act");
  ASSERT_EQ((*config)->quotas_size(), 1);
  EXPECT_EQ((*config)->quotas(0).devices(), 3);
  EXPECT_FALSE((*config)->require_preflight());
  const char* quotas[] = {
      "fathom-coordinator",  "--config", file.c_str(), "--quotas", "bob=16", "*=8",
      "--require-preflight", "true"};
  config = ParseCoordinatorFlags(8, quotas);
  ASSERT_TRUE(config.ok() && config->has_value()) << config.status();
  ASSERT_EQ((*config)->quotas_size(), 2);
  EXPECT_EQ((*config)->quotas(0).user(), "bob");
  EXPECT_EQ((*config)->quotas(1).devices(), 8);
  EXPECT_TRUE((*config)->require_preflight());
  const char* bad[] = {"fathom-coordinator", "--quotas", "bob"};
  EXPECT_THAT(std::string(ParseCoordinatorFlags(3, bad).status().message()),
              HasSubstr("user=devices"));
}

TEST(CoordinatorConfigTest, SettingsThatCannotWork_NameTheFlag) {
  v1::CoordinatorConfig good;
  good.set_state_directory("/state");
  v1::CoordinatorConfig complete = good;
  ASSERT_TRUE(CompleteCoordinatorConfig(&complete).ok());
  EXPECT_EQ(complete.listen_address(), "127.0.0.1:7070");
  EXPECT_EQ(complete.lease_ms(), 5000);
  struct Case {
    const char* flag;
    std::function<void(v1::CoordinatorConfig&)> spoil;
  };
  const std::vector<Case> cases = {
      {"--state-directory", [](auto& c) { c.clear_state_directory(); }},
      {"host:port", [](auto& c) { c.set_listen_address("7070"); }},
      {"--metrics-address", [](auto& c) { c.set_metrics_address("x"); }},
      {"--tls-certificate-file", [](auto& c) { c.set_listen_address("0.0.0.0:1"); }},
      {"--tls-key-file", [](auto& c) { c.mutable_tls()->set_certificate_file("/c"); }},
      {"--tls-ca-file", [](auto& c) { c.mutable_tls()->set_ca_file("/c"); }},
      {"--heartbeat-ms", [](auto& c) { c.set_heartbeat_ms(1); }},
      {"--lease-ms", [](auto& c) { c.set_lease_ms(1500); }},
      {"--detectors-hang", [](auto& c) { c.mutable_detectors()->set_hang("on"); }},
      {"--quotas", [](auto& c) { c.add_quotas()->set_devices(1); }},
      {"--quotas ada=-1",
       [](auto& c) {
         c.add_quotas()->set_user("ada");
         c.mutable_quotas(0)->set_devices(-1);
       }},
      {"given twice",
       [](auto& c) {
         c.add_quotas()->set_user("ada");
         c.add_quotas()->set_user("ada");
       }},
  };
  for (const Case& one : cases) {
    v1::CoordinatorConfig config = good;
    one.spoil(config);
    const absl::Status status = CompleteCoordinatorConfig(&config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << one.flag;
    EXPECT_THAT(std::string(status.message()), HasSubstr(one.flag));
  }
}

}  // namespace
}  // namespace fathom
