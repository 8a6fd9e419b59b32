#include "worker/health/preflight.h"

#include "common/health/preflight_verdict.h"
#include "worker/health/clock_check.h"
#include "worker/health/disk_check.h"
#include "worker/health/memory_check.h"

namespace fathom::health {

v1::PreflightReport RunPreflight(const PreflightOptions& options, const PreflightDevices& devices,
                                 const Clock* clock) {
  v1::PreflightReport report;
  report.set_id(options.request.id());
  report.set_started_ms(clock->WallMs());
  const auto add = [&report](const std::vector<v1::PreflightCheck>& checks) {
    for (const v1::PreflightCheck& check : checks) *report.add_checks() = check;
  };
  const ClockReading begin = ReadClock(*clock);
  add(CheckComputeRate(options.compute, devices.ops, clock));
  add(CheckComputeCorrectness(options.compute, devices.ops, devices.reference, clock));
  add({CheckMemory(options.memory_bytes, options.seed, clock)});
  if (!options.state_directory.empty()) {
    add(CheckDisk(options.state_directory, options.disk_bytes, options.seed, clock));
  }
  for (const v1::PreflightPeer& peer : options.request.peers()) {
    add(CheckLink(peer, options.link, clock));
  }
  add(CheckClock(begin, ReadClock(*clock), ReadClockSync()));
  const std::vector<v1::PreflightThreshold> thresholds(options.request.thresholds().begin(),
                                                       options.request.thresholds().end());
  ApplyThresholds(thresholds, &report);
  Judge(&report);
  report.set_finished_ms(clock->WallMs());
  return report;
}

}  // namespace fathom::health
