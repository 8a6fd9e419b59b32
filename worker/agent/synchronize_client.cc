#include "worker/agent/synchronize_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/atomic_file.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "proto/fathom/v1/worker.grpc.pb.h"
#include "worker/agent/backoff.h"

namespace fathom {
namespace {

using Stream = grpc::ClientReaderWriter<v1::NodeReport, v1::DesiredState>;

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const v1::Tls* tls) {
  if (tls == nullptr) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  const std::pair<const std::string&, std::string*> files[] = {
      {tls->ca_file(), &options.pem_root_certs},
      {tls->certificate_file(), &options.pem_cert_chain},
      {tls->key_file(), &options.pem_private_key}};
  for (const auto& [path, content] : files) {
    if (path.empty()) continue;
    FATHOM_ASSIGN_OR_RETURN(*content, ReadFile(path, limits::kMaxConfigBytes));
  }
  return grpc::SslCredentials(options);
}

constexpr int kConnectTimeoutMs = 5000;
// Of a wait for the channel before a stream is tried on it all the same, for the error it then
// gives; and how often the wish to stop is looked at meanwhile.
constexpr int kConnectWaitMs = 2000;
constexpr int kStopCheckMs = 50;

grpc::ChannelArguments Arguments(const SynchronizeOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(limits::kMaxGrpcMessageBytes);
  arguments.SetMaxSendMessageSize(limits::kMaxGrpcMessageBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, limits::kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, limits::kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // a silent stream stays watched
  // The waits between tries are chosen here, so the library's own shall not add to them.
  const int wait_ms = static_cast<int>(absl::ToInt64Milliseconds(options.shortest_wait));
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, wait_ms);
  // By this name the library means the time that one try may take, TLS handshake included.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, wait_ms);
  return arguments;
}

class GrpcSynchronizeClient final : public SynchronizeClient {
 public:
  GrpcSynchronizeClient(SynchronizeOptions options, std::shared_ptr<grpc::Channel> channel)
      : options_(std::move(options)),
        channel_(std::move(channel)),
        stub_(v1::WorkerService::NewStub(channel_)),
        backoff_(options_.shortest_wait, options_.longest_wait, options_.seed),
        thread_([this] { Run(); }) {}

  ~GrpcSynchronizeClient() override { Stop(absl::ZeroDuration()); }

  void Report(const v1::NodeReport& report, bool urgent) override {
    absl::MutexLock lock(&mutex_);
    report_ = report;
    ++report_number_;
    if (urgent) urgent_number_ = report_number_;
  }

  void Stop(absl::Duration patience) override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
      // Without a coordinator there is nobody to wait for.
      const auto over = [this] { return done_ || !answered_; };
      mutex_.AwaitWithTimeout(absl::Condition(&over), patience);
      if (context_ != nullptr) context_->TryCancel();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  // --- The client's thread ---

  void Run() {
    AwaitFirstReport();
    while (!Stopping()) {
      const StreamEnd end = RunStream();
      if (Stopping()) break;
      if (end.had_answered) backoff_.Reset();
      const absl::Duration wait = backoff_.Next();
      Explain(end, wait);
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_), wait);
    }
    absl::MutexLock lock(&mutex_);
    done_ = true;
  }

  void AwaitFirstReport() {
    absl::MutexLock lock(&mutex_);
    const auto ready = [this] { return report_number_ > 0 || stopping_; };
    mutex_.Await(absl::Condition(&ready));
  }

  bool Stopping() {
    absl::MutexLock lock(&mutex_);
    return stopping_;
  }

  struct StreamEnd {
    grpc::Status status;
    bool had_answered;
  };

  // The library's tries to connect, TLS handshakes above all, go on only while somebody waits for
  // them; a stream that fails at once doesn't.
  void AwaitConnection() {
    for (int waited_ms = 0; waited_ms < kConnectWaitMs && !Stopping(); waited_ms += kStopCheckMs) {
      if (channel_->WaitForConnected(gpr_time_from_millis(kStopCheckMs, GPR_TIMESPAN))) return;
    }
  }

  // One stream from its opening to its end.
  StreamEnd RunStream() {
    AwaitConnection();
    grpc::ClientContext context;
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return {grpc::Status::CANCELLED, false};
      context_ = &context;
      broken_ = false;
      answered_ = false;
      sent_number_ = 0;
    }
    const std::unique_ptr<Stream> stream = stub_->Synchronize(&context);
    std::thread reader([this, &stream] { ReadAll(stream.get()); });
    WriteReports(stream.get());
    stream->WritesDone();
    reader.join();
    const grpc::Status status = stream->Finish();
    absl::MutexLock lock(&mutex_);
    context_ = nullptr;
    return {status, std::exchange(answered_, false)};
  }

  void WriteReports(Stream* stream) {
    bool first = true;
    for (;;) {
      v1::NodeReport report;
      uint64_t number;
      {
        absl::MutexLock lock(&mutex_);
        if (!first) AwaitSomethingToSend();
        if (broken_ || (stopping_ && sent_number_ == report_number_)) return;
        report = report_;
        number = report_number_;
        heartbeat_changed_ = false;
      }
      first = false;
      if (!stream->Write(report)) return;
      options_.on_report_sent();
      absl::MutexLock lock(&mutex_);
      sent_number_ = number;
    }
  }

  // Until a report should go out: at once when an urgent one waits, soon when there is a newer one,
  // and after the heartbeat anyway. Or until the stream is to end.
  void AwaitSomethingToSend() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::Duration calm = std::min(kProgressInterval, heartbeat_);
    const absl::Duration rest = heartbeat_ - calm;
    const auto at_once = [this] {
      return broken_ || stopping_ || heartbeat_changed_ || urgent_number_ > sent_number_;
    };
    const auto soon = [this] {
      return broken_ || stopping_ || heartbeat_changed_ || report_number_ > sent_number_;
    };
    if (mutex_.AwaitWithTimeout(absl::Condition(&at_once), calm)) return;
    mutex_.AwaitWithTimeout(absl::Condition(&soon), rest);
  }

  // --- The stream's reader thread ---

  void ReadAll(Stream* stream) {
    v1::DesiredState desired;
    bool first = true;
    while (stream->Read(&desired)) {
      TakeHeartbeat(desired.heartbeat_ms());
      if (std::exchange(first, false)) {
        options_.log(
            absl::StrCat("connected to the coordinator at ", options_.coordinator_address));
        options_.on_stream(true);
      }
      options_.on_desired(desired);
    }
    absl::MutexLock lock(&mutex_);
    broken_ = true;
  }

  void TakeHeartbeat(int32_t asked_ms) {
    const int32_t ms = asked_ms == 0
                           ? limits::kDefaultHeartbeatMs
                           : std::clamp(asked_ms, limits::kMinHeartbeatMs, limits::kMaxLeaseMs);
    absl::MutexLock lock(&mutex_);
    answered_ = true;
    if (heartbeat_ != absl::Milliseconds(ms)) heartbeat_changed_ = true;
    heartbeat_ = absl::Milliseconds(ms);
  }

  // --- The client's thread, between streams ---

  void Explain(const StreamEnd& end, absl::Duration wait) {
    if (end.had_answered) options_.on_stream(false);
    const bool superseded = end.status.error_code() == grpc::StatusCode::FAILED_PRECONDITION;
    if (superseded) options_.on_desired(v1::DesiredState());
    silent_for_ += wait;
    // The same trouble again is worth a line only once in a while.
    const bool same = !end.had_answered && end.status.error_code() == explained_;
    if (same && silent_for_ < kLogInterval) return;
    explained_ = end.status.error_code();
    silent_for_ = absl::ZeroDuration();
    options_.log(absl::StrCat(superseded         ? "refused by the coordinator at "
                              : end.had_answered ? "lost the coordinator at "
                                                 : "no coordinator at ",
                              options_.coordinator_address, ": ",
                              end.status.ok() ? "it closed the stream" : end.status.error_message(),
                              superseded ? "; stopping all ranks" : "; ranks go on",
                              "; trying again"));
  }

  const SynchronizeOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::WorkerService::Stub> stub_;

  absl::Mutex mutex_;
  // Guarded by mutex_. Numbers count reports; 0: none yet, or none on this stream.
  v1::NodeReport report_;
  uint64_t report_number_ = 0;
  uint64_t urgent_number_ = 0;
  uint64_t sent_number_ = 0;
  absl::Duration heartbeat_ = absl::Milliseconds(limits::kDefaultHeartbeatMs);
  bool heartbeat_changed_ = false;
  bool answered_ = false;  // by the coordinator, on this stream
  bool broken_ = false;    // nothing more will be read from this stream
  bool stopping_ = false;
  bool done_ = false;
  grpc::ClientContext* context_ = nullptr;  // of this stream

  // Only the client's thread.
  Backoff backoff_;
  grpc::StatusCode explained_ = grpc::StatusCode::OK;  // by the last line of log
  absl::Duration silent_for_;                          // since then

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace

absl::StatusOr<std::unique_ptr<SynchronizeClient>> SynchronizeClient::Create(
    SynchronizeOptions options) {
  FATHOM_ASSIGN_OR_RETURN(std::shared_ptr<grpc::ChannelCredentials> credentials,
                          Credentials(options.tls));
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(options.coordinator_address, credentials, Arguments(options));
  return std::make_unique<GrpcSynchronizeClient>(std::move(options), std::move(channel));
}

}  // namespace fathom
