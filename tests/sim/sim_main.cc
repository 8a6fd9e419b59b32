// fathom-sim: runs seeds of the simulation, or shows one.
//
//   fathom-sim --seeds 1..1000 [--jobs N]   until the first violation; exit code 1 with its seed
//   fathom-sim --verbose 42                 one seed, every event a line
//   fathom-sim --bug 3 --seeds 1..2000      with a planted bug (common/base/planted.h)
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/base/planted.h"
#include "common/base/real_clock.h"
#include "tests/sim/simulation.h"

namespace fathom::sim {
namespace {

constexpr int kUsage = 2;

volatile uint64_t running_seed = 0;

// A broken CHECK ends the process: say which seed did it.
void OnAbort(int) {
  char text[64];
  const int bytes = std::snprintf(text, sizeof(text), "seed %llu: the process aborted\n",
                                  static_cast<unsigned long long>(running_seed));
  [[maybe_unused]] const ssize_t ignored = ::write(2, text, static_cast<size_t>(bytes));
}

int Show(uint64_t seed) {
  running_seed = seed;
  const RunResult result = Simulation(MakeScenario(seed), true).Run();
  std::printf("seed %llu: %s; trace %016llx, %lld events, %.1f s\n",
              static_cast<unsigned long long>(seed),
              result.violation.empty() ? "all held" : result.violation.c_str(),
              static_cast<unsigned long long>(result.trace_hash),
              static_cast<long long>(result.events), static_cast<double>(result.virtual_us) / 1e6);
  return result.violation.empty() ? 0 : 1;
}

// Every `step`th seed from `first` to `last`. `all`: goes on after a violation.
int RunSeeds(uint64_t first, uint64_t last, uint64_t step, bool all) {
  const RealClock clock;
  const absl::Duration begin = clock.Steady();
  int64_t seeds = 0;
  int64_t events = 0;
  int64_t virtual_us = 0;
  int64_t violations = 0;
  for (uint64_t seed = first; seed <= last; seed += step) {
    running_seed = seed;
    const RunResult result = Simulation(MakeScenario(seed), false).Run();
    ++seeds;
    events += result.events;
    virtual_us += result.virtual_us;
    if (result.violation.empty()) continue;
    ++violations;
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed), result.violation.c_str());
    if (!all) return 1;
  }
  const double took_s = absl::ToDoubleSeconds(clock.Steady() - begin);
  std::printf("%lld seeds in %.1f s: %.0f per second, %.0f events and %.0f virtual seconds each\n",
              static_cast<long long>(seeds), took_s, static_cast<double>(seeds) / took_s,
              static_cast<double>(events) / static_cast<double>(seeds),
              static_cast<double>(virtual_us) / 1e6 / static_cast<double>(seeds));
  return violations == 0 ? 0 : 1;
}

int RunProcesses(uint64_t first, uint64_t last, int processes, bool all) {
  if (processes == 1) return RunSeeds(first, last, 1, all);
  std::vector<pid_t> children;
  for (int i = 0; i < processes; ++i) {
    std::fflush(stdout);
    const pid_t child = ::fork();
    if (child == 0) {
      const int code =
          RunSeeds(first + static_cast<uint64_t>(i), last, static_cast<uint64_t>(processes), all);
      std::fflush(stdout);
      std::_Exit(code);
    }
    children.push_back(child);
  }
  int worst = 0;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) worst = 1;
  }
  return worst;
}

int Main(int argc, char** argv) {
  std::signal(SIGABRT, OnAbort);
  uint64_t first = 1;
  uint64_t last = 1000;
  int bug = 0;
  int processes = 1;
  bool all = false;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    uint64_t seed = 0;
    if (flag == "--all") {
      all = true;
      continue;
    }
    ++i;
    if (flag == "--bug" && absl::SimpleAtoi(value, &bug) && bug >= 0 &&
        static_cast<size_t>(bug) <= std::size(planted::kAll)) {
      planted::active = static_cast<planted::Bug>(bug);
      continue;
    }
    if (flag == "--verbose" && absl::SimpleAtoi(value, &seed)) return Show(seed);
    if (flag == "--jobs" && absl::SimpleAtoi(value, &processes) && processes > 0) continue;
    const std::vector<std::string> range = absl::StrSplit(value, "..");
    const bool good = flag == "--seeds" && range.size() == 2 &&
                      absl::SimpleAtoi(range[0], &first) && absl::SimpleAtoi(range[1], &last) &&
                      first <= last;
    if (good) continue;
    std::fprintf(stderr,
                 "usage: fathom-sim [--bug NUMBER] [--seeds A..B] [--jobs PROCESSES] [--all]\n"
                 "       fathom-sim [--bug NUMBER] --verbose SEED\n");
    return kUsage;
  }
  return RunProcesses(first, last, processes, all);
}

}  // namespace
}  // namespace fathom::sim

int main(int argc, char** argv) { return fathom::sim::Main(argc, argv); }
