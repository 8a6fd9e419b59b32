#include "tests/bench/fleet/fleet_client.h"

#include <google/protobuf/arena.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "proto/fathom/v1/operator.grpc.pb.h"
#include "proto/fathom/v1/worker.grpc.pb.h"

namespace fathom::fleet {
namespace {

constexpr absl::Duration kStep = absl::Milliseconds(50);
constexpr absl::Duration kShortestSleep = absl::Milliseconds(2);

absl::Status ToStatus(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

std::shared_ptr<grpc::Channel> OwnConnection(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetMaxReceiveMessageSize(limits::kMaxGrpcMessageBytes);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void SetLimit(grpc::ClientContext* context, absl::Duration limit) {
  context->set_deadline(
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                   gpr_time_from_micros(absl::ToInt64Microseconds(limit), GPR_TIMESPAN)));
}

class Call;

// A node, and the call that speaks for it now.
struct Slot {
  Slot(NodeShape shape, bool finish_at_once) : node(std::move(shape), finish_at_once) {}

  std::mutex mutex;  // guards what follows
  SimulatedNode node;
  Call* call = nullptr;
  std::set<std::pair<std::string, uint64_t>> seen;  // jobs and epochs that arrived
};

// What all calls share: the time, and what arrived.
class Board {
 public:
  explicit Board(const Clock* clock) : clock_(clock), start_(clock->Steady()) {}

  absl::Duration Now() const { return clock_->Steady(); }
  int64_t NowMs() const { return clock_->WallMs(); }
  int64_t Step() const { return 1 + (Now() - start_) / kStep; }

  void Note(const std::string& job, const Arrival& arrival) {
    std::lock_guard lock(mutex_);
    arrivals_[job].push_back(arrival);
  }
  void Changed() {
    // Taken so that nobody falls asleep between looking and waiting.
    { std::lock_guard lock(mutex_); }
    changed_.notify_all();
  }
  std::vector<Arrival> Take(const std::string& job) {
    std::lock_guard lock(mutex_);
    return std::exchange(arrivals_[job], {});
  }
  bool Await(const std::function<bool()>& done, absl::Duration limit) {
    const absl::Duration end = Now() + limit;
    while (!done()) {
      const absl::Duration left = end - Now();
      if (left <= absl::ZeroDuration()) return false;
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, absl::ToChronoNanoseconds(std::min(left, absl::Milliseconds(20))));
    }
    return true;
  }
  void CountReport() {
    std::lock_guard lock(mutex_);
    ++reports_;
  }
  int64_t reports() const {
    std::lock_guard lock(mutex_);
    return reports_;
  }

 private:
  const Clock* const clock_;
  const absl::Duration start_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<std::string, std::vector<Arrival>> arrivals_;
  int64_t reports_ = 0;
};

// Answers come as bytes, so that when they came is known before what they say: the nodes share few
// processors here to read them.
using SynchronizeStub = grpc::TemplatedGenericStub<v1::NodeReport, grpc::ByteBuffer>;
constexpr char kSynchronize[] = "/fathom.v1.WorkerService/Synchronize";

// One Synchronize call. Deletes itself when gRPC is done with it.
class Call final : public grpc::ClientBidiReactor<v1::NodeReport, grpc::ByteBuffer> {
 public:
  Call(Slot* slot, int number, Board* board) : slot_(slot), number_(number), board_(board) {}

  // The caller holds the slot's mutex.
  void Begin(SynchronizeStub* stub) {
    stub->PrepareBidiStreamingCall(&context_, kSynchronize, {}, this);
    AddHold();  // as reports are sent from outside of reactions
    StartRead(&bytes_);
    Send();
    StartCall();
  }

  // The caller holds the slot's mutex.
  void Send() {
    if (ended_ || cancelled_) return;
    if (writing_) {
      again_ = true;
      return;
    }
    writing_ = true;
    report_ = slot_->node.Report(board_->Step(), board_->NowMs());
    again_ = slot_->node.wants_report();
    board_->CountReport();
    StartWrite(&report_);
  }

  // The caller holds the slot's mutex.
  void Cancel() {
    cancelled_ = true;
    context_.TryCancel();
  }

  void OnReadDone(bool ok) override {
    const absl::Duration arrived = board_->Now();
    google::protobuf::Arena arena;
    auto* desired = google::protobuf::Arena::CreateMessage<v1::DesiredState>(&arena);
    ok = ok && grpc::SerializationTraits<v1::DesiredState>::Deserialize(&bytes_, desired).ok();
    {
      std::lock_guard lock(slot_->mutex);
      if (!ok) {
        ended_ = true;
      } else if (!cancelled_) {
        NoteArrivals(*desired, arrived);
        if (slot_->node.Obey(*desired, board_->Step(), board_->NowMs())) Send();
      }
    }
    board_->Changed();
    if (ok) {
      StartRead(&bytes_);
    } else {
      RemoveHold();
    }
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(slot_->mutex);
    writing_ = false;
    if (ok && again_) Send();
  }

  void OnDone(const grpc::Status&) override {
    {
      std::lock_guard lock(slot_->mutex);
      if (slot_->call == this) slot_->call = nullptr;
    }
    board_->Changed();
    delete this;
  }

 private:
  void NoteArrivals(const v1::DesiredState& desired, absl::Duration arrived) {
    for (const v1::DesiredJob& job : desired.jobs()) {
      if (job.hold()) continue;
      const std::string& name = job.plan().job();
      const bool had_job = slot_->node.HasJob(name);
      if (!slot_->seen.emplace(name, job.plan().epoch()).second) continue;
      board_->Note(name, {number_, job.plan().epoch(), had_job, arrived});
    }
  }

  Slot* const slot_;
  const int number_;
  Board* const board_;
  grpc::ClientContext context_;
  grpc::ByteBuffer bytes_;  // gRPC's but in OnReadDone
  v1::NodeReport report_;   // gRPC's while writing_
  // Guarded by the slot's mutex.
  bool writing_ = false;
  bool again_ = false;
  bool ended_ = false;
  bool cancelled_ = false;
};

template <typename Response, typename Method, typename Request>
absl::StatusOr<Response> Ask(v1::OperatorService::Stub* stub, Method method,
                             const Request& request) {
  grpc::ClientContext context;
  SetLimit(&context, absl::Seconds(60));
  Response response;
  const grpc::Status status = (stub->*method)(&context, request, &response);
  if (!status.ok()) return ToStatus(status);
  return response;
}

// Submits all, as fast as `may_go` lets it.
class Submitter {
 public:
  Submitter(v1::OperatorService::Stub* stub, const std::vector<v1::SubmitJobRequest>& requests)
      : stub_(stub), requests_(requests), answers_(requests.size()) {}

  // `may_go`: how many more may be submitted, of which so many were already.
  absl::Status Run(const std::function<int64_t(int64_t)>& may_go) {
    size_t next = 0;
    while (next < requests_.size() && Failure().ok()) {
      for (int64_t left = may_go(static_cast<int64_t>(next)); left > 0 && next < requests_.size();
           --left) {
        StartOne(next++);
      }
      std::unique_lock lock(mutex_);
      done_.wait_for(lock, std::chrono::milliseconds(1));
    }
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return under_way_ == 0; });
    return failure_;
  }

 private:
  absl::Status Failure() {
    std::lock_guard lock(mutex_);
    return failure_;
  }

  void StartOne(size_t number) {
    {
      std::lock_guard lock(mutex_);
      ++under_way_;
    }
    auto context = std::make_shared<grpc::ClientContext>();
    stub_->async()->SubmitJob(context.get(), &requests_[number], &answers_[number],
                              [this, context](const grpc::Status& status) {
                                std::lock_guard lock(mutex_);
                                --under_way_;
                                if (!status.ok()) failure_ = ToStatus(status);
                                done_.notify_one();
                              });
  }

  v1::OperatorService::Stub* const stub_;
  const std::vector<v1::SubmitJobRequest>& requests_;
  std::vector<v1::SubmitJobResponse> answers_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable done_;
  int under_way_ = 0;
  absl::Status failure_;
};

}  // namespace

class FleetClient::Impl {
 public:
  explicit Impl(FleetOptions options)
      : options_(std::move(options)),
        board_(options_.clock),
        operators_(v1::OperatorService::NewStub(OwnConnection(options_.address))) {
    for (size_t i = 0; i < options_.nodes.size(); ++i) {
      if (i % static_cast<size_t>(options_.nodes_per_channel) == 0) {
        stubs_.push_back(std::make_unique<SynchronizeStub>(OwnConnection(options_.address)));
      }
      slots_.push_back(std::make_unique<Slot>(options_.nodes[i], options_.finish_at_once));
    }
    for (int i = 0; i < size(); ++i) Connect(i);
    heart_ = std::thread([this] { Beat(); });
  }

  ~Impl() {
    {
      std::lock_guard lock(stop_mutex_);
      stopping_ = true;
    }
    stop_.notify_one();
    heart_.join();
    for (const auto& slot : slots_) {
      std::lock_guard lock(slot->mutex);
      if (slot->call != nullptr) slot->call->Cancel();
    }
    board_.Await(
        [this] {
          return std::all_of(slots_.begin(), slots_.end(), [](const auto& slot) {
            std::lock_guard lock(slot->mutex);
            return slot->call == nullptr;
          });
        },
        absl::InfiniteDuration());
  }

  int size() const { return static_cast<int>(slots_.size()); }
  Board& board() { return board_; }
  v1::OperatorService::Stub* operators() { return operators_.get(); }

  void Connect(int number) {
    Slot& slot = At(number);
    std::lock_guard lock(slot.mutex);
    slot.call = new Call(&slot, number, &board_);  // deletes itself
    const auto channel = static_cast<size_t>(number / options_.nodes_per_channel);
    slot.call->Begin(stubs_[channel].get());
  }

  void Kill(int number) {
    Slot& slot = At(number);
    std::lock_guard lock(slot.mutex);
    if (slot.call != nullptr) slot.call->Cancel();
  }

  void Revive(int number) {
    Slot& slot = At(number);
    board_.Await(
        [&] {
          std::lock_guard lock(slot.mutex);
          return slot.call == nullptr;
        },
        absl::Seconds(10));
    {
      std::lock_guard lock(slot.mutex);
      slot.node.Restart();
      slot.seen.clear();
    }
    Connect(number);
  }

  Slot& At(int number) { return *slots_[static_cast<size_t>(number)]; }

 private:
  // Spread evenly over the heartbeat, as by chance.
  void Beat() {
    const absl::Duration gap = options_.heartbeat / size();
    absl::Duration due = board_.Now();
    int next = 0;
    while (true) {
      {
        std::unique_lock lock(stop_mutex_);
        const absl::Duration wait = std::max(due - board_.Now(), kShortestSleep);
        stop_.wait_for(lock, absl::ToChronoNanoseconds(wait), [this] { return stopping_; });
        if (stopping_) return;
      }
      for (; due <= board_.Now(); due += gap) {
        Slot& slot = At(next);
        next = (next + 1) % size();
        std::lock_guard lock(slot.mutex);
        if (slot.call != nullptr) slot.call->Send();
      }
    }
  }

  const FleetOptions options_;
  Board board_;
  const std::unique_ptr<v1::OperatorService::Stub> operators_;
  std::vector<std::unique_ptr<SynchronizeStub>> stubs_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::mutex stop_mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;  // guarded by stop_mutex_
  std::thread heart_;
};

FleetClient::FleetClient(FleetOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}
FleetClient::~FleetClient() = default;

int FleetClient::size() const { return impl_->size(); }
void FleetClient::Kill(int node) { impl_->Kill(node); }
void FleetClient::Revive(int node) { impl_->Revive(node); }

void FleetClient::Blame(const std::vector<int>& nodes, int lost) {
  const std::string name = impl_->At(lost).node.name();
  for (const int number : nodes) {
    Slot& slot = impl_->At(number);
    std::lock_guard lock(slot.mutex);
    slot.node.Blame(name, impl_->board().NowMs());
    if (slot.call != nullptr) slot.call->Send();
  }
}

bool FleetClient::FailRank(int node) {
  Slot& slot = impl_->At(node);
  std::lock_guard lock(slot.mutex);
  const bool failed = slot.node.FailRank();
  if (failed && slot.call != nullptr) slot.call->Send();
  return failed;
}

std::vector<Arrival> FleetClient::Arrivals(const std::string& job) {
  return impl_->board().Take(job);
}

int FleetClient::TrainingNodes(const std::string& job, uint64_t epoch) {
  int count = 0;
  for (int i = 0; i < size(); ++i) {
    Slot& slot = impl_->At(i);
    std::lock_guard lock(slot.mutex);
    if (slot.call != nullptr && slot.node.HasJob(job) && slot.node.TrainingEpoch(job) >= epoch) {
      ++count;
    }
  }
  return count;
}

std::vector<int> FleetClient::NodesOf(const std::string& job) {
  std::vector<int> nodes;
  for (int i = 0; i < size(); ++i) {
    Slot& slot = impl_->At(i);
    std::lock_guard lock(slot.mutex);
    if (slot.call != nullptr && slot.node.HasJob(job)) nodes.push_back(i);
  }
  return nodes;
}

bool FleetClient::Await(const std::function<bool()>& done, absl::Duration limit) {
  return impl_->board().Await(done, limit);
}

int64_t FleetClient::reports() const { return impl_->board().reports(); }

absl::StatusOr<v1::SubmitJobResponse> FleetClient::Submit(const v1::SubmitJobRequest& request) {
  return Ask<v1::SubmitJobResponse>(impl_->operators(), &v1::OperatorService::Stub::SubmitJob,
                                    request);
}

absl::StatusOr<v1::JobStatus> FleetClient::GetJob(const std::string& job) {
  v1::GetJobRequest request;
  request.set_name(job);
  return Ask<v1::JobStatus>(impl_->operators(), &v1::OperatorService::Stub::GetJob, request);
}

absl::StatusOr<int64_t> FleetClient::CountJobs() {
  auto status = Ask<v1::CoordinatorStatus>(
      impl_->operators(), &v1::OperatorService::Stub::GetCoordinator, v1::GetCoordinatorRequest());
  if (!status.ok()) return status.status();
  return status->jobs();
}

int64_t FleetClient::EndedJobs() {
  int64_t ended = 0;
  for (int i = 0; i < size(); ++i) {
    Slot& slot = impl_->At(i);
    std::lock_guard lock(slot.mutex);
    ended += slot.node.ended_jobs();
  }
  return ended;
}

absl::Status FleetClient::SubmitMany(const std::vector<v1::SubmitJobRequest>& requests,
                                     int64_t unfinished) {
  const int64_t before = EndedJobs();
  return Submitter(impl_->operators(), requests).Run([&](int64_t submitted) {
    return unfinished - (submitted - (EndedJobs() - before));
  });
}

absl::StatusOr<int64_t> FleetClient::CountUnfinished() {
  v1::ListJobsRequest request;
  for (const v1::JobState state :
       {v1::JOB_STATE_PENDING, v1::JOB_STATE_PLANNING, v1::JOB_STATE_STARTING,
        v1::JOB_STATE_RUNNING, v1::JOB_STATE_RECOVERING, v1::JOB_STATE_SUSPENDED}) {
    request.add_states(state);
  }
  auto jobs =
      Ask<v1::ListJobsResponse>(impl_->operators(), &v1::OperatorService::Stub::ListJobs, request);
  if (!jobs.ok()) return jobs.status();
  return jobs->jobs_size();
}

absl::StatusOr<int64_t> AwaitAnswer(const std::string& address, absl::Duration limit) {
  const auto stub = v1::OperatorService::NewStub(OwnConnection(address));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  SetLimit(&context, limit);
  v1::CoordinatorStatus response;
  const grpc::Status status =
      stub->GetCoordinator(&context, v1::GetCoordinatorRequest(), &response);
  if (!status.ok()) return ToStatus(status);
  return response.jobs();
}

}  // namespace fathom::fleet
