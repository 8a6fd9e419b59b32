#include "cli/operator_client.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/exit_code.h"
#include "common/base/atomic_file.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "proto/fathom/v1/operator.grpc.pb.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kCallLimit = absl::Seconds(20);
constexpr int64_t kPemBytesMax = 1 << 20;

// gRPC tells the whole way down to the cause, which comes last: "...: Connection refused".
std::string LastPart(const std::string& message) {
  const size_t colon = message.rfind(": ");
  return colon == std::string::npos ? message : message.substr(colon + 2);
}

class GrpcOperatorClient final : public OperatorClient {
 public:
  GrpcOperatorClient(std::string address, std::shared_ptr<grpc::Channel> channel)
      : address_(std::move(address)), stub_(v1::OperatorService::NewStub(std::move(channel))) {}

  absl::StatusOr<v1::SubmitJobResponse> SubmitJob(const v1::SubmitJobRequest& request) override {
    return Call<v1::SubmitJobResponse>(&v1::OperatorService::Stub::SubmitJob, request);
  }
  absl::StatusOr<v1::CancelJobResponse> CancelJob(const v1::CancelJobRequest& request) override {
    return Call<v1::CancelJobResponse>(&v1::OperatorService::Stub::CancelJob, request);
  }
  absl::StatusOr<v1::SuspendJobResponse> SuspendJob(const v1::SuspendJobRequest& request) override {
    return Call<v1::SuspendJobResponse>(&v1::OperatorService::Stub::SuspendJob, request);
  }
  absl::StatusOr<v1::ResumeJobResponse> ResumeJob(const v1::ResumeJobRequest& request) override {
    return Call<v1::ResumeJobResponse>(&v1::OperatorService::Stub::ResumeJob, request);
  }
  absl::StatusOr<v1::ExplainJobResponse> ExplainJob(const v1::ExplainJobRequest& request) override {
    return Call<v1::ExplainJobResponse>(&v1::OperatorService::Stub::ExplainJob, request);
  }
  absl::StatusOr<v1::DrainNodeResponse> DrainNode(const v1::DrainNodeRequest& request) override {
    return Call<v1::DrainNodeResponse>(&v1::OperatorService::Stub::DrainNode, request);
  }
  absl::StatusOr<v1::UndrainNodeResponse> UndrainNode(
      const v1::UndrainNodeRequest& request) override {
    return Call<v1::UndrainNodeResponse>(&v1::OperatorService::Stub::UndrainNode, request);
  }
  absl::StatusOr<v1::CordonNodeResponse> CordonNode(const v1::CordonNodeRequest& request) override {
    return Call<v1::CordonNodeResponse>(&v1::OperatorService::Stub::CordonNode, request);
  }
  absl::StatusOr<v1::PreflightNodeResponse> PreflightNode(
      const v1::PreflightNodeRequest& request) override {
    return Call<v1::PreflightNodeResponse>(&v1::OperatorService::Stub::PreflightNode, request);
  }
  absl::StatusOr<v1::JobStatus> GetJob(const v1::GetJobRequest& request) override {
    return Call<v1::JobStatus>(&v1::OperatorService::Stub::GetJob, request);
  }
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request) override {
    return Call<v1::ListJobsResponse>(&v1::OperatorService::Stub::ListJobs, request);
  }
  absl::StatusOr<v1::ListNodesResponse> ListNodes(const v1::ListNodesRequest& request) override {
    return Call<v1::ListNodesResponse>(&v1::OperatorService::Stub::ListNodes, request);
  }
  absl::StatusOr<v1::ListEventsResponse> ListEvents(const v1::ListEventsRequest& request) override {
    return Call<v1::ListEventsResponse>(&v1::OperatorService::Stub::ListEvents, request);
  }
  absl::StatusOr<v1::CoordinatorStatus> GetCoordinator() override {
    return Call<v1::CoordinatorStatus>(&v1::OperatorService::Stub::GetCoordinator,
                                       v1::GetCoordinatorRequest());
  }

  absl::Status WatchJob(const v1::GetJobRequest& request, absl::Duration limit,
                        const std::function<bool(const v1::JobStatus&)>& seen) override {
    grpc::ClientContext context;
    SetLimit(context, limit);
    auto reader = stub_->WatchJob(&context, request);
    v1::JobStatus status;
    bool wanted = true;
    while (wanted && reader->Read(&status)) wanted = seen(status);
    if (!wanted) context.TryCancel();
    const grpc::Status finished = reader->Finish();
    if (!wanted || finished.ok()) return absl::OkStatus();
    if (finished.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
      return absl::DeadlineExceededError("the time is up");
    }
    return ToStatus(finished);
  }

 private:
  template <typename Response, typename Method, typename Request>
  absl::StatusOr<Response> Call(Method method, const Request& request) {
    grpc::ClientContext context;
    SetLimit(context, kCallLimit);
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    if (!status.ok()) return ToStatus(status);
    return response;
  }

  static void SetLimit(grpc::ClientContext& context, absl::Duration limit) {
    if (limit == absl::InfiniteDuration()) return;
    context.set_deadline(
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                     gpr_time_from_micros(absl::ToInt64Microseconds(limit), GPR_TIMESPAN)));
  }

  absl::Status ToStatus(const grpc::Status& status) const {
    const auto code = static_cast<absl::StatusCode>(status.error_code());
    if (code == absl::StatusCode::kUnavailable) {
      return FromCoordinator(absl::UnavailableError(absl::StrCat(
          "the coordinator at ", address_, " can't be reached (", LastPart(status.error_message()),
          "); start one with fathomctl local up, or name it with --coordinator")));
    }
    if (code == absl::StatusCode::kDeadlineExceeded) {
      return FromCoordinator(absl::DeadlineExceededError(
          absl::StrCat("the coordinator at ", address_, " did not answer within ",
                       absl::FormatDuration(kCallLimit), "; is it overloaded or stopped?")));
    }
    if (code == absl::StatusCode::kUnimplemented) {
      return FromCoordinator(absl::UnavailableError(
          absl::StrCat("what listens at ", address_,
                       " is not a Fathom coordinator of this version; check --coordinator")));
    }
    return FromCoordinator(absl::Status(code, status.error_message()));
  }

  const std::string address_;
  const std::unique_ptr<v1::OperatorService::Stub> stub_;
};

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(
    const CoordinatorEndpoint& endpoint) {
  if (endpoint.ca_file.empty()) {
    if (endpoint.certificate_file.empty() && endpoint.key_file.empty()) {
      return grpc::InsecureChannelCredentials();
    }
    return absl::InvalidArgumentError(
        "--tls-certificate and --tls-key need --tls-ca, which says whom to trust");
  }
  grpc::SslCredentialsOptions options;
  FATHOM_ASSIGN_OR_RETURN(options.pem_root_certs, ReadFile(endpoint.ca_file, kPemBytesMax));
  if (!endpoint.certificate_file.empty()) {
    FATHOM_ASSIGN_OR_RETURN(options.pem_cert_chain,
                            ReadFile(endpoint.certificate_file, kPemBytesMax));
  }
  if (!endpoint.key_file.empty()) {
    FATHOM_ASSIGN_OR_RETURN(options.pem_private_key, ReadFile(endpoint.key_file, kPemBytesMax));
  }
  return grpc::SslCredentials(options);
}

}  // namespace

absl::StatusOr<std::unique_ptr<OperatorClient>> MakeOperatorClient(
    const CoordinatorEndpoint& endpoint) {
  auto address = ParseHostPort(endpoint.address);
  if (!address.ok()) return WithContext(address.status(), "--coordinator");
  FATHOM_ASSIGN_OR_RETURN(auto credentials, Credentials(endpoint));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(limits::kMaxGrpcMessageBytes);
  // A proxy for the outside world has no say in where the coordinator is.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return std::make_unique<GrpcOperatorClient>(
      endpoint.address, grpc::CreateCustomChannel(endpoint.address, credentials, arguments));
}

}  // namespace fathom::cli
