// fathom-coordinator: takes jobs, plans them, and keeps them training.
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/real_clock.h"
#include "common/base/status_util.h"
#include "coordinator/service/coordinator_config.h"
#include "coordinator/service/coordinator_service.h"
#include "coordinator/service/planning.h"
#include "coordinator/store/sqlite_log.h"

namespace fathom {
namespace {

// Called before there are threads, so that none of them takes the signals.
sigset_t BlockSignals() {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

absl::Status RunCoordinator(const v1::CoordinatorConfig& config, const sigset_t& signals) {
  const RealClock clock;
  const auto say = [&clock](const std::string& line) {
    const std::string time =
        absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", clock.Wall(), absl::UTCTimeZone());
    std::fprintf(stderr, "%s %s\n", time.c_str(), line.c_str());
  };
  FATHOM_ASSIGN_OR_RETURN(const auto log, SqliteLog::Open(config.state_directory()));
  CoordinatorService::Options options;
  options.config = config;
  options.clock = &clock;
  options.log = log.get();
  FATHOM_ASSIGN_OR_RETURN(std::vector<v1::DeviceProfile> profiles, LoadProfiles(config));
  options.planning = RealPlanning(std::move(profiles));
  options.pid = ::getpid();
  options.say = say;
  FATHOM_ASSIGN_OR_RETURN(const auto service, CoordinatorService::Start(std::move(options)));
  std::printf("listening on %s\n", service->address().c_str());
  std::fflush(stdout);
  say(absl::StrCat("fathom-coordinator is up: state in ", config.state_directory(),
                   ", metrics at http://", service->metrics_address(), "/metrics"));
  int signal = 0;
  while (::sigwait(&signals, &signal) == EINTR) {
  }
  say(absl::StrCat("ends on ", signal == SIGTERM ? "SIGTERM" : "SIGINT"));
  service->Stop();
  return absl::OkStatus();
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  // What gRPC would print, this program says in its own words.
  ::setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  // The distribution's library looks for cycles at every lock, also at each of gRPC's.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const sigset_t signals = fathom::BlockSignals();
  const auto fail = [](const absl::Status& status, int code) {
    std::fprintf(stderr, "fathom-coordinator: %s\n", std::string(status.message()).c_str());
    return code;
  };
  const auto flags = fathom::ParseCoordinatorFlags(argc, argv);
  if (!flags.ok()) return fail(flags.status(), 2);
  if (!flags->has_value()) return 0;
  fathom::v1::CoordinatorConfig config = **flags;
  const absl::Status complete = fathom::CompleteCoordinatorConfig(&config);
  if (!complete.ok()) return fail(complete, 2);
  const absl::Status status = fathom::RunCoordinator(config, signals);
  return status.ok() ? 0 : fail(status, 1);
}
