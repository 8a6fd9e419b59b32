// fathom-profile: measures this machine's CPU ranks and writes the device profile by which the
// planner predicts steps on them.
//
// `fathomctl profile` runs it, and fits what several ranks do to each other.
//
//   fathom-profile -o cpu-profile.yaml [--precision fp32]... [--rounds N]
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/atomic_file.h"
#include "common/base/config_loader.h"
#include "common/base/real_clock.h"
#include "common/base/status_util.h"
#include "worker/calibration/profile_run.h"

namespace {

constexpr int kExitUsage = 2;

std::string ProcessorName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (absl::StartsWith(line, "model name") && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown processor";
}

struct Arguments {
  std::string output;
  fathom::calibration::ProfileOptions options;
};

bool Parse(int argc, char** argv, Arguments* out) {
  for (int i = 1; i < argc; ++i) {
    const absl::string_view flag = argv[i];
    if (i + 1 == argc) return false;
    const std::string value = argv[++i];
    if (flag == "-o") {
      out->output = value;
    } else if (flag == "--precision") {
      out->options.precisions.push_back(value);
    } else if (flag != "--rounds" || !absl::SimpleAtoi(value, &out->options.rounds) ||
               out->options.rounds < 1) {
      return false;
    }
  }
  return !out->output.empty();
}

absl::Status Run(Arguments arguments) {
  const fathom::RealClock clock;
  fathom::calibration::ProfileOptions& options = arguments.options;
  char scratch[] = "/tmp/fathom-profile-XXXXXX";
  if (mkdtemp(scratch) == nullptr) return absl::UnavailableError("no folder in /tmp");
  options.scratch_folder = scratch;
  options.cores = static_cast<int>(std::thread::hardware_concurrency());
  options.memory_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  options.machine = absl::StrCat(ProcessorName(), ", ", options.cores, " cores");
  const auto profiled =
      fathom::calibration::RunProfile(options, &clock, [](absl::string_view next) {
        std::fprintf(stderr, "profiling: %.*s\n", static_cast<int>(next.size()), next.data());
      });
  std::error_code ignored;  // what is left in /tmp is the system's to clean
  std::filesystem::remove_all(scratch, ignored);
  FATHOM_RETURN_IF_ERROR(profiled.status());
  FATHOM_RETURN_IF_ERROR(
      fathom::WriteFileAtomically(arguments.output, fathom::ToYaml(profiled->profile)));
  std::fputs(fathom::calibration::SummaryOf(*profiled).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  if (!Parse(argc, argv, &arguments)) {
    std::fprintf(stderr, "usage: fathom-profile -o FILE [--precision NAME]... [--rounds N]\n");
    return kExitUsage;
  }
  const absl::Status status = Run(std::move(arguments));
  if (status.ok()) return 0;
  std::fprintf(stderr, "fathom-profile: %s\n", status.ToString().c_str());
  return 1;
}
