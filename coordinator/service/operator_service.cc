#include "coordinator/service/operator_service.h"

#include <grpcpp/grpcpp.h>

#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/checkpoint/manifest.h"
#include "coordinator/core/job_state.h"
#include "coordinator/service/grpc_status_service.h"
#include "proto/fathom/v1/operator.grpc.pb.h"

namespace fathom {
namespace {

absl::Status Overloaded() {
  return absl::UnavailableError("the coordinator is stopping or overloaded; try again");
}

// What a watcher would see change.
std::string SignatureOf(const CoordinatorCore& core, const DurableJob& job) {
  std::string text = absl::StrCat(NameOfState(job.state), " ", job.epoch, " ", job.restarts, " ",
                                  job.checkpoint.step(), " ", job.reason);
  absl::StrAppend(&text, "; ", core.WaitingReason(job.id));
  if (const Gang* gang = core.FindGang(job.id)) {
    absl::StrAppend(&text, "; ", gang->last_step().step(), " ", gang->validation().step());
  }
  return text;
}

// One WatchJob call. Only ever the newest status waits to be sent.
class Watch final : public grpc::ServerWriteReactor<v1::JobStatus> {
 public:
  explicit Watch(bool include_ranks) : include_ranks_(include_ranks) {}

  // Keeps this alive until OnDone, then calls `gone`.
  void Keep(std::shared_ptr<Watch> self, std::function<void(const std::shared_ptr<Watch>&)> gone) {
    std::lock_guard lock(mutex_);
    self_ = std::move(self);
    gone_ = std::move(gone);
  }

  // On the loop's thread: what follows is for this job.
  void Follow(const JobId& job) { job_ = job; }

  // On the loop's thread, after every commit.
  void Look(const CoordinatorCore& core) {
    if (job_.empty()) return;
    const auto job = core.state().Find(job_);
    if (job == nullptr) {
      return End(absl::NotFoundError("the job ended long ago and was forgotten"));
    }
    std::string signature = SignatureOf(core, *job);
    if (signature == signature_) return;
    signature_ = std::move(signature);
    v1::JobStatus status = core.StatusOf(*job, include_ranks_);
    std::lock_guard lock(mutex_);
    next_ = std::move(status);
    if (IsFinal(job->state) && !end_) end_ = absl::OkStatus();
    Advance();
  }

  void End(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    next_.reset();
    if (!end_) end_ = status;
    Advance();
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      next_.reset();
      end_ = absl::OkStatus();
    }
    Advance();
  }

  void OnCancel() override { End(absl::CancelledError("the call was cancelled")); }

  void OnDone() override {
    std::shared_ptr<Watch> last;
    std::function<void(const std::shared_ptr<Watch>&)> gone;
    {
      std::lock_guard lock(mutex_);
      last = std::move(self_);
      gone = std::move(gone_);
    }
    gone(last);
  }

 private:
  // What is known goes out before the end does.
  // The caller holds mutex_.
  void Advance() {
    if (writing_ || finished_ || self_ == nullptr) return;
    if (next_) {
      current_ = *std::move(next_);
      next_.reset();
      // The plan is large, and changes only with the epoch.
      if (current_.epoch() == sent_epoch_) current_.clear_plan();
      sent_epoch_ = current_.has_plan() ? current_.epoch() : sent_epoch_;
      writing_ = true;
      StartWrite(&current_);
    } else if (end_) {
      finished_ = true;
      Finish(ToGrpc(*end_));
    }
  }

  const bool include_ranks_;
  // Only on the loop's thread.
  JobId job_;
  std::string signature_;

  std::mutex mutex_;  // guards what follows
  std::optional<v1::JobStatus> next_;
  v1::JobStatus current_;
  std::optional<absl::Status> end_;
  uint64_t sent_epoch_ = 0;
  bool writing_ = false;
  bool finished_ = false;
  std::shared_ptr<Watch> self_;
  std::function<void(const std::shared_ptr<Watch>&)> gone_;
};

// The checkpoint that a job is to begin from must be there before the job is accepted.
absl::StatusOr<v1::ResumePoint> ResumePointOf(const v1::Job& job) {
  v1::ResumePoint point;
  const std::string& path = job.spec().checkpoint().resume_from();
  if (path.empty()) return point;
  const auto manifest = checkpoint::ReadManifest(path);
  if (!manifest.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("spec.checkpoint.resume_from: ", path, ": ", manifest.status().message()));
  }
  point.set_manifest(path);
  point.set_step(manifest->step());
  return point;
}

}  // namespace

class OperatorService::Impl final : public v1::OperatorService::CallbackService {
 public:
  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Impl(EventLoop* loop, std::function<v1::CoordinatorStatus()> about)
      : loop_(loop), about_(std::move(about)) {
    loop->AddHook([this](const CoordinatorCore& core, const std::vector<NodeName>&) {
      for (const auto& watch : Watches()) watch->Look(core);
    });
  }

  Reactor* SubmitJob(Context* context, const v1::SubmitJobRequest* request,
                     v1::SubmitJobResponse* response) override {
    const absl::StatusOr<v1::ResumePoint> resume = ResumePointOf(request->job());
    if (!resume.ok()) return Refuse(context, resume.status());
    return Command<v1::SubmitJobResponse>(
        context, "submit", response, [request, point = *resume](CoordinatorCore& core, Moment now) {
          return core.Submit(*request, point, now);
        });
  }

  Reactor* CancelJob(Context* context, const v1::CancelJobRequest* request,
                     v1::CancelJobResponse* response) override {
    return Command<v1::CancelJobResponse>(
        context, "cancel", response,
        [request](CoordinatorCore& core, Moment now) { return core.Cancel(*request, now); });
  }

  Reactor* SuspendJob(Context* context, const v1::SuspendJobRequest* request,
                      v1::SuspendJobResponse* response) override {
    return Command<v1::SuspendJobResponse>(
        context, "suspend", response,
        [request](CoordinatorCore& core, Moment now) { return core.Suspend(*request, now); });
  }

  Reactor* ResumeJob(Context* context, const v1::ResumeJobRequest* request,
                     v1::ResumeJobResponse* response) override {
    return Command<v1::ResumeJobResponse>(
        context, "resume", response,
        [request](CoordinatorCore& core, Moment now) { return core.ResumeJob(*request, now); });
  }

  Reactor* DrainNode(Context* context, const v1::DrainNodeRequest* request,
                     v1::DrainNodeResponse* response) override {
    return Command<v1::DrainNodeResponse>(
        context, "drain", response,
        [request](CoordinatorCore& core, Moment now) { return core.Drain(*request, now); });
  }

  Reactor* UndrainNode(Context* context, const v1::UndrainNodeRequest* request,
                       v1::UndrainNodeResponse* response) override {
    return Command<v1::UndrainNodeResponse>(
        context, "undrain", response,
        [request](CoordinatorCore& core, Moment now) { return core.Undrain(*request, now); });
  }

  Reactor* CordonNode(Context* context, const v1::CordonNodeRequest* request,
                      v1::CordonNodeResponse* response) override {
    return Command<v1::CordonNodeResponse>(
        context, "cordon", response,
        [request](CoordinatorCore& core, Moment now) { return core.Cordon(*request, now); });
  }

  Reactor* PreflightNode(Context* context, const v1::PreflightNodeRequest* request,
                         v1::PreflightNodeResponse* response) override {
    return Command<v1::PreflightNodeResponse>(
        context, "preflight", response,
        [request](CoordinatorCore& core, Moment now) { return core.Preflight(*request, now); });
  }

  Reactor* ExplainJob(Context* context, const v1::ExplainJobRequest* request,
                      v1::ExplainJobResponse* response) override {
    return Query(context, [request, response](const CoordinatorCore& core) {
      absl::StatusOr<v1::ExplainJobResponse> explanation = core.Explain(*request);
      if (!explanation.ok()) return explanation.status();
      *response = *std::move(explanation);
      return absl::OkStatus();
    });
  }

  Reactor* GetJob(Context* context, const v1::GetJobRequest* request,
                  v1::JobStatus* response) override {
    return Query(context, [request, response](const CoordinatorCore& core) {
      absl::StatusOr<v1::JobStatus> status = core.GetJob(*request);
      if (!status.ok()) return status.status();
      *response = *std::move(status);
      return absl::OkStatus();
    });
  }

  Reactor* ListJobs(Context* context, const v1::ListJobsRequest* request,
                    v1::ListJobsResponse* response) override {
    return Query(context, [request, response](const CoordinatorCore& core) {
      *response = core.ListJobs(*request);
      return absl::OkStatus();
    });
  }

  Reactor* ListNodes(Context* context, const v1::ListNodesRequest*,
                     v1::ListNodesResponse* response) override {
    return Query(context, [response](const CoordinatorCore& core) {
      *response = core.ListNodes();
      return absl::OkStatus();
    });
  }

  Reactor* ListEvents(Context* context, const v1::ListEventsRequest* request,
                      v1::ListEventsResponse* response) override {
    return Query(context, [request, response](const CoordinatorCore& core) {
      *response = core.ListEvents(*request);
      return absl::OkStatus();
    });
  }

  Reactor* GetCoordinator(Context* context, const v1::GetCoordinatorRequest*,
                          v1::CoordinatorStatus* response) override {
    return Query(context, [this, response](const CoordinatorCore& core) {
      *response = about_();
      response->set_jobs(static_cast<int64_t>(core.state().jobs().size()));
      response->set_nodes(static_cast<int64_t>(core.nodes().nodes().size()));
      return absl::OkStatus();
    });
  }

  grpc::ServerWriteReactor<v1::JobStatus>* WatchJob(Context*,
                                                    const v1::GetJobRequest* request) override {
    auto watch = std::make_shared<Watch>(request->include_ranks());
    watch->Keep(watch, [this](const std::shared_ptr<Watch>& gone) {
      std::lock_guard lock(mutex_);
      watches_.erase(gone);
    });
    {
      std::lock_guard lock(mutex_);
      if (watches_.size() >= limits::kMaxWatchers) {
        watch->End(absl::ResourceExhaustedError(
            absl::StrCat(limits::kMaxWatchers, " watchers already; poll with GetJob")));
        return watch.get();
      }
      watches_.insert(watch);
    }
    const bool posted = loop_->Post(
        "query", nullptr,
        [watch, name = request->name()](const absl::Status&, const CoordinatorCore& core) {
          v1::GetJobRequest get;
          get.set_name(name);
          const auto job = core.state().FindByNameOrId(name);
          if (job == nullptr) return watch->End(core.GetJob(get).status());
          watch->Follow(job->id);
          watch->Look(core);
        });
    if (!posted) watch->End(Overloaded());
    return watch.get();
  }

 private:
  static Reactor* Refuse(Context* context, const absl::Status& status) {
    Reactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  // Answered once durable.
  template <typename Response>
  Reactor* Command(Context* context, const std::string& kind, Response* response,
                   std::function<absl::StatusOr<Response>(CoordinatorCore&, Moment)> decide) {
    Reactor* reactor = context->DefaultReactor();
    auto result = std::make_shared<absl::StatusOr<Response>>(absl::UnknownError(""));
    const bool posted = loop_->Post(
        kind,
        [result, decide = std::move(decide)](CoordinatorCore& core, Moment now) {
          *result = decide(core, now);
        },
        [result, reactor, response](const absl::Status& durable, const CoordinatorCore&) {
          if (!durable.ok()) return reactor->Finish(ToGrpc(durable));
          if (result->ok()) *response = **result;
          reactor->Finish(ToGrpc(result->status()));
        });
    if (!posted) reactor->Finish(ToGrpc(Overloaded()));
    return reactor;
  }

  Reactor* Query(Context* context, std::function<absl::Status(const CoordinatorCore&)> answer) {
    Reactor* reactor = context->DefaultReactor();
    const bool posted = loop_->Post(
        "query", nullptr,
        [reactor, answer = std::move(answer)](const absl::Status&, const CoordinatorCore& core) {
          reactor->Finish(ToGrpc(answer(core)));
        });
    if (!posted) reactor->Finish(ToGrpc(Overloaded()));
    return reactor;
  }

  std::set<std::shared_ptr<Watch>> Watches() {
    std::lock_guard lock(mutex_);
    return watches_;
  }

  EventLoop* const loop_;
  const std::function<v1::CoordinatorStatus()> about_;
  std::mutex mutex_;  // guards watches_
  std::set<std::shared_ptr<Watch>> watches_;
};

OperatorService::OperatorService(EventLoop* loop, std::function<v1::CoordinatorStatus()> about)
    : impl_(std::make_unique<Impl>(loop, std::move(about))) {}
OperatorService::~OperatorService() = default;
grpc::Service* OperatorService::service() { return impl_.get(); }

}  // namespace fathom
