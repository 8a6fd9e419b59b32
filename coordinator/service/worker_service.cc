#include "coordinator/service/worker_service.h"

#include <google/protobuf/arena.h>
#include <grpcpp/grpcpp.h>

#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "coordinator/service/grpc_status_service.h"
#include "proto/fathom/v1/worker.grpc.pb.h"

namespace fathom {
namespace {

class Stream;

// Which node speaks over which stream.
class Streams {
 public:
  // The stream that spoke for the node before, if it was another.
  std::shared_ptr<Stream> Enter(const NodeName& node, const std::shared_ptr<Stream>& stream);
  // True if it was the node's stream.
  bool Leave(const NodeName& node, const Stream* stream);
  std::shared_ptr<Stream> Find(const NodeName& node) const;
  int size() const;

 private:
  mutable std::mutex mutex_;  // guards by_node_
  std::map<NodeName, std::shared_ptr<Stream>> by_node_;
};

// Whether a report of the same rank says no more than that another step may be done.
bool IsAsBefore(const v1::RankStatus& before, const v1::RankStatus& now) {
  return before.rank() == now.rank() && before.epoch() == now.epoch() &&
         before.state() == now.state() && before.job() == now.job() &&
         before.message().size() == now.message().size() && before.pid() == now.pid() &&
         before.held_step() == now.held_step() &&
         before.checkpoint().step() == now.checkpoint().step() &&
         before.validation().step() == now.validation().step() &&
         before.diagnosis().token() == now.diagnosis().token() &&
         before.timeline().first_step_ms() == now.timeline().first_step_ms() &&
         before.timeline().loaded_ms() == now.timeline().loaded_ms() &&
         before.timeline().connected_ms() == now.timeline().connected_ms();
}

// Whether a report may wait for others: the node goes on as it did.
bool IsAsBefore(const v1::NodeReport& before, const v1::NodeReport& now) {
  if (before.incarnation() != now.incarnation() || before.ranks_size() != now.ranks_size() ||
      before.desired_version() != now.desired_version() || before.spare() != now.spare() ||
      before.node().name() != now.node().name() ||
      before.preflight().finished_ms() != now.preflight().finished_ms() ||
      before.health().probed_ms() != now.health().probed_ms()) {
    return false;
  }
  for (int i = 0; i < now.ranks_size(); ++i) {
    if (!IsAsBefore(before.ranks(i), now.ranks(i))) return false;
  }
  return true;
}

void Unref(void* piece) { delete static_cast<SharedBytes*>(piece); }

// Large pieces are shared by the streams that send them; small ones are joined, as each would cost
// more than its bytes.
grpc::ByteBuffer ToBuffer(const std::vector<SharedBytes>& pieces) {
  constexpr size_t kJoinBelowBytes = 4096;
  std::vector<grpc::Slice> slices;
  std::string joined;
  const auto flush = [&] {
    if (!joined.empty()) slices.emplace_back(joined);
    joined.clear();
  };
  for (const SharedBytes& piece : pieces) {
    if (piece->size() < kJoinBelowBytes) {
      joined += *piece;
      continue;
    }
    flush();
    // The library only reads what it is given to send.
    slices.emplace_back(const_cast<char*>(piece->data()), piece->size(), &Unref,
                        new SharedBytes(piece));
  }
  flush();
  return grpc::ByteBuffer(slices.data(), slices.size());
}

// Lives from the call's begin until gRPC is done with it and no event refers to it any more.
// Messages are bytes here, so that a plan is serialized once for all nodes.
class Stream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  using SharedReport = std::shared_ptr<const v1::NodeReport>;

  static Stream* Begin(EventLoop* loop, Streams* streams) {
    std::shared_ptr<Stream> stream(new Stream(loop, streams));
    std::lock_guard lock(stream->mutex_);
    stream->self_ = stream;
    stream->Read();
    return stream.get();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::OkStatus());
    std::shared_ptr<Stream> self;
    SharedReport report;
    bool hurried = true;
    {
      const auto parsed = NewReport();
      if (!Parse(&incoming_, parsed.get())) {
        return End(absl::InvalidArgumentError("what came is no NodeReport"));
      }
      report = parsed;
    }
    {
      std::lock_guard lock(mutex_);
      self = self_;
      if (self == nullptr) return;
      reading_ = false;
      hurried = previous_ == nullptr || !IsAsBefore(*previous_, *report);
      previous_ = report;
      ++unhandled_;
      // A change must not wait behind a report that is in no hurry.
      if (!hurried && unhandled_ < limits::kMaxReportsPerStream && !end_) Read();
    }
    auto status = std::make_shared<absl::Status>();
    EventLoop::Decide decide = [report, status](CoordinatorCore& core, Moment now) {
      *status = core.Report(*report, now);
    };
    EventLoop::Done done = [self, report, status](const absl::Status&,
                                                  const CoordinatorCore& core) {
      self->AfterReport(*report, *status, core);
    };
    const bool posted = hurried
                            ? loop_->Post("report", std::move(decide), std::move(done))
                            : loop_->PostUnhurried("report", std::move(decide), std::move(done));
    if (!posted) {
      End(absl::UnavailableError("the coordinator is stopping or overloaded; connect again"));
    }
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok && !end_) end_ = absl::OkStatus();
    Advance();
  }

  void OnCancel() override { End(absl::CancelledError("the stream was cancelled")); }

  void OnDone() override {
    std::shared_ptr<Stream> last;  // this may die with it, after the lock
    NodeName node;
    int64_t incarnation = 0;
    {
      std::lock_guard lock(mutex_);
      last = std::move(self_);
      node = node_;
      incarnation = incarnation_;
    }
    if (node.empty() || !streams_->Leave(node, this)) return;
    loop_->Post(
        "stream_closed",
        [node, incarnation](CoordinatorCore& core, Moment now) {
          core.StreamClosed(node, incarnation, now);
        },
        nullptr);
  }

  void Send(const std::vector<SharedBytes>& desired) {
    std::lock_guard lock(mutex_);
    next_ = ToBuffer(desired);
    Advance();
  }

  void End(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    if (!end_) end_ = status;
    Advance();
  }

 private:
  Stream(EventLoop* loop, Streams* streams) : loop_(loop), streams_(streams) {}

  // The caller holds mutex_.
  void Read() {
    reading_ = true;
    StartRead(&incoming_);
  }

  // In one piece of memory, as it is made and dropped as a whole.
  static std::shared_ptr<v1::NodeReport> NewReport() {
    google::protobuf::ArenaOptions options;
    options.start_block_size = 4096;
    auto arena = std::make_shared<google::protobuf::Arena>(options);
    auto* report = google::protobuf::Arena::CreateMessage<v1::NodeReport>(arena.get());
    return {std::move(arena), report};
  }

  static bool Parse(grpc::ByteBuffer* bytes, v1::NodeReport* report) {
    return grpc::SerializationTraits<v1::NodeReport>::Deserialize(bytes, report).ok();
  }

  // On the loop's thread.
  void AfterReport(const v1::NodeReport& report, const absl::Status& status,
                   const CoordinatorCore& core) {
    if (!status.ok()) return End(status);
    const NodeName name(report.node().name());
    std::shared_ptr<Stream> older;
    bool is_first = false;
    {
      std::lock_guard lock(mutex_);
      if (self_ == nullptr) return;
      is_first = node_.empty();
      if (is_first) {
        node_ = name;
        older = streams_->Enter(node_, self_);
      }
      incarnation_ = report.incarnation();
    }
    if (older != nullptr) older->End(absl::AbortedError("the node has opened a newer stream"));
    if (is_first) {
      Send(core.DesiredPiecesFor(name));
    } else if (node_ != name) {
      return End(absl::InvalidArgumentError(
          absl::StrCat("a stream of node ", node_.value(), " reported for node ", name.value())));
    }
    std::lock_guard lock(mutex_);
    --unhandled_;
    if (!end_ && self_ != nullptr && !reading_) Read();
  }

  // One write at a time, the newest wins; the end waits for the write in progress.
  // The caller holds mutex_.
  void Advance() {
    if (writing_ || finished_ || self_ == nullptr) return;
    if (end_) {
      finished_ = true;
      Finish(ToGrpc(*end_));
    } else if (next_) {
      current_.Swap(&*next_);
      next_.reset();
      writing_ = true;
      StartWrite(&current_);
    }
  }

  EventLoop* const loop_;
  Streams* const streams_;
  std::mutex mutex_;  // guards what follows
  NodeName node_;     // written once, with mutex_, by the loop's thread, which may read it without
  int64_t incarnation_ = 0;
  grpc::ByteBuffer incoming_;  // the library's while reading_, then OnReadDone's
  bool reading_ = false;
  SharedReport previous_;
  int unhandled_ = 0;  // reports that the loop has yet to see
  std::optional<grpc::ByteBuffer> next_;
  grpc::ByteBuffer current_;  // the library's while writing_
  std::optional<absl::Status> end_;
  bool writing_ = false;
  bool finished_ = false;
  std::shared_ptr<Stream> self_;
};

std::shared_ptr<Stream> Streams::Enter(const NodeName& node,
                                       const std::shared_ptr<Stream>& stream) {
  std::lock_guard lock(mutex_);
  std::shared_ptr<Stream>& place = by_node_[node];
  std::shared_ptr<Stream> older = std::move(place);
  place = stream;
  return older;
}

bool Streams::Leave(const NodeName& node, const Stream* stream) {
  std::lock_guard lock(mutex_);
  const auto found = by_node_.find(node);
  if (found == by_node_.end() || found->second.get() != stream) return false;
  by_node_.erase(found);
  return true;
}

std::shared_ptr<Stream> Streams::Find(const NodeName& node) const {
  std::lock_guard lock(mutex_);
  const auto found = by_node_.find(node);
  return found == by_node_.end() ? nullptr : found->second;
}

int Streams::size() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(by_node_.size());
}

}  // namespace

using RawService = v1::WorkerService::WithRawCallbackMethod_Synchronize<v1::WorkerService::Service>;

class WorkerService::Impl final : public RawService {
 public:
  explicit Impl(EventLoop* loop) : loop_(loop) {
    loop->AddHook([this](const CoordinatorCore& core, const std::vector<NodeName>& changed) {
      for (const NodeName& node : changed) {
        if (const auto stream = streams_.Find(node)) stream->Send(core.DesiredPiecesFor(node));
      }
    });
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Synchronize(
      grpc::CallbackServerContext*) override {
    return Stream::Begin(loop_, &streams_);
  }

  const Streams& streams() const { return streams_; }

 private:
  EventLoop* const loop_;
  Streams streams_;
};

WorkerService::WorkerService(EventLoop* loop) : impl_(std::make_unique<Impl>(loop)) {}
WorkerService::~WorkerService() = default;
grpc::Service* WorkerService::service() { return impl_.get(); }
int WorkerService::stream_count() const { return impl_->streams().size(); }

}  // namespace fathom
