#include "worker/health/health_monitor.h"

#include <google/protobuf/util/json_util.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "worker/health/preflight_arguments.h"

namespace fathom::health {
namespace {

constexpr char kStartId[] = "start";
constexpr size_t kMaxErrorBytes = 512;

absl::Status ParseJson(const std::string& json, google::protobuf::Message* message) {
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  const auto status = google::protobuf::util::JsonStringToMessage(json, message, options);
  if (status.ok()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("what it printed is no ", message->GetTypeName(), ": ",
                                          CutText(std::string(status.message()), kMaxErrorBytes)));
}

void Raise(const UniqueFd& event) {
  const uint64_t one = 1;
  // Full means that it is raised already.
  [[maybe_unused]] const ssize_t ignored = ::write(event.get(), &one, sizeof(one));
}

}  // namespace

absl::StatusOr<std::unique_ptr<HealthMonitor>> HealthMonitor::Start(HealthMonitorOptions options) {
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.ok() || !stop.ok()) return ErrnoStatus(errno, "create", "an eventfd");
  std::unique_ptr<HealthMonitor> monitor(
      new HealthMonitor(std::move(options), std::move(wake), std::move(stop)));
  v1::PreflightRequest request;
  request.set_id(kStartId);
  monitor->Request(request);
  monitor->thread_ = std::thread([raw = monitor.get()] { raw->Run(); });
  return monitor;
}

HealthMonitor::HealthMonitor(HealthMonitorOptions options, UniqueFd wake, UniqueFd stop)
    : options_(std::move(options)),
      wake_(std::move(wake)),
      stop_(std::move(stop)),
      children_(options_.clock) {}

HealthMonitor::~HealthMonitor() {
  Raise(stop_);
  if (thread_.joinable()) thread_.join();
}

void HealthMonitor::Request(const v1::PreflightRequest& request) {
  {
    absl::MutexLock lock(&mutex_);
    if (request.id() == newest_id_) return;
    newest_id_ = request.id();
    request_ = request;
  }
  Raise(wake_);
}

std::optional<v1::PreflightRequest> HealthMonitor::TakeRequest() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(request_, std::nullopt);
}

void HealthMonitor::Run() {
  absl::Duration next_probe = options_.clock->Steady();
  while (!Stopping()) {
    if (const auto request = TakeRequest()) {
      RunPreflight(*request);
    } else if (options_.clock->Steady() >= next_probe) {
      RunProbe();
      next_probe = options_.clock->Steady() + options_.probe_interval;
    } else {
      AwaitWake(next_probe);
    }
  }
}

bool HealthMonitor::Stopping() const {
  pollfd polled{stop_.get(), POLLIN, 0};
  return ::poll(&polled, 1, 0) == 1;
}

void HealthMonitor::AwaitWake(absl::Duration until) {
  const absl::Duration left = until - options_.clock->Steady();
  const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)));
  pollfd polled[] = {{wake_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  ::poll(polled, 2, static_cast<int>(std::clamp<int64_t>(ms, 0, 1 << 30)));
  uint64_t wakes;
  [[maybe_unused]] const ssize_t ignored = ::read(wake_.get(), &wakes, sizeof(wakes));
}

absl::StatusOr<std::string> HealthMonitor::RunChild(const std::vector<std::string>& arguments,
                                                    absl::Duration time) {
  std::vector<std::string> all = arguments;
  all.push_back(absl::StrCat("--state-directory=", options_.state_directory));
  all.insert(all.end(), options_.extra_arguments.begin(), options_.extra_arguments.end());
  ChildRunOptions run;
  run.time = time;
  run.cancel_fd = stop_.get();
  return children_.Run(options_.preflight_binary, all, run);
}

void HealthMonitor::RunPreflight(const v1::PreflightRequest& request) {
  const int64_t started_ms = options_.clock->WallMs();
  const absl::Duration before = options_.clock->Steady();
  std::vector<std::string> arguments = ArgumentsOf(request);
  arguments.push_back(absl::StrCat("--devices=", options_.devices));
  const absl::StatusOr<std::string> output = RunChild(arguments, options_.preflight_time);
  if (absl::IsCancelled(output.status())) return;
  v1::PreflightReport report;
  const absl::Status status = output.ok() ? ParseJson(*output, &report) : output.status();
  if (!status.ok()) {
    report.Clear();
    report.set_verdict(absl::StrCat("could not be checked: ", status.message()));
    report.set_started_ms(started_ms);
    report.set_finished_ms(options_.clock->WallMs());
  }
  report.set_id(request.id());
  if (report.passed()) history_.Forgive();
  options_.on_preflight(report, options_.clock->Steady() - before);
}

void HealthMonitor::RunProbe() {
  const absl::StatusOr<std::string> output =
      RunChild({"--signals", absl::StrCat("--system-root=", options_.system_root),
                absl::StrCat("--kernel-log-after=", history_.log_sequence())},
               options_.probe_time);
  if (absl::IsCancelled(output.status())) return;
  v1::NodeHealth probe;
  const absl::Status status = output.ok() ? ParseJson(*output, &probe) : output.status();
  const int64_t now_ms = options_.clock->WallMs();
  options_.on_health(status.ok()
                         ? history_.Update(probe, now_ms)
                         : history_.Failed(CutText(status.message(), kMaxErrorBytes), now_ms));
}

}  // namespace fathom::health
