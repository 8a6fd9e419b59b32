#include "worker/health/preflight_flags.h"

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "worker/health/preflight_arguments.h"

namespace fathom::health {
namespace {

constexpr int64_t kMaxMegabytes = 1 << 20;

absl::Status TakeRequest(const std::vector<std::string>& peers,
                         const std::vector<std::string>& thresholds,
                         v1::PreflightRequest* request) {
  for (const std::string& text : peers) {
    FATHOM_ASSIGN_OR_RETURN(*request->add_peers(), ParsePeer(text));
  }
  for (const std::string& text : thresholds) {
    FATHOM_ASSIGN_OR_RETURN(*request->add_thresholds(), ParseThreshold(text));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<PreflightFlags>> ParsePreflightFlags(int argc,
                                                                  const char* const* argv) {
  CLI::App app(
      "fathom-preflight: whether this node may serve. Measures and checks compute, memory, disk,\n"
      "clock and links, and prints a PreflightReport as JSON. Exits with 0 when all passed, 1 "
      "when\n"
      "not, 2 on a wrong option. The node's daemon runs it; it may be run by hand at any time.");
  PreflightFlags flags;
  std::string id = "manual";
  std::vector<std::string> peers;
  std::vector<std::string> thresholds;
  int64_t memory_mb = flags.preflight.memory_bytes >> 20;
  int64_t disk_mb = flags.preflight.disk_bytes >> 20;
  int64_t link_mb = flags.preflight.link.bandwidth_bytes >> 20;
  app.add_option("--id", id, "the report's id; default: manual");
  app.add_option("--devices", flags.preflight.compute.devices, "devices to measure; default 1")
      ->check(CLI::Range(1, limits::kMaxDevicesPerNode));
  app.add_option("--state-directory", flags.preflight.state_directory,
                 "folder whose disk is checked; default: none");
  app.add_option("--peer", peers, "NODE=HOST:PORT of an echo service to measure the link to");
  app.add_option("--threshold", thresholds, "CHECK<=NUMBER or CHECK>=NUMBER that must hold");
  app.add_option("--memory-mb", memory_mb, "memory to test; default 64")
      ->check(CLI::Range(int64_t{1}, kMaxMegabytes));
  app.add_option("--disk-mb", disk_mb, "bytes to write to the disk; default 8")
      ->check(CLI::Range(int64_t{1}, kMaxMegabytes));
  app.add_option("--link-mb", link_mb, "bytes to send to each peer; default 32")
      ->check(CLI::Range(int64_t{1}, int64_t{1024}));
  app.add_option("--seed", flags.preflight.seed, "of all test data; default 1");
  app.add_flag("--signals", flags.signals,
               "instead print what NVML, sysfs and the kernel log say, as a NodeHealth");
  app.add_option("--kernel-log-after", flags.probe.log_after,
                 "with --signals: number of the newest record that is known already");
  app.add_option("--system-root", flags.probe.root,
                 "with --signals: folder that sys and dev are looked for in; default /");
  app.add_option("--nvml-library", flags.probe.nvml_library,
                 "with --signals: default libnvidia-ml.so.1");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    app.exit(help);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  PreflightOptions& preflight = flags.preflight;
  preflight.request.set_id(id);
  preflight.memory_bytes = memory_mb << 20;
  preflight.disk_bytes = disk_mb << 20;
  preflight.link.bandwidth_bytes = link_mb << 20;
  preflight.compute.seed = preflight.seed;
  if (flags.probe.root.empty() || flags.probe.root.back() != '/') flags.probe.root += '/';
  flags.probe.state_directory = preflight.state_directory;
  FATHOM_RETURN_IF_ERROR(TakeRequest(peers, thresholds, &preflight.request));
  return flags;
}

}  // namespace fathom::health
