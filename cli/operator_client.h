// The coordinator's operator service as plain calls. Failures carry the coordinator's address where
// it can't be reached, and are marked with FromCoordinator.
#ifndef FATHOM_CLI_OPERATOR_CLIENT_H_
#define FATHOM_CLI_OPERATOR_CLIENT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/fathom/v1/operator.pb.h"

namespace fathom::cli {

struct CoordinatorEndpoint {
  std::string address;  // host:port
  // PEM files. With a CA the connection is encrypted and the coordinator must be certified by it;
  // with certificate and key fathomctl shows its own.
  std::string ca_file;
  std::string certificate_file;
  std::string key_file;
};

class OperatorClient {
 public:
  virtual ~OperatorClient() = default;

  virtual absl::StatusOr<v1::SubmitJobResponse> SubmitJob(const v1::SubmitJobRequest& request) = 0;
  virtual absl::StatusOr<v1::CancelJobResponse> CancelJob(const v1::CancelJobRequest& request) = 0;
  virtual absl::StatusOr<v1::SuspendJobResponse> SuspendJob(
      const v1::SuspendJobRequest& request) = 0;
  virtual absl::StatusOr<v1::ResumeJobResponse> ResumeJob(const v1::ResumeJobRequest& request) = 0;
  virtual absl::StatusOr<v1::ExplainJobResponse> ExplainJob(
      const v1::ExplainJobRequest& request) = 0;
  virtual absl::StatusOr<v1::DrainNodeResponse> DrainNode(const v1::DrainNodeRequest& request) = 0;
  virtual absl::StatusOr<v1::UndrainNodeResponse> UndrainNode(
      const v1::UndrainNodeRequest& request) = 0;
  virtual absl::StatusOr<v1::CordonNodeResponse> CordonNode(
      const v1::CordonNodeRequest& request) = 0;
  virtual absl::StatusOr<v1::PreflightNodeResponse> PreflightNode(
      const v1::PreflightNodeRequest& request) = 0;
  virtual absl::StatusOr<v1::JobStatus> GetJob(const v1::GetJobRequest& request) = 0;
  virtual absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request) = 0;
  virtual absl::StatusOr<v1::ListNodesResponse> ListNodes(const v1::ListNodesRequest& request) = 0;
  virtual absl::StatusOr<v1::ListEventsResponse> ListEvents(
      const v1::ListEventsRequest& request) = 0;
  virtual absl::StatusOr<v1::CoordinatorStatus> GetCoordinator() = 0;

  // Calls `seen` with the job's status now and at every change, until it returns false (then OK),
  // the stream ends (OK), or `limit` has passed (DEADLINE_EXCEEDED, not marked).
  virtual absl::Status WatchJob(const v1::GetJobRequest& request, absl::Duration limit,
                                const std::function<bool(const v1::JobStatus&)>& seen) = 0;
};

// Connects when first used. INVALID_ARGUMENT: no host:port. Also ReadFile's codes for the PEM
// files.
absl::StatusOr<std::unique_ptr<OperatorClient>> MakeOperatorClient(
    const CoordinatorEndpoint& endpoint);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_OPERATOR_CLIENT_H_
