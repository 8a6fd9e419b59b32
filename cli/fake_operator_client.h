// A coordinator in memory, for tests: answers from what the test puts in, notes what it was asked.
#ifndef FATHOM_CLI_FAKE_OPERATOR_CLIENT_H_
#define FATHOM_CLI_FAKE_OPERATOR_CLIENT_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/exit_code.h"
#include "cli/operator_client.h"

namespace fathom::cli {

struct FakeCoordinator {
  std::vector<v1::JobStatus> jobs;  // oldest first
  std::vector<v1::NodeStatus> nodes;
  std::vector<v1::Event> events;
  absl::Status failure;                     // of every call
  absl::Status refusal;                     // of every call that changes something
  std::vector<v1::JobStatus> watched;       // what WatchJob shows
  absl::Status watch_end;                   // how it ends then
  std::function<void()> before_list_nodes;  // such as making nodes ready
  std::vector<v1::SubmitJobRequest> submitted;
  std::vector<v1::CancelJobRequest> cancelled;
  std::vector<v1::SuspendJobRequest> suspended;
  std::vector<v1::ResumeJobRequest> resumed;
  std::vector<v1::DrainNodeRequest> drained;
  std::vector<v1::UndrainNodeRequest> undrained;
  std::vector<v1::CordonNodeRequest> cordoned;
  std::vector<v1::PreflightNodeRequest> tested;
  v1::ExplainJobResponse explanation;  // of the one job that can be explained
  v1::DrainNodeResponse drain_answer;
  std::vector<std::string> addresses;  // connected to
};

class FakeOperatorClient final : public OperatorClient {
 public:
  explicit FakeOperatorClient(FakeCoordinator& coordinator) : coordinator_(coordinator) {}

  absl::StatusOr<v1::SubmitJobResponse> SubmitJob(const v1::SubmitJobRequest& request) override {
    if (!Allowed(coordinator_.refusal).ok()) return Allowed(coordinator_.refusal);
    coordinator_.submitted.push_back(request);
    v1::SubmitJobResponse response;
    response.set_name(request.job().metadata().name());
    response.set_id(response.name() + "-1");
    *response.mutable_job() = request.job();
    if (request.dry_run()) response.mutable_plan()->add_stages()->set_layer_count(3);
    return response;
  }
  absl::StatusOr<v1::CancelJobResponse> CancelJob(const v1::CancelJobRequest& request) override {
    if (!Allowed(coordinator_.refusal).ok()) return Allowed(coordinator_.refusal);
    coordinator_.cancelled.push_back(request);
    v1::CancelJobResponse response;
    response.set_state(v1::JOB_STATE_CANCELLED);
    return response;
  }
  absl::StatusOr<v1::SuspendJobResponse> SuspendJob(const v1::SuspendJobRequest& request) override {
    if (!Allowed(coordinator_.refusal).ok()) return Allowed(coordinator_.refusal);
    coordinator_.suspended.push_back(request);
    v1::SuspendJobResponse response;
    response.set_state(v1::JOB_STATE_RUNNING);
    response.set_note("suspended once its state is saved");
    return response;
  }
  absl::StatusOr<v1::ResumeJobResponse> ResumeJob(const v1::ResumeJobRequest& request) override {
    if (!Allowed(coordinator_.refusal).ok()) return Allowed(coordinator_.refusal);
    coordinator_.resumed.push_back(request);
    v1::ResumeJobResponse response;
    response.set_state(v1::JOB_STATE_PENDING);
    return response;
  }
  absl::StatusOr<v1::ExplainJobResponse> ExplainJob(const v1::ExplainJobRequest& request) override {
    if (!Allowed().ok()) return Allowed();
    if (request.name() == coordinator_.explanation.name() ||
        request.name() == coordinator_.explanation.id()) {
      return coordinator_.explanation;
    }
    return FromCoordinator(absl::NotFoundError(absl::StrCat("no job ", request.name())));
  }
  absl::StatusOr<v1::DrainNodeResponse> DrainNode(const v1::DrainNodeRequest& request) override {
    if (!Allowed(coordinator_.refusal).ok()) return Allowed(coordinator_.refusal);
    coordinator_.drained.push_back(request);
    return coordinator_.drain_answer;
  }
  absl::StatusOr<v1::UndrainNodeResponse> UndrainNode(
      const v1::UndrainNodeRequest& request) override {
    if (!Allowed(coordinator_.refusal).ok()) return Allowed(coordinator_.refusal);
    coordinator_.undrained.push_back(request);
    return v1::UndrainNodeResponse();
  }
  absl::StatusOr<v1::CordonNodeResponse> CordonNode(const v1::CordonNodeRequest& request) override {
    if (!Allowed(coordinator_.refusal).ok()) return Allowed(coordinator_.refusal);
    coordinator_.cordoned.push_back(request);
    return v1::CordonNodeResponse();
  }
  absl::StatusOr<v1::PreflightNodeResponse> PreflightNode(
      const v1::PreflightNodeRequest& request) override {
    if (!Allowed(coordinator_.refusal).ok()) return Allowed(coordinator_.refusal);
    coordinator_.tested.push_back(request);
    v1::PreflightNodeResponse response;
    response.set_id("p-7");
    return response;
  }
  absl::StatusOr<v1::JobStatus> GetJob(const v1::GetJobRequest& request) override {
    if (!Allowed().ok()) return Allowed();
    for (const v1::JobStatus& job : coordinator_.jobs) {
      if (job.name() == request.name() || job.id() == request.name()) return job;
    }
    return FromCoordinator(absl::NotFoundError(absl::StrCat("no job ", request.name())));
  }
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest&) override {
    if (!Allowed().ok()) return Allowed();
    v1::ListJobsResponse response;
    for (const v1::JobStatus& job : coordinator_.jobs) *response.add_jobs() = job;
    return response;
  }
  absl::StatusOr<v1::ListNodesResponse> ListNodes(const v1::ListNodesRequest&) override {
    if (coordinator_.before_list_nodes) coordinator_.before_list_nodes();
    if (!Allowed().ok()) return Allowed();
    v1::ListNodesResponse response;
    for (const v1::NodeStatus& node : coordinator_.nodes) *response.add_nodes() = node;
    return response;
  }
  absl::StatusOr<v1::ListEventsResponse> ListEvents(const v1::ListEventsRequest& request) override {
    if (!Allowed().ok()) return Allowed();
    v1::ListEventsResponse response;
    for (const v1::Event& event : coordinator_.events) {
      const bool wanted = (request.job().empty() || event.job() == request.job()) &&
                          (request.node().empty() || event.node() == request.node());
      if (wanted) *response.add_events() = event;
    }
    return response;
  }
  absl::StatusOr<v1::CoordinatorStatus> GetCoordinator() override {
    if (!Allowed().ok()) return Allowed();
    v1::CoordinatorStatus status;
    status.set_version("9.9");
    return status;
  }
  absl::Status WatchJob(const v1::GetJobRequest& request, absl::Duration,
                        const std::function<bool(const v1::JobStatus&)>& seen) override {
    if (!Allowed().ok()) return Allowed();
    if (coordinator_.watched.empty() && coordinator_.watch_end.ok()) {
      return FromCoordinator(absl::NotFoundError(absl::StrCat("no job ", request.name())));
    }
    // Each status is shown once, over however many watches.
    while (!coordinator_.watched.empty()) {
      const v1::JobStatus job = coordinator_.watched.front();
      coordinator_.watched.erase(coordinator_.watched.begin());
      if (job.name().empty()) return FromCoordinator(absl::UnavailableError("gone"));
      if (!seen(job)) return absl::OkStatus();
    }
    return coordinator_.watch_end;
  }

 private:
  absl::Status Allowed(const absl::Status& refusal = absl::OkStatus()) const {
    return FromCoordinator(coordinator_.failure.ok() ? refusal : coordinator_.failure);
  }

  FakeCoordinator& coordinator_;
};

}  // namespace fathom::cli

#endif  // FATHOM_CLI_FAKE_OPERATOR_CLIENT_H_
