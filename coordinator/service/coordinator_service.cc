#include "coordinator/service/coordinator_service.h"

#include <grpcpp/grpcpp.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/atomic_file.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/metric_catalog.h"
#include "common/base/status_util.h"
#include "common/base/version.h"
#include "common/metrics/metrics_http.h"
#include "coordinator/service/core_metrics.h"
#include "coordinator/service/event_loop.h"
#include "coordinator/service/operator_service.h"
#include "coordinator/service/worker_service.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;

// Streams end by themselves only with the process; they are given this long to end in order.
constexpr absl::Duration kStopGrace = absl::Milliseconds(500);

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> CredentialsOf(
    const v1::CoordinatorConfig& config) {
  if (config.tls().certificate_file().empty()) return grpc::InsecureServerCredentials();
  FATHOM_ASSIGN_OR_RETURN(const std::string certificate,
                          ReadFile(config.tls().certificate_file(), limits::kMaxConfigBytes));
  FATHOM_ASSIGN_OR_RETURN(const std::string key,
                          ReadFile(config.tls().key_file(), limits::kMaxConfigBytes));
  grpc::SslServerCredentialsOptions options;
  if (!config.tls().ca_file().empty()) {
    FATHOM_ASSIGN_OR_RETURN(options.pem_root_certs,
                            ReadFile(config.tls().ca_file(), limits::kMaxConfigBytes));
    options.client_certificate_request = GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  }
  options.pem_key_cert_pairs.push_back({key, certificate});
  return grpc::SslServerCredentials(options);
}

void SetLimits(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(limits::kMaxGrpcMessageBytes);
  builder->SetMaxSendMessageSize(limits::kMaxGrpcMessageBytes);
  // Two coordinators on one port would each get half of the calls.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Messages are small and far apart: probing the bandwidth would cost a ping for each.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, limits::kKeepaliveMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, limits::kKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              limits::kKeepaliveMs / 2);
}

}  // namespace

class CoordinatorService::Impl {
 public:
  explicit Impl(Options options)
      : options_(std::move(options)),
        core_metrics_(&registry_),
        http_(&registry_, [this] { RefreshMetrics(); }) {}
  ~Impl() { Stop(); }

  absl::Status Start() {
    FATHOM_ASSIGN_OR_RETURN(loop_, EventLoop::Create(LoopOptions()));
    started_ms_ = options_.clock->WallMs();
    registry_.Set(metrics::kBuildInfo, {"fathom-coordinator", kFathomVersion}, 1);
    registry_.Set(metrics::kStartTime, static_cast<double>(started_ms_) / 1000);
    operators_ = std::make_unique<OperatorService>(loop_.get(), [this] { return About(); });
    workers_ = std::make_unique<WorkerService>(loop_.get());
    http_.Handle("/sd", [this](const HttpRequest&) { return Discovery(); });
    // First of all, as every request waits for it.
    loop_->Start();
    FATHOM_RETURN_IF_ERROR(http_.Start(options_.config.metrics_address()));
    FATHOM_RETURN_IF_ERROR(Listen());
    return Announce();
  }

  void Stop() {
    if (server_ != nullptr) {
      server_->Shutdown(absl::ToChronoTime(options_.clock->Wall() + kStopGrace));
    }
    http_.Stop();
    if (loop_ != nullptr) loop_->Stop();
    server_.reset();
  }

  const std::string& address() const { return address_; }
  const std::string& metrics_address() const { return http_.address(); }

 private:
  EventLoop::Options LoopOptions() {
    EventLoop::Options loop;
    loop.clock = options_.clock;
    loop.log = options_.log;
    loop.metrics = &registry_;
    loop.say = options_.say;
    loop.core.heartbeat_ms = options_.config.heartbeat_ms();
    loop.core.lease_ms = options_.config.lease_ms();
    loop.core.checkpoint_root = absl::StrCat(options_.config.state_directory(), "/checkpoints");
    loop.core.planning = options_.planning;
    loop.core.detectors = options_.config.detectors();
    loop.core.quotas = {options_.config.quotas().begin(), options_.config.quotas().end()};
    loop.core.require_preflight =
        !options_.config.has_require_preflight() || options_.config.require_preflight();
    return loop;
  }

  absl::Status Listen() {
    FATHOM_ASSIGN_OR_RETURN(HostPort wanted, ParseHostPort(options_.config.listen_address()));
    FATHOM_ASSIGN_OR_RETURN(const auto credentials, CredentialsOf(options_.config));
    grpc::ServerBuilder builder;
    SetLimits(&builder);
    int port = 0;
    builder.AddListeningPort(ToString(wanted), credentials, &port);
    builder.RegisterService(operators_->service());
    builder.RegisterService(workers_->service());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return absl::UnavailableError(absl::StrCat(
          "cannot listen on ", options_.config.listen_address(),
          ": another program may listen there, the host may not be one of this machine's, or the "
          "TLS "
          "files may be no certificate and key; choose another --listen-address (port 0: any free "
          "one)"));
    }
    wanted.port = port;
    address_ = ToString(wanted);
    return absl::OkStatus();
  }

  // For whoever started this program and wants to know where it listens.
  absl::Status Announce() {
    const Json json = {
        {"address", address_}, {"metrics_address", http_.address()}, {"pid", options_.pid}};
    return WriteFileAtomically(options_.config.state_directory() + "/coordinator.json",
                               json.dump(2) + "\n");
  }

  v1::CoordinatorStatus About() const {
    v1::CoordinatorStatus about;
    about.set_version(kFathomVersion);
    about.set_pid(options_.pid);
    about.set_started_ms(started_ms_);
    about.set_metrics_address(http_.address());
    about.set_state_directory(options_.config.state_directory());
    return about;
  }

  void RefreshMetrics() {
    registry_.Set(metrics::kPendingEvents, loop_->pending());
    registry_.Set(metrics::kSynchronizeStreams, workers_->stream_count());
    const absl::Status asked = loop_->Ask(
        [this](const CoordinatorCore& core, Moment now) { core_metrics_.Export(core, now); });
    if (!asked.ok()) options_.say(absl::StrCat("metrics are not fresh: ", asked.message()));
  }

  // Prometheus' http_sd format.
  HttpReply Discovery() {
    Json targets = Json::array();
    targets.push_back({{"targets", {http_.address()}}, {"labels", {{"program", "coordinator"}}}});
    const absl::Status asked = loop_->Ask([&](const CoordinatorCore& core, Moment) {
      for (const auto& [name, entry] : core.nodes().nodes()) {
        const std::string& address = entry.report.node().metrics_address();
        if (address.empty()) continue;
        targets.push_back(
            {{"targets", {address}}, {"labels", {{"program", "worker"}, {"node", name.value()}}}});
      }
    });
    if (!asked.ok()) return {503, std::string(asked.message())};
    return {200, targets.dump(-1, ' ', false, Json::error_handler_t::replace), "application/json"};
  }

  const Options options_;
  MetricRegistry registry_;
  CoreMetrics core_metrics_;
  MetricsHttp http_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<OperatorService> operators_;
  std::unique_ptr<WorkerService> workers_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  int64_t started_ms_ = 0;
};

CoordinatorService::CoordinatorService(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CoordinatorService::~CoordinatorService() = default;

absl::StatusOr<std::unique_ptr<CoordinatorService>> CoordinatorService::Start(Options options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  FATHOM_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<CoordinatorService>(new CoordinatorService(std::move(impl)));
}

void CoordinatorService::Stop() { impl_->Stop(); }
const std::string& CoordinatorService::address() const { return impl_->address(); }
const std::string& CoordinatorService::metrics_address() const { return impl_->metrics_address(); }

}  // namespace fathom
